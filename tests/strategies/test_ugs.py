"""UGS: the sampled masks and the mean of their gradient, a training against a plain loop, and what it finds."""

from typing import Any

import pytest
import torch
from support.prepared import prepare
from support.tiny import random_batch, tiny
from torch import Tensor

from circuitkit import CircuitModel
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.gate_training.hard_concrete import noise
from circuitkit.strategies.ugs import UGS, sample_mask

POINTS = 40_001


def uniform(count: int = POINTS) -> Tensor:
    """Midpoints of equal parts of (0, 1)."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


@pytest.mark.parametrize("logit", [-4.0, -1.0, 0.0, 1.0, 5.0])
def test_a_mask_is_1_or_0_or_uniform_in_between_with_mean_p(logit: float) -> None:
    mask = sample_mask(torch.full((POINTS,), logit, dtype=torch.float64), uniform())
    p = float(torch.tensor(logit, dtype=torch.float64).sigmoid())
    w = p * (1 - p)
    assert float(mask.mean()) == pytest.approx(p, abs=1e-4)
    assert float((mask == 1).double().mean()) == pytest.approx(p - w / 2, abs=1e-4)
    inside = mask[(mask > 0) & (mask < 1)]
    assert len(inside) / POINTS == pytest.approx(w, abs=1e-4)
    counts = torch.histc(inside, bins=4, min=0, max=1)
    assert bool(((counts / len(inside) - 0.25).abs() < 0.01).all())


def loss(mask: Tensor) -> Tensor:
    """A smooth function of two edges, `[..., 2]`, with a product of both."""
    return (2 * mask[..., 0]).sin() + mask[..., 0] * (1.5 * mask[..., 1]).exp() + mask[..., 1] ** 3


@pytest.mark.parametrize("logits", [(0.0, 0.0), (1.0, -2.0), (-3.0, 2.0)])
def test_the_mean_gradient_is_that_of_the_mean_loss_of_the_other_edges_samples(logits: tuple[float, float]) -> None:
    """p (1 - p) times the mean of L(m = 1) - L(m = 0), where the other edge is sampled."""
    u = uniform(801)
    both = torch.stack([u.repeat_interleave(len(u)), u.repeat(len(u))], -1)  # every pair of noises
    theta = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(sample_mask(theta.expand(len(both), 2), both)).mean(), theta)
    for edge in range(2):
        p = float(theta[edge].sigmoid())
        other = sample_mask(theta.detach()[1 - edge].expand(len(u)), u)
        ends = []
        for value in (1.0, 0.0):
            masks = torch.stack([torch.full_like(other, value), other], -1)
            ends.append(float(loss(masks if edge == 0 else masks.flip(-1)).mean()))
        assert float(found[edge]) == pytest.approx(p * (1 - p) * (ends[0] - ends[1]), abs=5e-3)
        assert abs(ends[0] - ends[1]) > 0.1


def test_saturated_probabilities_have_finite_masks_and_gradients() -> None:
    theta = torch.tensor([-200.0, 200.0, 0.0], dtype=torch.float32, requires_grad=True)
    mask = sample_mask(theta, torch.tensor([1e-6, 1 - 1e-6, 0.5], dtype=torch.float32))
    assert mask.tolist() == pytest.approx([0, 1, 0.5])
    assert bool(torch.autograd.grad(mask.sum(), theta)[0].isfinite().all())


def test_a_training_is_that_of_a_plain_loop() -> None:
    """Adam on the masked run of all prompts, with the rate that falls to 0, a step at a time."""
    model, batch, steps, penalty = tiny("llama"), random_batch(), 4, 0.05
    strategy = UGS(penalty, learning_rate=0.3, trainer={"max_steps": steps, "gradient_clip_val": None})
    found = Discoverer("cpu", callbacks=[], seed=5).run(model, batch, strategy, sizes=()).circuit
    run = MaskedRun(prepare(model, batch, objective=LogitDifference))
    edges = len(model.graph)
    ends = run.values(torch.stack([torch.ones(edges), torch.zeros(edges)])).mean(1)
    theta = torch.full((edges,), 1.0, dtype=torch.float32, requires_grad=True)
    first, second = torch.zeros(edges), torch.zeros(edges)
    for step in range(steps):
        p = theta.sigmoid()
        w = (p * (1 - p)).detach()
        mask = ((p - noise(5, step, edges)) / w + 0.5).clamp(0, 1)
        total = run.values(mask[None]).mean() / (ends[0] - ends[1]).abs() + penalty * p.sum()
        (gradient,) = torch.autograd.grad(total, theta)
        first, second = 0.9 * first + 0.1 * gradient, 0.995 * second + 0.005 * gradient**2
        rate = 0.3 * (1 - step / steps)
        ahead = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.995 ** (step + 1))
        theta = (theta - rate * ahead[0] / (ahead[1].sqrt() + 1e-8)).detach().requires_grad_()
    expected = theta.detach().double().sigmoid()
    assert torch.allclose(found.scores, expected, rtol=0, atol=1e-5)
    assert (expected - expected.mean()).abs().max() > 0.1
    assert bool((found.scores[found.kept] > 0.5).all())


@pytest.fixture(scope="module")
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


def find(toy: CircuitModel, seed: int = 0, **arguments: Any) -> Result:
    strategy = UGS(**{"batch_size": 8, "learning_rate": 0.3, **arguments})
    discoverer = Discoverer("cpu", callbacks=[], seed=seed)
    return discoverer.run(toy, "ioi", strategy, objective="kl", examples=8, splits=["test"])


def test_a_higher_penalty_gives_a_smaller_circuit_and_both_are_faithful(toy: CircuitModel) -> None:
    result = find(toy, edge_penalty=[0.02, 0.002], trainer={"max_steps": 100})
    small, large = result.circuits
    assert 5 < len(small) < len(large) < 130
    assert small.selection == "edge penalty 0.02, pruned"
    figures = [found.curve("own")[0].faithfulness for found in result.evaluations["test"]]
    assert figures[0] is not None
    assert figures[1] is not None
    assert 0.5 < figures[0] < figures[1] + 0.05
    assert figures[1] > 0.7
    assert result.metrics["steps"] == 200
    assert len(result.metrics["undecided_edges"]) == 2


def test_the_seed_decides(toy: CircuitModel) -> None:
    one, same, other = (find(toy, seed, trainer={"max_steps": 3}).circuit.scores for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"edge_penalty": -1.0}, "edge_penalty=-1.0 is out of range"),
        ({"edge_penalty": []}, "edge_penalty is empty"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"trainer": {"max_step": 3}}, "max_steps"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        UGS(**arguments)
