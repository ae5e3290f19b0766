"""The base class of tasks, which make prompts for a model's tokenizer."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitkit.config.checks import check_split
from circuitkit.config.reprs import constructor_form
from circuitkit.data.accuracy import find_right
from circuitkit.data.logits import Logits
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError, quote

if TYPE_CHECKING:  # a task can be used and written without loading the model code
    from circuitkit.models.circuit_model import CircuitModel

Split = Literal["train", "validation", "test"]
_WIDTH = 110
_MEASURED = 32
_AT_ONCE = 100_000
_HUGE = 10**12


class Task(ABC):
    """A behavior, shown by pairs of clean and corrupted prompts.

    A subclass's constructor arguments are its configuration: typed, documented, validated in the
    constructor.
    """

    objective: str = "logit_difference"
    """The name of the objective that suits the task: what `discover` and `compare` take where none is given."""

    @abstractmethod
    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make at most `examples` pairs of one split, the same for the same arguments.

        If there are fewer, a note of the batch says how many.
        The splits of one seed share no prompt. Only words that are one token for this tokenizer are used.

        Raises:
            UsageError: the task needs a tokenizer and there is none, or too few words or prompts are left.
        """

    def available(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, seed: int) -> int | None:
        """Return how many different prompts a split can have; None if that is not known, as by default.

        Args:
            tokenizer, split, seed: as for `prompts`, which makes no more than this for the same three.

        Raises:
            UsageError: as `prompts`.
        """
        return None

    def __repr__(self) -> str:
        return constructor_form(self)

    def preview(self, model: "CircuitModel", examples: int = 3, seed: int = 0) -> str:
        """Show pairs of the train split token by token, and how well the model does the task.

        Args:
            model: whose tokenizer makes the prompts and whose answers are measured.
            examples: how many pairs to show; the measurement uses at least 32, if the task has them.
            seed: of the prompts.

        Returns:
            Several lines of text, with how many prompts each split can have and the notes on the prompts. *Right* means
            that the best answer has a larger logit than the best wrong answer (or than every other token, if there are
            no wrong answers), as in `circuitkit.data.accuracy`; the logit difference is the objective
            `logit_difference`.

        Raises:
            UsageError: as `prompts`.
        """
        if not hasattr(model, "tokenizer"):
            raise UsageError(f"{quote(model)} is no model.", "Give a CircuitModel, such as from_pretrained('toy').")
        batch = self.prompts(model.tokenizer, "train", max(examples, _MEASURED), seed).to(model.device)
        with torch.no_grad():
            logits = model.logits(model.final_stream(batch))
        shown = [show_pair(batch, row, model.tokenizer) for row in range(min(examples, len(batch)))]
        supply = {split: self.available(model.tokenizer, split, seed) for split in get_args(Split)}
        if counts := ", ".join(
            f"{format_count(count)} in {split}" for split, count in supply.items() if count is not None
        ):
            shown.append(f"Different prompts: {counts}.")
        return "\n\n".join([*shown, *(f"Note: {note}" for note in batch.notes), _measure(batch, logits)])


def own_objective(task: Task | PromptBatch) -> str:
    """Return the name of the objective that suits a task; prompts without a task have that of `Task`."""
    return (task if isinstance(task, Task) else Task).objective


