"""What every objective must do: checks of one of them, with one model."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitkit.contracts.comparing import largest
from circuitkit.contracts.outcome import refuse
from circuitkit.data.logits import Logits
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer

MakeObjective = Callable[[], Objective]


def check_objective_values(make: MakeObjective, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that it gives one value per prompt, alone and among several hypotheses, with a gradient that is finite.

    Args:
        make: makes the objective.
        model: the model.
        batch: prompts with several answers and answer positions, of which some prompts have fewer.

    Raises:
        ContractError: it does not.
    """
    objective = make()
    objective.check(batch)
    stream = model.final_stream(batch)
    reference = objective.reference(model.logits(stream))
    values = objective.values(model.logits(stream), batch, reference)
    if values.shape != (len(batch),):
        refuse(f"`values` gives {list(values.shape)} for {len(batch)} prompts.", "Give one value per prompt, [..., B].")
    noise = torch.randn(4, *stream.shape, dtype=stream.dtype, generator=torch.Generator().manual_seed(0))
    changed = (stream + noise).requires_grad_()
    several = objective.values(model.logits(changed), batch, reference)
    if several.shape != (4, len(batch)):
        refuse(
            f"`values` of 4 hypotheses gives {list(several.shape)}.",
            "Treat dimensions before the prompts alike: index from the end, as in `.sum(-1)`.",
        )
    if not bool(several.isfinite().all()):
        refuse(
            "Values are not finite.", "Mind sets of unequal size: -1 fills `answers`, `wrong_answers` and positions."
        )
    _check_rows(objective, model, batch)
    _check_padding(objective, model, batch)
    if not several.requires_grad:
        refuse("`values` has no gradient.", "Use torch's differentiable operations alone: no `detach`, no `item`.")
    (gradient,) = torch.autograd.grad(several.sum(), changed)
    if not bool(gradient.isfinite().all()) or not bool(gradient.abs().sum() > 0):
        refuse("Its gradient is not finite, or zero.", "Use differentiable operations; mask with `torch.where` before.")
    alone = torch.stack([objective.values(model.logits(one), batch, reference) for one in changed])
    if not torch.allclose(alone, several, rtol=1e-12 if model.dtype == torch.float64 else 1e-4):
        refuse("A hypothesis has another value alone than among others.", "Let no value depend on other hypotheses.")


def _check_rows(objective: Objective, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that every prompt has the same value alone, on a stream of its own, as in the batch."""
    clean = model.final_stream(batch)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=torch.Generator().manual_seed(1))
    stream = clean + noise
    values = objective.values(model.logits(stream), batch, objective.reference(model.logits(clean)))
    alone = torch.cat(
        [
            objective.values(model.logits(stream[row]), batch[row], objective.reference(model.logits(clean[row])))
            for row in (slice(number, number + 1) for number in range(len(batch)))
        ]
    )
    if not torch.allclose(alone, values, rtol=1e-9 if model.dtype == torch.float64 else 1e-4, atol=1e-9):
        refuse("A prompt has another value alone than in a batch.", "Sum over answers and positions, not over prompts.")


def _check_padding(objective: Objective, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that what fills sets of answers and positions changes no value, nor does the order in a set."""
    clean = model.final_stream(batch)
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=torch.Generator().manual_seed(2))

    def values(of: PromptBatch) -> Tensor:
        stream = model.final_stream(of)
        reference = objective.reference(model.logits(stream))
        moved = model.logits(stream + F.pad(noise, (0, 0, 0, stream.shape[-2] - noise.shape[-2])))
        return objective.values(moved if objective.whole_vocabulary else _Few(**vars(moved)), of, reference)

    def fill(tokens: Tensor, *more: int) -> Tensor:
        return F.pad(tokens, more, value=-1)

    expected = values(batch)
    allowed = (1e-9 if model.dtype == torch.float64 else 1e-4) * max(1.0, largest(expected))
    changes = {
        ("sets of answers are filled up", "Leave out what is -1 in `answers` and `wrong_answers`."): replace(
            batch, answers=fill(batch.answers, 0, 1), wrong_answers=fill(batch.wrong_answers, 0, 1)
        ),
        ("an answer position is missing", "Leave out positions where `answer_positions` is -1."): replace(
            batch,
            answers=fill(batch.answers, 0, 0, 0, 1),
            wrong_answers=fill(batch.wrong_answers, 0, 0, 0, 1),
            answer_positions=fill(batch.answer_positions, 0, 1),
        ),
        ("answers of a set are in another order", "Treat all of them alike: a set has no order."): replace(
            batch, answers=_turned(batch.answers), wrong_answers=_turned(batch.wrong_answers)
        ),
    }
    for (what, remedy), other in changes.items():
        if not largest(values(other) - expected) <= allowed:
            refuse(f"Where {what}, values differ.", remedy)


def _turned(tokens: Tensor) -> Tensor:
    """Return sets of tokens in the reverse order; what fills them stays behind."""
    sizes = (tokens >= 0).sum(-1, keepdim=True)
    places = torch.arange(tokens.shape[-1], dtype=torch.int64)
    return tokens.gather(-1, torch.where(places < sizes, sizes - 1 - places, places))


class _Few(Logits):
    """Logits whose whole vocabulary nobody computes."""

    def all(self) -> Tensor:
        refuse("It says whole_vocabulary = False, and computes `logits.all()`.", "Set it to True, or use `logits.of`.")


def check_objective_order(make: MakeObjective, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that it is lower for better answers, or zero at the full model and larger elsewhere if it says so.

    Args:
        make: makes the objective.
        model: the model.
        batch: prompts with one answer each.

    Raises:
        ContractError: it is not.
    """
    objective = make()
    stream = model.final_stream(batch)
    logits = model.logits(stream)
    reference = objective.reference(logits)
    table = model.family.unembedding()[0]
    towards = table[batch.answers[..., 0]]
    if objective.needs_wrong_answers:
        towards = towards - table[batch.wrong_answers[..., 0]]
    better, worse = (objective.values(model.logits(stream + sign * towards), batch, reference) for sign in (1, -1))
    if objective.zero_at_full_model:
        zero = 1e-12 if model.dtype == torch.float64 else 1e-5
        if not bool(objective.values(logits, batch, reference).abs().max() < zero) or not bool(
            ((better > 0) & (worse > 0)).all()
        ):
            refuse("It says zero_at_full_model, and is not zero there alone.", "Leave that False, or use `reference`.")
        return
    if not bool((better <= worse).all()) or not bool((better < worse).any()):
        refuse("It is not lower for better answers.", "Negate it: a search keeps what makes it low.")


def check_objective_runs(make: MakeObjective, model: CircuitModel, batch: PromptBatch) -> None:
    """Check that a run finds a circuit by it.

    Raises:
        ContractError: scores are not finite.
    """
    strategy = quick_strategy(make())
    result = Discoverer("cpu", callbacks=[]).run(model, batch, strategy, objective=make(), sizes=(0.1,))
    if not bool(result.circuit.scores.isfinite().all()):
        refuse("Scores by it are not finite.", "Keep values and gradients finite.")


def quick_strategy(objective: Objective) -> str:
    """Return a quick strategy whose gradients are not zero."""
    return "eap_ig" if objective.zero_at_full_model else "eap"
