"""Matryoshka attribution: the mask of a size and its gradient; what a training ranks first; its arguments."""

import math
import signal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import killed

import circuitkit
from circuitkit import CircuitModel
from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.gate_training.soft_top import soft_top
from circuitkit.strategies.matryoshka import Matryoshka, _EverySize


def scores_of(seed, count=40, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, dtype=torch.float64, generator=generator)


def bisect(scores, size, temperature):
    """The mask, with its threshold found by bisection alone."""
    low, high = scores.min() - 200 * temperature, scores.max() + 200 * temperature
    for _ in range(200):
        middle = (low + high) / 2
        total = torch.sigmoid((scores - middle) / temperature).sum()
        low, high = (middle, high) if total > size else (low, middle)
    return torch.sigmoid((scores - low) / temperature)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    count=st.sampled_from([1, 2, 40, 3000]),
    part=st.floats(1e-3, 0.999),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    temperature=st.sampled_from([0.05, 0.5, 3.0]),
)
def test_the_mask_sums_to_the_size_and_orders_edges_as_their_scores_do(seed, count, part, scale, temperature):
    scores = scores_of(seed, count, scale)
    size = count * part
    mask = soft_top(scores, size, temperature)
    assert mask.sum().item() == pytest.approx(size, rel=1e-9)
    assert torch.allclose(mask, bisect(scores, size, temperature), rtol=0, atol=1e-9)
    assert bool(
        (mask[scores.argsort()].diff() >= -1e-15).all()
    )  # a vectorized sigmoid rounds its last elements otherwise
    shifted = soft_top(scores + 5, size, temperature)
    assert torch.allclose(shifted, mask, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("size", "temperature"), [(0.3, 0.5), (4.0, 0.5), (4.0, 2.0), (30.0, 0.2)])
def test_its_gradient_is_that_of_finite_differences_of_the_bisection(size, temperature):
    scores, weights = scores_of(1), scores_of(2)
    leaf = scores.clone().requires_grad_()
    (soft_top(leaf, size, temperature) * weights).sum().backward()
    step = 1e-5
    for edge in range(len(scores)):
        change = torch.zeros_like(scores)
        change[edge] = step
        up, down = (float(bisect(scores + sign * change, size, temperature) @ weights) for sign in (1, -1))
        assert leaf.grad[edge].item() == pytest.approx((up - down) / (2 * step), abs=1e-7)
    assert leaf.grad.abs().max() > 1e-3
    assert leaf.grad.sum().abs() < 1e-12  # what one edge gains, others lose


def test_scores_far_apart_have_a_finite_gradient():
    leaf = torch.tensor([-3000.0, 0.0, 3000.0], dtype=torch.float32).requires_grad_()
    mask = soft_top(leaf, 2.0, 0.5)
    mask.sum().backward()
    assert torch.allclose(mask, torch.tensor([0.0, 1.0, 1.0]), atol=1e-6)
    assert bool(leaf.grad.isfinite().all())


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def found(toy, seed=0, sizes=(), examples=8, **arguments):
    strategy = Matryoshka(**{"batch_size": 8, "trainer": {"max_steps": 10}, **arguments})
    discoverer = Discoverer("cpu", callbacks=[], seed=seed)
    return discoverer.run(toy, "ioi", strategy, objective="kl", examples=examples, sizes=sizes)


def test_its_ranking_is_more_faithful_than_eap_igs_at_every_size(toy):
    sizes = (0.04, 0.1, 0.3)
    ours = found(toy, sizes=sizes, examples=32, trainer={"max_steps": 120})
    theirs = circuitkit.discover(toy, "ioi", "eap_ig", objective="kl", examples=32, sizes=sizes)
    one, other = (
        {point.fraction: point.faithfulness for point in result.evaluations["test"][0].curve("signed")}
        for result in (ours, theirs)
    )
    assert all(one[fraction] > other[fraction] for fraction in one)
    assert max(one[fraction] - other[fraction] for fraction in one) > 0.05
    assert ours.circuit.is_ranking
    assert ours.metrics["steps"] == 120
    assert ours.metrics["train_prompts"] == 960


def test_the_smallest_score_is_0_so_that_both_rankings_agree(toy):
    circuit = found(toy).circuit
    assert circuit.scores.dtype == torch.float64
    assert circuit.scores.min() == 0
    assert torch.equal(circuit.ranking(absolute=True), circuit.ranking(absolute=False))


def test_sizes_are_spread_over_their_range_by_seed_and_step_alone(toy):
    """In any number of steps, every part of the range has its share of them, to within one or two."""

    class Prompts:
        processes = None

        def span(self):
            return 1.0

    strategy, edges, steps, parts = Matryoshka(sizes=(0.01, 0.64)), 10_000, 200, 8
    drawn = {}
    for seed in (0, 1):
        ranking = _EverySize(strategy, edges, Prompts(), seed)
        for step in range(steps):
            assert ranking.mask(step).sum().item() == pytest.approx(ranking._size, rel=1e-5)
            assert ranking.sparsity().item() == pytest.approx(1 - ranking._size / edges)
            drawn[seed, step] = ranking._size
        ranking.mask(7)
        assert ranking._size == drawn[seed, 7]
        places = [math.log(drawn[seed, step] / 100) / math.log(64) for step in range(steps)]
        counts = torch.histc(torch.tensor(places, dtype=torch.float64), bins=parts, min=0, max=1)
        assert bool(((counts - steps / parts).abs() <= 3).all())
    assert all(drawn[0, step] != drawn[1, step] for step in range(steps))


def test_a_size_below_one_edge_is_one_edge(toy):
    class Prompts:
        processes = None

        def span(self):
            return 1.0

    ranking = _EverySize(Matryoshka(sizes=[1e-6, 1e-6]), 50, Prompts(), 0)
    assert ranking.mask(0).sum().item() == pytest.approx(1.0, rel=1e-5)


def test_the_seed_decides(toy):
    one, same, other = (found(toy, seed=seed, trainer={"max_steps": 3}).circuit.scores for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_killed_in_its_second_epoch_and_resumed(toy, tmp_path):
    """Sizes, prompts and accumulation go on where they were."""
    arguments = {"batch_size": 3, "prompts": 8, "trainer": {"max_steps": 6, "accumulate_grad_batches": 2}}
    spec = {"class_path": "matryoshka", "init_args": arguments}
    died = killed.run(spec, tmp_path / "run", 8)
    assert died.returncode == -signal.SIGKILL, died.stderr
    finished = killed.run(spec, tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert killed.reports(finished) < 12
    resumed = Result.load(tmp_path / "run")
    whole = Discoverer("cpu", callbacks=[]).run(toy, "ioi", spec, examples=6, sizes=[])
    assert torch.equal(resumed.circuit.scores, whole.circuit.scores)
    assert resumed.metrics["train_prompts"] == whole.metrics["train_prompts"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": 0.5}, "sizes=0.5 are not a smallest and a largest"),
        ({"sizes": [0.5, 0.1]}, "are not a smallest and a largest"),
        ({"sizes": [0.1, 1.0]}, "sizes=1.0 is out of range"),
        ({"sizes": []}, "sizes is empty"),
        ({"temperature": 0.0}, "temperature=0.0 is out of range"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"prompts": 0}, "prompts=0"),
        ({"trainer": {"max_step": 3}}, "'max_step'.*'max_steps'"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        Matryoshka(**arguments)
