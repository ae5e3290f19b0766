"""A result as a table, and the one figure that people ask for first."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.evaluation.columns import INTEGER, POINT_COLUMNS, TEXT, make_frame
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.intervals import Figure
from circuitkit.report.estimate import Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

RESULT_COLUMNS: Mapping[str, str] = {"circuit": INTEGER, "operating_point": TEXT, **POINT_COLUMNS}
"""Columns of a result's table, and their types: those of evaluations, and the circuit's number, from 1."""


def operating_point(circuit: Circuit, config: Mapping[str, Any]) -> str:
    """Say how a circuit was selected: by the faithfulness that a run was asked for, or by its strategy's rule."""
    wanted = config.get("faithfulness")
    return circuit.selection if wanted is None else f"faithfulness {wanted:g}"


def result_table(
    circuits: Sequence[Circuit], evaluations: Mapping[str, Sequence[Evaluation]], config: Mapping[str, Any]
) -> "DataFrame":
    """Make the table of a `Result`, given by its parts: a row per circuit, split and point (`RESULT_COLUMNS`)."""
    rows = [
        {"circuit": number, "operating_point": operating_point(circuit, config), **row}
        for number, circuit in enumerate(circuits, 1)
        for found in evaluations.values()
        for row in found[number - 1].to_rows()
    ]
    return make_frame(rows, RESULT_COLUMNS)


def own_faithfulness(circuits: Sequence[Circuit], evaluations: Mapping[str, Sequence[Evaluation]]) -> Estimate:
    """Return the faithfulness of a result's first circuit on test, in the searched objective.

    Raises:
        UsageError: the circuit is a mere ranking, or was not evaluated on test.
    """
    if circuits[0].is_ranking:
        raise UsageError(
            f"{circuits[0]} is a ranking: no edges are chosen yet, and every size has a faithfulness of its own.",
            "See result.to_pandas(); or ask for a circuit: discover(..., faithfulness=0.9), or "
            "circuitkit.evaluate(model, result.circuit.top(100), task).",
        )
    own = evaluations["test"][0].curve("own") if "test" in evaluations else []
    if not own:
        raise UsageError(
            "This result has no evaluation on held-out prompts.",
            "Make one: circuitkit.evaluate(model, result.circuit, task); result.notes may say why there is none.",
        )
    return Estimate(own[0].searched.faithfulness or Figure(None, None, None))
