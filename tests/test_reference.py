"""Against figures made with other people's code (EAP-IG on TransformerLens, and MIB's evaluation).

The files and their making: tests/data/eap_ig_gpt2/README.md. Their scores are negative where an edge helps, and their
metric is not negated.
"""

import json
from pathlib import Path

import pytest
import torch

import circuitkit
from circuitkit.circuit import Circuit
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.engine.attribution import attribute
from circuitkit.engine.replay import ReplayEditor
from circuitkit.engine.scene import Scene
from circuitkit.evaluation import Evaluator
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import LogitDifference
from circuitkit.prompts import PromptBatch

DATA = Path(__file__).parent / "data" / "eap_ig_gpt2"
TOLERANCE = 2e-5
"""Of the largest score."""


def read(name):
    return json.loads((DATA / name).read_text())


@pytest.fixture(scope="module")
def model():
    return CircuitModel.from_pretrained(DATA)


@pytest.fixture(scope="module")
def scene(model):
    prompts = read("prompts.json")
    batch = PromptBatch.from_ids(
        prompts["clean_ids"], prompts["corrupted_ids"], prompts["correct"], prompts["incorrect"]
    )
    return Scene(model, batch, LogitDifference(), Resample())


def theirs(model, scores):
    assert set(scores) == set(model.graph.names)
    return -torch.tensor([scores[name] for name in model.graph.names], dtype=torch.float64)


def assert_close(found, expected):
    assert (found.double() - expected).abs().max() <= TOLERANCE * expected.abs().max()


def exact(scene):
    editor, graph = ReplayEditor([scene]), scene.model.graph
    effects = torch.zeros(len(graph), dtype=torch.float64)
    for reader in reversed(range(graph.n_readers)):
        editor.open(reader)
        values = editor.values(torch.eye(graph.prefix(reader), dtype=torch.bool))
        effects[graph.edges(reader)] = values[1:] - values[0]
    return effects


def test_eap(model, scene):
    assert_close(attribute(scene) / len(scene.batch), theirs(model, read("scores.json")["EAP"]))


def test_eap_with_zero_ablation(model, scene):
    zeroed = Scene(model, scene.batch, scene.objective, Zero())
    assert_close(attribute(zeroed) / len(scene.batch), theirs(model, read("extras.json")["scores"]["EAP-zero"]))


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("EAP-IG-inputs", {"over": "inputs"}),
        ("EAP-IG-activations", {"over": "activations"}),
        ("clean-corrupted", {"over": "clean-corrupted"}),
    ],
)
def test_eap_ig(model, scene, method, arguments):
    found = circuitkit.discover(model, scene.batch, "eap_ig", strategy_args=arguments).circuit.scores
    assert_close(found, theirs(model, read("scores.json")[method]))


def test_exact_patching(model, scene):
    assert_close(exact(scene), theirs(model, read("scores.json")["exact"]))


@pytest.mark.parametrize("kind", ["top", "greedy"])
def test_circuits_and_their_metrics(model, scene, kind):
    circuit = Circuit.from_scores(model.graph, theirs(model, read("scores.json")["EAP"]))
    expected = read("circuits.json") if kind == "top" else read("extras.json")["circuits_greedy"]
    evaluator = Evaluator([scene], "test")
    for size, one in expected.items():
        found = getattr(circuit, kind)(int(size)).prune()
        assert set(found.names()) == set(one["edges"])
        assert evaluator.value(found.kept) == pytest.approx(-one["metric"], abs=TOLERANCE * 3)


@pytest.mark.parametrize("method", ["EAP", "EAP-IG-inputs", "exact"])
def test_mibs_curves_and_areas(model, scene, method):
    """MIB computed them from exact figures of the authors' code; ours take the same scores."""
    circuit = Circuit.from_scores(model.graph, theirs(model, read("scores.json")[method]))
    result = Evaluator([scene], "test").evaluate(circuit)
    mib = read("mib.json")
    for ranking, key in (("signed", f"{method}|absolute=False"), ("absolute", f"{method}|absolute=True")):
        points = result.curve(ranking)
        for point, count in zip(points, mib[key]["weighted_edge_counts"], strict=True):
            # Which of several edges that all score 0 come in is nobody's rule
            tie = circuit.top(point.edges_asked, ranking == "absolute").tie
            assert point.edges == count or (tie and method == "EAP" and ranking == "signed")
        assert [point.faithfulness for point in points] == pytest.approx(mib[key]["faithfulnesses"], abs=1e-5)
    assert result.cpr == pytest.approx(mib[f"{method}|absolute=False"]["area_under"], abs=1e-5)
    assert result.cmd == pytest.approx(mib[f"{method}|absolute=True"]["area_from_1"], abs=1e-5)


def test_ends(scene):
    extras = read("extras.json")
    evaluator = Evaluator([scene], "test")
    assert evaluator.full == pytest.approx(-extras["clean_metric"], abs=1e-5)
    assert evaluator.ablated == pytest.approx(-extras["corrupted_metric"], abs=1e-5)
    assert evaluator.identity_error < 1e-5
