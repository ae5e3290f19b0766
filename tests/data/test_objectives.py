"""Objectives by their definitions."""

import math

import pytest
import torch

from circuitkit.data.logits import Logits
from circuitkit.data.objectives import AnswerLogProbability, KLDivergence, LogitDifference, ProbabilityDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError

OBJECTIVES = [LogitDifference, ProbabilityDifference, AnswerLogProbability, KLDivergence]


def logits_of(rows, bias=None):
    """`Logits` whose whole vocabulary is `rows` `[..., B, A, V]`."""
    return Logits(rows, torch.eye(rows.shape[-1], dtype=rows.dtype), bias)


@pytest.fixture
def batch():
    return PromptBatch.from_ids([[1, 2]] * 2, [[1, 3]] * 2, answers=[[0, 1], [2]], wrong_answers=[[3], [0, 1, 3]])


def test_values_by_hand(batch):
    torch.manual_seed(0)
    rows = torch.randn(2, 1, 4, dtype=torch.float64)
    logits, p = logits_of(rows), rows.softmax(-1)[:, 0]
    a, b = rows[:, 0]
    assert LogitDifference().values(logits, batch, None).tolist() == pytest.approx(
        [float(a[3] - a[:2].mean()), float(b[[0, 1, 3]].mean() - b[2])]
    )
    assert ProbabilityDifference().values(logits, batch, None).tolist() == pytest.approx(
        [float(p[0, 3] - p[0, :2].sum()), float(p[1, [0, 1, 3]].sum() - p[1, 2])]
    )
    assert AnswerLogProbability().values(logits, batch, None).tolist() == pytest.approx(
        [-math.log(float(p[0, :2].sum())), -math.log(float(p[1, 2]))]
    )
    other = torch.randn(2, 1, 4, dtype=torch.float64)
    q = other.softmax(-1)[:, 0]
    reference = KLDivergence().reference(logits)
    expected = [sum(float(x) * math.log(float(x) / float(y)) for x, y in zip(*pair)) for pair in zip(p, q)]  # noqa: B905
    assert KLDivergence().values(logits_of(other), batch, reference).tolist() == pytest.approx(expected)
    assert KLDivergence().values(logits, batch, reference).abs().max() < 1e-12


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_lower_is_better(objective, batch):
    good = torch.tensor([[[4.0, 4, 0, 0]], [[0, 0, 4, 0]]])
    bad = -good
    reference = objective().reference(logits_of(good))
    better, worse = (objective().values(logits_of(rows), batch, reference) for rows in (good, bad))
    assert (better < worse).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_several_hypotheses_and_the_bias_of_the_unembedding(objective, batch):
    torch.manual_seed(1)
    hidden, weight, bias = torch.randn(3, 2, 1, 5), torch.randn(4, 5), torch.randn(4)
    logits = Logits(hidden, weight, bias)
    assert torch.allclose(logits.all(), hidden @ weight.T + bias, atol=1e-6)
    tokens = batch.wrong_answers
    assert torch.allclose(logits.of(tokens)[1, 1, 0], (hidden @ weight.T + bias)[1, 1, 0, tokens[1, 0]], atol=1e-6)
    reference = objective().reference(Logits(hidden[0], weight, bias))
    together = objective().values(logits, batch, reference)
    single = torch.stack([objective().values(Logits(one, weight, bias), batch, reference) for one in hidden])
    assert together.shape == (3, 2)
    assert torch.allclose(together, single, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_soft_capped_logits_are_those_of_the_answers_too(objective, batch):
    """Values and gradients are those of logits that are capped before they are given."""
    torch.manual_seed(1)
    hidden, other = torch.randn(2, 2, 1, 5, dtype=torch.float64).requires_grad_()
    weight, bias = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def capped(hidden):
        return logits_of(1.5 * torch.tanh((hidden @ weight.T + bias) / 1.5))

    logits = Logits(hidden, weight, bias, cap=1.5)
    assert torch.allclose(logits.all(), capped(hidden).all(), atol=1e-12)
    reference = objective().reference(Logits(other.detach(), weight, bias, cap=1.5))
    values = objective().values(logits, batch, reference)
    expected = objective().values(capped(hidden), batch, objective().reference(capped(other.detach())))
    assert torch.allclose(values, expected, atol=1e-12)
    slope, wanted = (torch.autograd.grad(x.sum(), hidden, retain_graph=True)[0] for x in (values, expected))
    assert torch.allclose(slope, wanted, atol=1e-12)
    uncapped = objective().values(Logits(hidden, weight, bias), batch, reference)
    assert not torch.allclose(values, uncapped, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_small_effect_is_seen_in_half_precision(objective, dtype, batch):
    """The values are computed in float32 from the rounded logits, so that an effect of 0.01 is not a rounding error."""
    torch.manual_seed(3)
    hidden = (3 * torch.randn(2, 1, 4)).to(dtype)
    moved = hidden.clone()
    moved[..., 0] *= 1 + 4 * torch.finfo(dtype).eps
    reference = objective().reference(logits_of(hidden))
    values = [objective().values(logits_of(rows), batch, reference) for rows in (hidden, moved)]
    wide = objective().reference(logits_of(hidden.double()))
    exact = [objective().values(logits_of(rows.double()), batch, wide) for rows in (hidden, moved)]
    assert values[0].dtype == torch.float32
    effect, expected = values[1] - values[0], exact[1] - exact[0]
    assert torch.allclose(effect.double(), expected, atol=1e-6)
    assert (expected != 0).any()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_value_of_a_prompt_is_the_mean_over_its_answer_positions(objective):
    batch = PromptBatch.from_ids(
        [[1, 2, 3]] * 2,
        [[1, 2, 2]] * 2,
        answers=[[[0], [1]], [[2]]],
        wrong_answers=[[[3], [3]], [[0]]],
        answer_positions=[[0, 2], [2]],
    )
    torch.manual_seed(2)
    rows = torch.randn(2, 2, 4)
    reference = objective().reference(logits_of(torch.randn(2, 2, 4)))
    values = objective().values(logits_of(rows), batch, reference)
    one = [PromptBatch.from_ids([[1]], [[2]], answers=[a], wrong_answers=[w]) for a, w in ((0, 3), (1, 3), (2, 0))]
    where = [(0, 0), (0, 1), (1, 0)]
    single = [
        float(
            objective().values(
                logits_of(rows[i, j][None, None]), b, None if reference is None else reference[i, j][None, None]
            )
        )
        for b, (i, j) in zip(one, where, strict=True)
    ]
    assert values.tolist() == pytest.approx([(single[0] + single[1]) / 2, single[2]], abs=1e-6)


def test_prompts_without_answers_are_named():
    batch = PromptBatch.from_ids([[1], [2]], [[2], [1]], answers=[[3], []], wrong_answers=[[1], [2]])
    with pytest.raises(UsageError, match="prompt 1 has none"):
        LogitDifference().check(batch)
    with pytest.raises(UsageError, match="wrong answers"):
        ProbabilityDifference().check(PromptBatch.from_ids([[1]], [[2]], answers=[3]))
    AnswerLogProbability().check(PromptBatch.from_ids([[1]], [[2]], answers=[3]))
    KLDivergence().check(batch)
