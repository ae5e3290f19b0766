"""PAHQ-ACDC is ACDC under a policy of its own."""

import pytest
import torch

import circuitkit
from circuitkit import CircuitModel
from circuitkit.precision.pahq import PAHQ
from circuitkit.strategies.pahq_acdc import PAHQACDC


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def test_it_is_int8_by_default():
    policy = PAHQACDC(threshold=0.1).default_precision()
    assert isinstance(policy, PAHQ)
    assert (policy.mode, policy.scope, policy.anchored, policy.rechecks_close) == ("int8", "attention", True, True)


@pytest.mark.parametrize("threshold", [0.05, 0.2])
def test_it_finds_almost_the_circuit_of_full_precision(toy, threshold):
    arguments = {"strategy_args": {"threshold": threshold}, "examples": 8}
    own = circuitkit.discover(toy, "ioi", "pahq_acdc", **arguments)
    full = circuitkit.discover(toy, "ioi", "acdc", **arguments)
    one, other = own.circuit.kept, full.circuit.kept
    assert (one & other).sum() > 0.9 * (one | other).sum()
    assert own.config["precision"]["class_path"].endswith("PAHQ")


@pytest.mark.filterwarnings("ignore:This precision cannot decide")
@pytest.mark.parametrize("precision", ["pahq", "all_low", {"class_path": "pahq", "init_args": {"mode": "nf4"}}])
def test_other_strategies_run_under_the_policies_and_leave_the_weights_unchanged(toy, precision):
    before = {name: p.detach().clone() for name, p in toy.model.named_parameters()}
    for strategy in ("eap", "acdc"):
        result = circuitkit.discover(toy, "ioi", strategy, precision=precision, examples=8)
        assert result.circuit.scores.isfinite().all()
    assert all(torch.equal(p, before[name]) for name, p in toy.model.named_parameters())