def require_tokenizer(tokenizer: PreTrainedTokenizerBase | None, task: Task) -> PreTrainedTokenizerBase:
    """Return the tokenizer, for a task that needs one.

    Raises:
        UsageError: there is none.
    """
    if tokenizer is None:
        raise UsageError(
            f"The task {type(task).__name__} is made of text, and the model has no tokenizer.",
            "Give CircuitModel.from_model(model, tokenizer=...) one, or token ids: PromptBatch.from_ids(...).",
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UsageError(f"{quote(tokenizer)} is no tokenizer.", "Give one, such as `model.tokenizer`.")
    return tokenizer


def check_request(split: str, examples: int) -> None:
    """Refuse arguments of `Task.prompts` that are wrong for every task.

    Raises:
        UsageError: an unknown split, or no examples.
    """
    check_split(split)
    if type(examples) is not int or examples < 1:
        raise UsageError(f"examples={examples!r} is not a positive number.", "Ask for at least one.")


def check_choice(task: Task, name: str, value: Any, known: Any) -> None:
    """Refuse an argument of a task that is not one of those in a `Literal`.

    Raises:
        UsageError: it is none of them.
    """
    if value not in get_args(known):
        raise UsageError(
            f"There is no {name} {value!r} of {type(task).__name__}.", f"Choose one of {', '.join(get_args(known))}."
        )


def check_supply(what: str, split: Split, examples: int, available: int) -> list[str]:
    """Compare how many different prompts were asked for with how many there are, before any is made.

    Returns:
        A note if there are fewer, or nothing.

    Raises:
        UsageError: there are none, or fewer and yet so many that making all of them would take minutes.
    """
    if not available:
        raise UsageError(
            f"{what} has no prompts in the split {split!r}.", "Choose another seed, or other arguments of the task."
        )
    if examples <= available:
        return []
    has = f"{what} has {format_count(available)} different prompt{'s' if available > 1 else ''}"
    fewer = f"fewer than the {examples:,} asked for."
    if available > _AT_ONCE:
        raise UsageError(f"{has} in the split {split!r}, {fewer}", f"Ask for fewer, such as {_AT_ONCE // 100:,}.")
    return [f"{has}, {fewer}"]


def join_counts(counts: Mapping[str, int]) -> str:
    """Write `{"names": 8, "places": 1}` as "8 names and 1 place"; the first word with an `s` at its end is plural."""
    kinds = [re.sub(r"s\b", "", kind, count=1) if count == 1 else kind for kind, count in counts.items()]
    *most, last = [f"{count} {kind}" for count, kind in zip(counts.values(), kinds, strict=True)]
    return f"{', '.join(most)} and {last}" if most else last


def format_count(count: int) -> str:
    """Write a number of prompts, such as 1,234; of a huge one the power of ten below it."""
    return f"{count:,}" if count < _HUGE else f"over 10^{len(str(count)) - 1}"


def show_pair(batch: PromptBatch, row: int, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Show one pair in aligned columns, wrapped, with `^` under tokens that differ."""
    real = batch.mask[row]
    clean, corrupted = batch.clean[row][real].tolist(), batch.corrupted[row][real].tolist()
    lines = [f"Pair {row + 1}: {len(clean)} tokens (· is a space)"]
    heads = ["  clean      ", "  corrupted  ", "             "]
    block = list(heads)
    for one, other in zip(clean, corrupted, strict=True):
        cells = [_piece(one, tokenizer), _piece(other, tokenizer)]
        width = max(map(len, cells))
        cells.append("" if one == other else "^" * width)
        if len(block[0]) + width > _WIDTH and block[0] != heads[0]:
            lines += [line.rstrip() for line in block]
            block = list(heads)
        block = [line + cell.ljust(width + 1) for line, cell in zip(block, cells, strict=True)]
    lines += [line.rstrip() for line in block]
    padding = len(real) - len(clean)
    for column, position in enumerate(batch.answer_positions[row].tolist()):
        if position >= 0:
            where = position - padding
            right, wrong = (_set(tokens[row, column], tokenizer) for tokens in (batch.answers, batch.wrong_answers))
            lines.append(f"  answer after token {where + 1} ({_piece(clean[where], tokenizer)}): {right}, not {wrong}")
    return "\n".join(line for line in lines if line)


def _piece(token: int, tokenizer: PreTrainedTokenizerBase | None) -> str:
    if tokenizer is None:
        return str(token)
    text = tokenizer.decode([token])
    return repr(text)[1:-1].replace(" ", "·")


def _set(tokens: Tensor, tokenizer: PreTrainedTokenizerBase | None, most: int = 4) -> str:
    pieces = [_piece(token, tokenizer) for token in tokens.tolist() if token >= 0]
    more = f" and {len(pieces) - most} more" if len(pieces) > most else ""
    return (" ".join(pieces[:most]) or "any other") + more


def _measure(batch: PromptBatch, logits: Logits) -> str:
    """Describe accuracy and mean logit difference of logits at the answer positions, in one line."""
    answers = int((batch.answers >= 0).any(-1).sum())
    if not answers:
        return "Clean prompts: no answers to measure."
    right = int(find_right(logits, batch).sum())
    objective = LogitDifference()
    try:
        objective.check(batch)
        said = f"mean logit difference {-objective.values(logits, batch, None).mean().item():.2f}"
    except UsageError:
        said = "no wrong answers to compare with"
    return f"Clean prompts: right on {right} of {answers} answers ({right / answers:.1%}), {said}."
