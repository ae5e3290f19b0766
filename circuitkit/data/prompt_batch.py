"""A batch of prompts: clean and corrupted token ids, answer positions, answers and wrong answers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitkit.data.ids import is_id, read_positions, read_rows, read_sets
from circuitkit.errors import UsageError, cannot_move, quote
from circuitkit.torch_state import usual_torch_state

Ids = Tensor | Sequence[Sequence[int]]
Answers = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True, repr=False)
class PromptBatch:
    """Pairs of prompts, left-padded to one length. Make one with `from_ids`.

    Attributes:
        clean: token ids `[B, T]` of the prompts that show the behavior.
        corrupted: token ids `[B, T]` of their counterparts, which do not.
        mask: bool `[B, T]`, False on padding (the same for both).
        answer_positions: `[B, A]`, the positions whose logits predict an answer; -1 where a prompt has fewer than A.
        answers: token ids `[B, A, n]`, -1 where a set of answers has fewer than n.
        wrong_answers: likewise `[B, A, m]`; m is 0 if the task has none.
        notes: what a user should know about these prompts, such as that some occur twice.
        templates: one label per prompt, of what it was made from, such as the number of a template; empty if unknown.
    """

    clean: Tensor
    corrupted: Tensor
    mask: Tensor
    answer_positions: Tensor
    answers: Tensor
    wrong_answers: Tensor
    notes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    @classmethod
    @usual_torch_state()
    def from_ids(
        cls,
        clean: Ids,
        corrupted: Ids,
        answers: Answers,
        wrong_answers: Answers | None = None,
        *,
        answer_positions: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
        pad_id: int | None = 0,
        notes: Sequence[str] = (),
        templates: Sequence[str] = (),
    ) -> Self:
        """Make a batch from token ids; prompts of different lengths are left-padded.

        Ids, answers and positions may be lists, tensors, NumPy arrays, or pandas columns.

        Args:
            clean, corrupted: token ids, one row per prompt; the two prompts of a pair have the same length.
            answers: one token per prompt, or a set of tokens per prompt, or such a set per answer position. In a set,
                duplicates count once, and -1 means nothing.
            wrong_answers: likewise; needed by the objectives that are differences.
            answer_positions: the positions whose logits predict an answer, counted in the prompt without padding
                (negative: from its end); by default the last.
            pad_id: the padding token; it does not affect any result. None, as of a tokenizer without one, means 0.
            notes: what else a user should know about these prompts.
            templates: one label per prompt, by which figures can be grouped.

        Raises:
            UsageError: no prompts, an empty prompt, pairs of unequal length (the message names the first), counts
                that do not match, a position outside its prompt, something that is no token id, a token that is both
                an answer and a wrong answer.
        """
        if pad_id is not None and not is_id(pad_id):
            raise UsageError(f"pad_id={pad_id!r} is not a token id.", "Leave it out: it does not affect any result.")
        clean_rows, corrupted_rows = read_rows(clean, "clean"), read_rows(corrupted, "corrupted")
        _check_pairs(clean_rows, corrupted_rows)
        length, pad = max(map(len, clean_rows)), pad_id or 0
        pads = [length - len(row) for row in clean_rows]
        positions = _positions(answer_positions, pads, length)
        none: list[list[list[int]]] = [[[]] * positions.shape[1] for _ in pads]
        right = read_sets(answers, len(pads), "answers")
        wrong = none if wrong_answers is None else read_sets(wrong_answers, len(pads), "wrong_answers")
        _check_disjoint(right, wrong)
        batch = cls(
            clean=_pad_left(clean_rows, pads, pad),
            corrupted=_pad_left(corrupted_rows, pads, pad),
            mask=torch.arange(length, dtype=torch.long) >= torch.tensor(pads, dtype=torch.long)[:, None],
            answer_positions=positions,
            answers=_token_sets(right),
            wrong_answers=_token_sets(wrong),
            templates=_labels(templates, len(pads)),
        )._checked()
        rows = list(map(repr, zip(clean_rows, corrupted_rows, right, wrong, strict=True)))
        return replace(
            batch, notes=(*notes, *_notes(len(rows) - len(set(rows)), int(batch.unchanged.sum()), len(rows)))
        )

    def _checked(self) -> Self:
        positions = self.answer_positions.shape[1]
        for name in ("answers", "wrong_answers"):
            found = getattr(self, name).shape[1]
            if found != positions:
                raise UsageError(
                    f"There are {name} for {found} positions, but {positions} answer positions.",
                    f"Give one set of {name} per answer position.",
                )
            beyond = ((getattr(self, name) >= 0).any(-1) & (self.answer_positions < 0)).any(-1)
            if beyond.any():
                row = int(beyond.nonzero()[0])
                given = int((getattr(self, name)[row] >= 0).any(-1).nonzero().max()) + 1
                raise UsageError(
                    f"Prompt {row} has {name} for {given} positions, but "
                    f"{int((self.answer_positions[row] >= 0).sum())} answer positions.",
                    f"Give one set of {name} per answer position.",
                )
        return self

    def __len__(self) -> int:
        return self.clean.shape[0]

    @property
    def length(self) -> int:
        """Return T, the length of the longest prompt in tokens."""
        return self.clean.shape[1]

    @property
    def padded(self) -> bool:
        """Tell whether the prompts differ in length."""
        return not bool(self.mask.all())

    @cached_property
    def positions(self) -> Tensor:
        """Return the position of every token in its own prompt, `[B, T]`; 0 on padding."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @cached_property
    def read_positions(self) -> Tensor:
        """Return `answer_positions` with a prompt's last one in place of each that it lacks, `[B, A]`."""
        found = self.answer_positions
        return torch.where(found < 0, found.amax(1, keepdim=True), found)

    @cached_property
    def first_difference(self) -> Tensor:
        """Return the first position at which clean and corrupted differ, `[B]`; T if they are equal."""
        differs = self.clean != self.corrupted
        first = differs.long().argmax(-1)
        return torch.where(differs.any(-1), first, torch.full_like(first, self.length))

    @cached_property
    def unchanged(self) -> Tensor:
        """Tell of every pair whether its prompts are the same up to the last answer position, bool `[B]`."""
        return self.first_difference > self.answer_positions.amax(-1)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Return the prompts of a slice, or those with the numbers in a tensor, in its order."""
        kept = self._map(lambda values: values[rows if isinstance(rows, slice) else rows.to(values.device)])
        if not self.templates:
            return kept
        numbers = torch.arange(len(self), dtype=torch.long)[rows if isinstance(rows, slice) else rows.cpu()].tolist()
        return replace(kept, templates=tuple(self.templates[number] for number in numbers))

    def __repr__(self) -> str:
        length = f"up to {self.length}" if self.padded else str(self.length)
        return f"{type(self).__name__}({len(self)} prompts, {length} tokens)"

    def split(self, size: int) -> list[Self]:
        """Split the prompts into batches of at most `size`.

        Raises:
            UsageError: it is no positive number.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"size={quote(size)} is not a positive number of prompts.", "Give one such as 8.")
        return [self[start : start + size] for start in range(0, len(self), size)]

    @classmethod
    def join(cls, batches: Sequence[Self]) -> Self:
        """Join batches into one, left-padded to the longest prompt; labels only if every prompt has one.

        Raises:
            UsageError: there are none, or one is something else.
        """
        if not batches or not all(isinstance(one, PromptBatch) for one in batches):
            raise UsageError(f"{quote(batches)} are no batches to join.", "Give a list of PromptBatch.")
        length, positions = (max(getattr(one, of).shape[1] for one in batches) for of in ("clean", "answer_positions"))
        columns: dict[str, list[Tensor]] = {name: [] for name in ("clean", "corrupted", "mask", "answer_positions")}
        for one in batches:
            before, after = length - one.length, positions - one.answer_positions.shape[1]
            for name in ("clean", "corrupted", "mask"):
                columns[name].append(F.pad(getattr(one, name), (before, 0)))
            moved = torch.where(one.answer_positions < 0, -1, one.answer_positions + before)
            columns["answer_positions"].append(F.pad(moved, (0, after), value=-1))
        for name in ("answers", "wrong_answers"):
            sets = [getattr(one, name) for one in batches]
            largest = max(tokens.shape[2] for tokens in sets)
            shapes = [(0, largest - tokens.shape[2], 0, positions - tokens.shape[1]) for tokens in sets]
            columns[name] = [F.pad(tokens, shape, value=-1) for tokens, shape in zip(sets, shapes, strict=True)]
        labels = tuple(label for one in batches for label in one.templates)
        return cls(
            **{name: torch.cat(parts) for name, parts in columns.items()},
            notes=tuple(dict.fromkeys(note for one in batches for note in one.notes)),
            templates=labels if all(one.templates for one in batches) else (),
        )

    def clean_rows(self) -> list[tuple[int, ...]]:
        """List the ids of every clean prompt, without padding."""
        pads = (~self.mask).sum(1).tolist()
        return [tuple(row[pad:]) for row, pad in zip(self.clean.tolist(), pads, strict=True)]

    def trim(self) -> Self:
        """Drop the padding that all prompts share, as of a few short prompts that were padded for a longer one."""
        start = int(self.mask.any(0).long().argmax())
        return replace(
            self,
            clean=self.clean[:, start:],
            corrupted=self.corrupted[:, start:],
            mask=self.mask[:, start:],
            answer_positions=(self.answer_positions - start).masked_fill(self.answer_positions < 0, -1),
        )

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device.

        Raises:
            UsageError: there is no such device.
            CircuitKitError: its memory is too small.
        """
        try:
            return self._map(lambda values: values.to(device))
        except (RuntimeError, AssertionError) as error:
            raise cannot_move("The prompts", device, error) from error

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Apply a function to every tensor; notes and labels stay."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**given | {name: change(it) for name, it in given.items() if isinstance(it, Tensor)})


def _check_pairs(clean: list[list[int]], corrupted: list[list[int]]) -> None:
    if not clean:
        raise UsageError("The batch has no prompts.", "Give at least one.")
    if len(clean) != len(corrupted):
        raise UsageError(f"There are {len(clean)} clean and {len(corrupted)} corrupted prompts.", "Give pairs.")
    for number, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
        if len(one) != len(other):
            raise UsageError(
                f"Prompt {number} has {len(one)} clean and {len(other)} corrupted tokens.",
                "The two prompts of a pair must have the same length.",
            )
        if not one:
            raise UsageError(f"Prompt {number} is empty.", "Give at least one token.")


def _check_disjoint(answers: list[list[list[int]]], wrong_answers: list[list[list[int]]]) -> None:
    for number, (right, wrong) in enumerate(zip(answers, wrong_answers, strict=True)):
        for tokens, others in zip(right, wrong, strict=False):
            if both := [token for token in tokens if token in others]:
                raise UsageError(
                    f"Prompt {number} has {both[0]} both as an answer and as a wrong answer.",
                    "Remove it from one of the two.",
                )


def _notes(copies: int, unchanged: int, prompts: int) -> Iterator[str]:
    if copies:
        yield f"Prompts that are copies of others: {copies} of {prompts}; each counts."
    if unchanged:
        yield (
            f"Pairs whose clean and corrupted prompts are the same up to the answer: {unchanged} of {prompts}; "
            "with the ablation resample, no edge matters in them."
        )


def _labels(templates: Any, prompts: int) -> tuple[str, ...]:
    labels = None if isinstance(templates, str) or not isinstance(templates, Iterable) else tuple(templates)
    if labels is None or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"The templates are {quote(templates)}.", "Give a list with one text per prompt.")
    if len(labels) not in (0, prompts):
        raise UsageError(f"There are {len(labels)} templates for {prompts} prompts.", "Give one per prompt, or none.")
    return labels


def _pad_left(rows: list[list[int]], pads: list[int], pad: int) -> Tensor:
    return torch.tensor([[pad] * count + row for count, row in zip(pads, rows, strict=True)], dtype=torch.long)


def _positions(given: Any, pads: list[int], length: int) -> Tensor:
    if given is None:
        return torch.full((len(pads), 1), length - 1, dtype=torch.long)
    rows = read_positions(given, len(pads))
    result = torch.full((len(pads), max(map(len, rows))), -1, dtype=torch.long)
    for number, (row, pad) in enumerate(zip(rows, pads, strict=True)):
        for column, position in enumerate(row):
            if not -(length - pad) <= position < length - pad:
                raise UsageError(
                    f"Prompt {number} has {length - pad} tokens and no position {position}.",
                    "Give answer positions inside the prompt.",
                )
            result[number, column] = position + (pad if position >= 0 else length)
        if not row:
            raise UsageError(f"Prompt {number} has no answer position.", "Give at least one.")
    return result


def _token_sets(nested: list[list[list[int]]]) -> Tensor:
    """Make `[B, A, n]` from sets of tokens per prompt and answer position, padded with -1."""
    positions = max(map(len, nested))
    widest = max((len(tokens) for row in nested for tokens in row), default=0)
    result = torch.full((len(nested), positions, widest), -1, dtype=torch.long)
    for number, row in enumerate(nested):
        for position, tokens in enumerate(row):
            result[number, position, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return result
