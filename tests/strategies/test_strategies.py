"""Strategies on the toy model."""

import pytest
import torch

import circuitkit
from circuitkit import CircuitModel
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config import specs
from circuitkit.errors import UsageError
from circuitkit.strategies.acdc import ACDC


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def found(model, strategy, **arguments):
    return circuitkit.discover(model, task="ioi", strategy=strategy, examples=8, strategy_args=arguments)


def test_eap_correlates_with_exact_patching(toy):
    """Without edges from `input`: a whole embedding is replaced, and a first-order estimate can have the wrong sign."""
    estimated, exact = (found(toy, name).circuit.scores for name in ("eap", "edge_patching"))
    inner = toy.graph.writer_of > 0

    def correlation(one, other):
        return float(torch.corrcoef(torch.stack([one, other]))[0, 1])

    def ranks(scores):
        return scores.argsort().argsort().double()

    assert correlation(estimated[inner], exact[inner]) > 0.8
    assert correlation(ranks(estimated.abs()), ranks(exact.abs())) > 0.8


def test_acdc_at_two_thresholds(toy):
    result = found(toy, "acdc", threshold=[0.05, 0.5], absolute=True)
    small, large = result.circuits[1], result.circuits[0]
    assert 0 < len(small) < len(large) < len(toy.graph)
    assert [circuit.selection for circuit in result.circuits] == [
        "threshold 0.05, absolute",
        "threshold 0.5, absolute",
    ]
    assert set(large.score_sources.tolist()) <= {ScoreSource.TESTED, ScoreSource.DEAD}
    tested = sum(int((circuit.score_sources == ScoreSource.TESTED).sum()) for circuit in result.circuits)
    assert result.metrics["edges_tested"] == tested > len(toy.graph) / 2
    gaps = [
        (circuit.scores.abs() - threshold).abs()[circuit.score_sources == ScoreSource.TESTED].min()
        for circuit, threshold in zip(result.circuits, (0.05, 0.5), strict=True)
    ]
    assert 0 < result.metrics["smallest_gap"] == pytest.approx(float(min(gaps)), abs=1e-6)


def test_both_editors_find_the_same_circuit(toy):
    fast, slow = (found(toy, "acdc", threshold=0.2, editor=editor) for editor in ("incremental", "replay"))
    assert torch.equal(fast.circuit.kept, slow.circuit.kept)


def test_the_circuit_of_acdc_is_faithful_at_a_low_threshold(toy):
    result = found(toy, "acdc", threshold=0.02, absolute=True)
    evaluation = circuitkit.evaluate(toy, result.circuit, "ioi", examples=16)
    (own,) = evaluation.curve("own")
    random = next(point for point in evaluation.curve("random") if point.edges_asked >= own.edges)
    assert own.faithfulness > 0.8
    assert own.faithfulness > random.faithfulness


def test_random_scores_follow_the_seed(toy):
    one, same = (found(toy, "random_edges").circuit.scores for _ in range(2))
    assert torch.equal(one, same)
    other = circuitkit.discover(toy, task="ioi", strategy="random_edges", examples=8, seed=1).circuit.scores
    assert not torch.equal(one, other)


def test_eap_refuses_an_objective_with_zero_gradient_at_the_full_model(toy):
    with pytest.raises(UsageError, match="would score every edge zero"):
        circuitkit.discover(toy, task="ioi", strategy="eap", objective="kl", examples=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": []}, "threshold is empty"),
        ({"threshold": "high"}, "threshold='high' is not a finite number.*such as 0.1"),
        ({"threshold": float("nan")}, "threshold=nan is not a finite number"),
        ({"threshold": True}, "threshold=True is not a finite number"),
        ({"threshold": [0.1, float("inf")]}, "threshold=inf is not a finite number"),
        ({"threshold": [0.1, None]}, "threshold=None is not a finite number"),
        ({"screen": 1.0}, "screen=1.0"),
        ({"order": "backwards"}, "'backwards'"),
        ({"race": 0}, "race=0 is not a positive number"),
        ({"race": float("nan")}, "race=nan is not a positive number"),
        ({"race": True}, "race=True"),
        ({"race": 2, "race_start": 0}, "race_start=0 is not a positive whole number.*such as 16"),
        ({"prompts_per_layer": 0}, "prompts_per_layer=0 is not a positive whole number"),
        ({"prompts_per_layer": 2.5}, "prompts_per_layer=2.5"),
        ({"editor": "fast"}, "'fast'.*'incremental' or 'replay'"),
    ],
)
def test_the_arguments_of_acdc_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        ACDC(**arguments)


@pytest.mark.parametrize(
    ("strategy", "old", "message"),
    [
        ("acdc", "thresholds", "no ACDC argument 'thresholds'. Did you mean 'threshold'"),
        ("pahq_acdc", "thresholds", "no PAHQACDC argument 'thresholds'. Did you mean 'threshold'"),
        ("edge_pruning", "targets", "no EdgePruning argument 'targets'. Did you mean 'target'"),
        ("subnetwork_probing", "strengths", "no SubnetworkProbing argument 'strengths'.*Known: l0_weight"),
        ("eap_ig", "points", "no EAPIG argument 'points'.*Known: over, steps, endpoint"),
    ],
)
def test_arguments_that_are_gone_are_refused(strategy, old, message):
    with pytest.raises(UsageError, match=message):
        specs.make("strategies", {"class_path": strategy, "init_args": {old: [0.5]}})
