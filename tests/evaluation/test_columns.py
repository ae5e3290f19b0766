"""An evaluation as a table: a row per point, with the figures of that point."""

import pandas
import pytest

import circuitkit
from circuitkit.evaluation import POINT_COLUMNS, Evaluation


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    model = circuitkit.CircuitModel.from_pretrained("toy")
    circuit = circuitkit.discover(model, "ioi", "eap", examples=8).circuit.top(40)
    return circuitkit.evaluate(model, circuit, "ioi", examples=8, objective="kl")


def test_a_row_has_the_figures_of_its_point(evaluation: Evaluation) -> None:
    frame = evaluation.to_pandas()
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == dict(POINT_COLUMNS)
    assert len(frame) == len(evaluation.points)
    assert frame["cpr"].notna().any()
    for (_, row), point in zip(frame.iterrows(), evaluation.points, strict=True):
        assert (row["split"], row["objective"], row["prompts"]) == ("test", "kl", 8)
        assert (row["ranking"], row["fraction"]) == (point.ranking, point.fraction)
        assert (row["edges_asked"], row["edges"]) == (point.edges_asked, point.edges)
        areas = evaluation.areas.get(point.ranking)
        figures = {
            "faithfulness": point.measures["kl"].faithfulness,
            "kl_faithfulness": point.measures["kl"].faithfulness,
            "kl": point.measures["kl"].value,
            "logit_difference_faithfulness": point.measures["logit_difference"].faithfulness,
            "accuracy_circuit": point.measures["accuracy"].value,
            "accuracy_model": evaluation.full["accuracy"],
            "cpr": areas.cpr if areas else (None, None, None),
            "cmd": areas.cmd if areas else (None, None, None),
        }
        for name, figure in figures.items():
            found = [None if pandas.isna(row[name + end]) else row[name + end] for end in ("", "_low", "_high")]
            assert found == list(figure), name
        for name, objective in (
            ("logit_difference", point.measures["logit_difference"].value),
            ("logit_difference_model", evaluation.full["logit_difference"]),
        ):
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (
                -objective.value,
                -objective.high,
                -objective.low,
            )
        assert (row["value"], row["full"]) == (point.value, evaluation.full["kl"].value)
        assert row["ablated"] == evaluation.ablated["kl"].value
