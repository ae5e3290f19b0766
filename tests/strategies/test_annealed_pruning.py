"""Annealed pruning: the schedule of its mask, the circuit that it finds, and its arguments."""

import pytest
import torch

import circuitkit
from circuitkit import CircuitModel
from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies.annealed_pruning import AnnealedPruning, _Annealing


class NoPrompts:
    processes = None

    def span(self):
        return 1.0


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def found(toy, examples=8, sizes=(), objective="kl", **arguments):
    strategy = AnnealedPruning(**{"trainer": {"max_steps": 10}, **arguments})
    discoverer = Discoverer("cpu", callbacks=[])
    return discoverer.run(toy, "ioi", strategy, objective=objective, examples=examples, sizes=sizes)


def test_size_and_temperature_fall_to_their_ends_and_stay():
    strategy = AnnealedPruning(target=0.98, start=0.5, temperature=0.1, falling=0.6, trainer={"max_steps": 50})
    training = _Annealing(strategy, 1000, NoPrompts(), 1 - 0.98)
    sizes, temperatures = zip(*map(training.schedule, range(50)), strict=True)
    assert (sizes[0], temperatures[0]) == pytest.approx((0.5, 1.0))
    for falling in (sizes, temperatures):
        assert bool((torch.tensor(falling, dtype=torch.float64)[:31].diff() < 0).all())
    assert set(sizes[30:]) == {sizes[30]}
    assert (sizes[-1], temperatures[-1]) == pytest.approx((0.02, 0.1))
    odds = torch.tensor(sizes[:31], dtype=torch.float64).logit()
    assert torch.allclose(odds.diff(), odds.diff()[0].expand(30))
    assert training.mask(49).sum().item() == pytest.approx(20, rel=1e-5)


def test_steps_count_not_batches_where_gradients_are_accumulated():
    arguments = {"max_steps": 10, "accumulate_grad_batches": 3}
    training = _Annealing(AnnealedPruning(trainer=arguments), 1000, NoPrompts(), 0.01)
    assert [training.schedule(number) for number in range(0, 30, 3)] == [
        training.schedule(number) for number in range(2, 30, 3)
    ]


def test_a_target_above_the_start_is_the_size_throughout():
    training = _Annealing(AnnealedPruning(target=0.2, start=0.3), 1000, NoPrompts(), 0.8)
    assert training.schedule(0)[0] == training.schedule(299)[0] == pytest.approx(0.8)


def test_its_circuits_have_the_targets_sizes_and_beat_eap_ig(toy):
    result = found(toy, examples=32, sizes=(0.04, 0.08), target=[0.9, 0.96], trainer={"max_steps": 150})
    sizes = [round((1 - target) * len(toy.graph)) for target in (0.9, 0.96)]
    assert [len(circuit) for circuit in result.circuits] == sizes
    assert all(len(circuit.prune()) == len(circuit) for circuit in result.circuits)
    theirs = circuitkit.discover(toy, "ioi", "eap_ig", objective="kl", examples=32, sizes=(0.04, 0.08))
    ours = result.evaluations["test"][1].curve("absolute")
    for one, other in zip(ours, theirs.evaluations["test"][0].curve("absolute"), strict=True):
        assert one.faithfulness > other.faithfulness
    assert ours[0].faithfulness > theirs.evaluations["test"][0].curve("absolute")[0].faithfulness + 0.1  # its own size
    assert result.metrics["steps"] == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 1.0}, "target=1.0 is out of range"),
        ({"start": 0.0}, "start=0.0 is out of range"),
        ({"temperature": 2.0}, "temperature=2.0 is out of range"),
        ({"falling": -1}, "falling=-1 is out of range"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"prompts": 0}, "prompts=0"),
        ({"trainer": {"max_step": 3}}, "'max_step'.*'max_steps'"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        AnnealedPruning(**arguments)
