"""Strategies on the toy model."""

import pytest
import torch

import circuitkit
from circuitkit import CircuitModel
from circuitkit.circuit import Origin
from circuitkit.errors import UsageError
from circuitkit.strategies.acdc import ACDC


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def found(model, strategy, **arguments):
    return circuitkit.discover(model, task="ioi", strategy=strategy, examples=8, strategy_args=arguments)


def test_eap_correlates_with_exact_patching(toy):
    """To first order: where a whole word embedding is exchanged, the estimate is far off (`input->m0`: wrong sign)."""
    estimated, exact = (found(toy, name).circuit.scores for name in ("eap", "activation_patching"))
    inner = toy.graph.writer_of > 0

    def correlation(one, other):
        return float(torch.corrcoef(torch.stack([one, other]))[0, 1])

    def ranks(scores):
        return scores.argsort().argsort().double()

    assert correlation(estimated[inner], exact[inner]) > 0.8
    assert correlation(ranks(estimated.abs()), ranks(exact.abs())) > 0.8


def test_acdcs_curve_over_thresholds(toy):
    result = found(toy, "acdc", thresholds=[0.05, 0.5], absolute=True)
    small, large = result.circuits[1], result.circuits[0]
    assert 0 < len(small) < len(large) < len(toy.graph)
    assert [circuit.selection for circuit in result.circuits] == [
        "threshold 0.05, absolute",
        "threshold 0.5, absolute",
    ]
    assert set(large.origin.tolist()) <= {Origin.TESTED, Origin.DEAD}
    assert result.metrics["edges_tested"] >= result.metrics["smallest_gap"] > 0


def test_both_editors_find_the_same_circuit(toy):
    fast, slow = (found(toy, "acdc", threshold=0.2, editor=editor) for editor in ("incremental", "replay"))
    assert torch.equal(fast.circuit.kept, slow.circuit.kept)


def test_acdcs_circuit_is_faithful_where_the_threshold_is_low(toy):
    result = found(toy, "acdc", threshold=0.02, absolute=True)
    evaluation = circuitkit.evaluate(toy, result.circuit, "ioi", examples=16)
    (own,) = evaluation.curve("own")
    random = next(point for point in evaluation.curve("random") if point.edges_asked >= own.edges)
    assert own.faithfulness > 0.8 and own.faithfulness > random.faithfulness


def test_random_scores_follow_the_seed(toy):
    one, same = (found(toy, "random_edges").circuit.scores for _ in range(2))
    assert torch.equal(one, same)
    other = circuitkit.discover(toy, task="ioi", strategy="random_edges", examples=8, seed=1).circuit.scores
    assert not torch.equal(one, other)


def test_eap_refuses_an_objective_that_vanishes_at_the_full_model(toy):
    with pytest.raises(UsageError, match="would score every edge zero"):
        circuitkit.discover(toy, task="ioi", strategy="eap", objective="kl", examples=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.1, "thresholds": [0.1]}, "Both"),
        ({"thresholds": []}, "empty"),
        ({"threshold": "high"}, "'high' is not a finite number"),
        ({"threshold": float("nan")}, "nan is not a finite number"),
        ({"order": "backwards"}, "'backwards'"),
        ({"editor": "fast"}, "'fast'.*'incremental' or 'replay'"),
    ],
)
def test_acdcs_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        ACDC(**arguments)
