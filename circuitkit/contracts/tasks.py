"""What every task and every objective must do: checks of one of them, with one model."""

from collections.abc import Callable
from typing import get_args

import torch
from transformers import PreTrainedTokenizerBase

from circuitkit.config import specs
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer
from circuitkit.tasks.base import Split, Task

Pair = tuple[tuple[int, ...], tuple[int, ...]]
MakeTask = Callable[[], Task]
MakeObjective = Callable[[], Objective]
_ASKED = 12


def list_pairs(batch: PromptBatch) -> list[Pair]:
    """List the pairs of a batch, clean and corrupted ids, without padding."""
    rows = zip(batch.clean, batch.corrupted, batch.mask, strict=True)
    return [(tuple(one[real].tolist()), tuple(other[real].tolist())) for one, other, real in rows]


def check_prompts(make: MakeTask, tokenizer: PreTrainedTokenizerBase) -> dict[Split, PromptBatch]:
    """Check that splits share no prompt, that the seed decides them, and that pairs differ in tokens, not in length.

    Args:
        make: makes the task, each time a new object.
        tokenizer: of the model.

    Returns:
        The prompts by split.

    Raises:
        ContractError: they do not.
    """
    task = make()
    made = {split: task.prompts(tokenizer, split, _ASKED, seed=3) for split in get_args(Split)}
    for split, batch in made.items():
        if list_pairs(batch) != list_pairs(make().prompts(tokenizer, split, _ASKED, seed=3)):
            refuse(f"The same seed makes other {split} prompts.", "Draw from a `random.Random` that is seeded.")
        unknown = tokenizer.unk_token_id
        if unknown is not None and bool((torch.cat([batch.clean, batch.corrupted]) == unknown).any()):
            refuse("A prompt has a word that this tokenizer does not know.", "Use words of one known token.")
        _check_pairs(batch, split)
    seen = [{prompt for pair in list_pairs(batch) for prompt in pair} for batch in made.values()]
    if sum(map(len, seen)) != len(set.union(*seen)):
        refuse("Two splits share a prompt, clean or corrupted.", "Deal the words of the prompts among the splits.")
    available = task.available(tokenizer, "train", 4)
    takes_all = available is not None and available <= _ASKED  # which leaves the seed no choice, in given splits
    if not takes_all and list_pairs(made["train"]) == list_pairs(task.prompts(tokenizer, "train", _ASKED, seed=4)):
        refuse("Another seed makes the same train prompts.", "Let the seed decide: `Random(f'name {seed}')`.")
    return made


def _check_pairs(batch: PromptBatch, split: Split) -> None:
    pairs = list_pairs(batch)
    if not 0 < len(pairs) <= _ASKED:
        refuse(f"{_ASKED} {split} prompts were asked for, and it made {len(pairs)}.", "Make at most as many.")
    if any(one == other for one, other in pairs):
        refuse("A corrupted prompt is its clean one.", "Change what the task depends on.")
    if len({one for one, _ in pairs}) != len(pairs):
        refuse(f"A clean prompt is twice in the {split} split.", "Draw without repetition.")
    if not bool((batch.answer_positions >= 0).any(-1).all()):
        refuse("A prompt has no answer position.", "Give every prompt one.")


def check_available(make: MakeTask, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that `available` counts the prompts that a split can have.

    Raises:
        ContractError: it does not.
        NotApplicableError: it does not count them.
    """
    for split in get_args(Split):
        count = make().available(tokenizer, split, 3)
        if count is None:
            raise NotApplicableError("it does not override `available`, which counts the different prompts of a split")
        found = len(make().prompts(tokenizer, split, _ASKED, 3))
        if type(count) is not int or found != min(_ASKED, count):
            refuse(f"`available` says {count!r} {split} prompts, and of {_ASKED} it made {found}.", "Count them.")


def check_no_tokenizer(make: MakeTask) -> None:
    """Check that a task of text refuses a model without a tokenizer in one line.

    Raises:
        ContractError: it does not.
    """
    try:
        made = make().prompts(None, "train", 2, 0)
    except UsageError:
        return
    if not isinstance(made, PromptBatch):
        refuse("Without a tokenizer it makes no prompts.", "Raise UsageError(problem, remedy).")


def check_task_runs(make: MakeTask, model: CircuitModel) -> str:
    """Check that it can be previewed, and be run.

    Returns:
        How well the model does it.

    Raises:
        ContractError: a run of it measures nothing.
    """
    task = make()
    preview = task.preview(model, 1)
    strategy = _strategy_for(specs.make("objectives", task.objective))
    if not Discoverer("cpu", callbacks=[]).run(model, task, strategy, examples=4, sizes=(0.1,)).evaluations:
        refuse("A run evaluates nothing.", "Make prompts for all splits.")
    return preview.splitlines()[-1]


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
    (gradient,) = torch.autograd.grad(several.sum(), changed)
    if not bool(gradient.isfinite().all()) or not bool(gradient.abs().sum() > 0):
        refuse("Its gradient is not finite, or zero.", "Use differentiable operations; mask with `torch.where` before.")
    _check_rows(objective, model, batch)
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
    strategy = _strategy_for(make())
    result = Discoverer("cpu", callbacks=[]).run(model, batch, strategy, objective=make(), sizes=(0.1,))
    if not bool(result.circuit.scores.isfinite().all()):
        refuse("Scores by it are not finite.", "Keep values and gradients finite.")


def _strategy_for(objective: Objective) -> str:
    """Return a quick strategy whose gradients are not zero."""
    return "eap_ig" if objective.zero_at_full_model else "eap"
