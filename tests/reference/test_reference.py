"""Comparison with figures made with other people's code (EAP-IG on TransformerLens, and MIB's evaluation).

tests/reference/eap_ig_gpt2/README.md says how the files were made. Their scores are negative where an edge helps, and
their metric is not negated.
"""

import pytest
import torch
from support.reference import EAP_IG, read

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.models.circuit_model import CircuitModel

TOLERANCE = 2e-5
"""Of the largest score."""


@pytest.fixture(scope="module")
def model():
    return CircuitModel.from_pretrained(EAP_IG)


@pytest.fixture(scope="module")
def prepared(model):
    prompts = read("prompts.json")
    batch = PromptBatch.from_ids(
        prompts["clean_ids"], prompts["corrupted_ids"], prompts["correct"], prompts["incorrect"]
    )
    return PreparedBatch(model, batch, LogitDifference(), Resample())


def reference_scores(model, scores):
    assert set(scores) == set(model.graph.names)
    return -torch.tensor([scores[name] for name in model.graph.names], dtype=torch.float64)


def assert_close(found, expected):
    assert (found.double() - expected).abs().max() <= TOLERANCE * expected.abs().max()


def exact_effects(prepared):
    editor, graph = ReplayEditor([prepared]), prepared.model.graph
    effects = torch.zeros(len(graph), dtype=torch.float64)
    for reader in reversed(range(graph.n_readers)):
        editor.open(reader)
        values = editor.values(torch.eye(graph.prefix(reader), dtype=torch.bool))
        effects[graph.edges(reader)] = values[1:] - values[0]
    return effects


def test_eap(model, prepared):
    assert_close(attribute(prepared) / len(prepared.batch), reference_scores(model, read("scores.json")["EAP"]))


def test_eap_with_zero_ablation(model, prepared):
    zeroed = PreparedBatch(model, prepared.batch, prepared.objective, Zero())
    assert_close(
        attribute(zeroed) / len(prepared.batch), reference_scores(model, read("extras.json")["scores"]["EAP-zero"])
    )


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("EAP-IG-inputs", {"over": "inputs"}),
        ("EAP-IG-activations", {"over": "activations"}),
        ("clean-corrupted", {"over": "clean-corrupted"}),
    ],
)
def test_eap_ig(model, prepared, method, arguments):
    found = circuitkit.discover(model, prepared.batch, "eap_ig", strategy_args=arguments).circuit.scores
    assert_close(found, reference_scores(model, read("scores.json")[method]))


def test_exact_patching(model, prepared):
    assert_close(exact_effects(prepared), reference_scores(model, read("scores.json")["exact"]))


@pytest.mark.parametrize("kind", ["top", "greedy"])
def test_circuits_and_their_metrics_match(model, prepared, kind):
    circuit = Circuit.from_scores(model.graph, reference_scores(model, read("scores.json")["EAP"]))
    expected = read("circuits.json") if kind == "top" else read("extras.json")["circuits_greedy"]
    evaluator = Evaluator([prepared], "test")
    for size, one in expected.items():
        found = getattr(circuit, kind)(int(size)).prune()
        assert set(found.names()) == set(one["edges"])
        assert evaluator.value(found.kept) == pytest.approx(-one["metric"], abs=TOLERANCE * 3)


@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs", "exact"])
def test_curves_and_areas_match_mib(model, prepared, method):
    """MIB's figures were computed with the authors' code; ours take the same scores."""
    circuit = Circuit.from_scores(model.graph, reference_scores(model, read("scores.json")[method]))
    result = Evaluator([prepared], "test").evaluate(circuit)
    mib = read("mib.json")
    for ranking, key in (("signed", f"{method}|absolute=False"), ("absolute", f"{method}|absolute=True")):
        points = result.curve(ranking)
        for point, count in zip(points, mib[key]["weighted_edge_counts"], strict=True):
            # Among edges that all score 0, neither rule says which come first
            tie = circuit.top(point.edges_asked, ranking == "absolute").tie
            assert point.edges == count or (tie and method == "EAP" and ranking == "signed")
        assert [point.faithfulness for point in points] == pytest.approx(mib[key]["faithfulnesses"], abs=1e-5)
    assert result.cpr == pytest.approx(mib[f"{method}|absolute=False"]["area_under"], abs=1e-5)
    assert result.cmd == pytest.approx(mib[f"{method}|absolute=True"]["area_from_1"], abs=1e-5)


def test_the_full_and_the_ablated_model_match(prepared):
    extras = read("extras.json")
    evaluator = Evaluator([prepared], "test")
    for end, name in (("full", "clean_metric"), ("ablated", "corrupted_metric")):
        assert getattr(evaluator, end)["logit_difference"].mean() == pytest.approx(-extras[name], abs=1e-5)
    assert evaluator.identity_error < 1e-5
