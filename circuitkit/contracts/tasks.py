"""What every task must do: checks of one of them, with one model."""

from collections.abc import Callable
from typing import get_args

import torch
from transformers import PreTrainedTokenizerBase

from circuitkit.config import specs
from circuitkit.contracts.objectives import quick_strategy
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer
from circuitkit.tasks.base import Split, Task

Pair = tuple[tuple[int, ...], tuple[int, ...]]
MakeTask = Callable[[], Task]
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
    strategy = quick_strategy(specs.make("objectives", task.objective))
    if not Discoverer("cpu", callbacks=[]).run(model, task, strategy, examples=4, sizes=(0.1,)).evaluations:
        refuse("A run evaluates nothing.", "Make prompts for all splits.")
    return preview.splitlines()[-1]
