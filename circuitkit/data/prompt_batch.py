"""A batch of prompts: clean and corrupted token ids, answer positions, answers and wrong answers."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from circuitkit.errors import UsageError

Ids = Tensor | Sequence[Sequence[int]]
Answers = Tensor | Sequence[int] | Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True)
class PromptBatch:
    """Pairs of prompts, left-padded to one length. Make one with `from_ids`.

    Attributes:
        clean: token ids `[B, T]` of the prompts that show the behavior.
        corrupted: token ids `[B, T]` of their counterparts, which do not.
        mask: bool `[B, T]`, False on padding (the same for both).
        answer_positions: `[B, A]`, the positions whose logits predict an answer; -1 where a prompt has fewer than A.
        answers: token ids `[B, A, n]`, -1 where a set of answers has fewer than n.
        wrong_answers: likewise `[B, A, m]`; m is 0 if the task has none.
    """

    clean: Tensor
    corrupted: Tensor
    mask: Tensor
    answer_positions: Tensor
    answers: Tensor
    wrong_answers: Tensor

    @classmethod
    def from_ids(
        cls,
        clean: Ids,
        corrupted: Ids,
        answers: Answers,
        wrong_answers: Answers | None = None,
        *,
        answer_positions: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
        pad_id: int = 0,
    ) -> Self:
        """Make a batch from token ids; prompts of different lengths are left-padded.

        Args:
            clean, corrupted: token ids, one row per prompt; the two prompts of a pair have the same length.
            answers: one token per prompt, or a set of tokens per prompt, or such a set per answer position.
            wrong_answers: likewise; needed by the objectives that are differences.
            answer_positions: the positions whose logits predict an answer, counted in the prompt without padding
                (negative: from its end); by default the last.
            pad_id: the padding token; it does not affect any result.

        Raises:
            UsageError: no prompts, an empty prompt, pairs of unequal length (the message names the first), counts
                that do not match, a position outside its prompt.
        """
        clean_rows, corrupted_rows = _rows(clean, "clean"), _rows(corrupted, "corrupted")
        if not clean_rows:
            raise UsageError("The batch has no prompts.", "Give at least one.")
        if len(clean_rows) != len(corrupted_rows):
            raise UsageError(
                f"There are {len(clean_rows)} clean and {len(corrupted_rows)} corrupted prompts.", "Give pairs."
            )
        for number, (one, other) in enumerate(zip(clean_rows, corrupted_rows, strict=True)):
            if len(one) != len(other):
                raise UsageError(
                    f"Prompt {number} has {len(one)} clean and {len(other)} corrupted tokens.",
                    "The two prompts of a pair must have the same length.",
                )
            if not one:
                raise UsageError(f"Prompt {number} is empty.", "Give at least one token.")
        length = max(map(len, clean_rows))
        pads = [length - len(row) for row in clean_rows]
        positions = _positions(answer_positions, pads, length)
        no_answers: Answers = torch.full((len(pads), positions.shape[1], 0), -1)
        return cls(
            clean=torch.tensor([[pad_id] * pad + row for pad, row in zip(pads, clean_rows, strict=True)]),
            corrupted=torch.tensor([[pad_id] * pad + row for pad, row in zip(pads, corrupted_rows, strict=True)]),
            mask=torch.arange(length) >= torch.tensor(pads)[:, None],
            answer_positions=positions,
            answers=_token_sets(answers, len(clean_rows), "answers"),
            wrong_answers=_token_sets(
                no_answers if wrong_answers is None else wrong_answers, len(pads), "wrong_answers"
            ),
        )._checked()

    def _checked(self) -> Self:
        positions = self.answer_positions.shape[1]
        for name in ("answers", "wrong_answers"):
            found = getattr(self, name).shape[1]
            if found != positions:
                raise UsageError(
                    f"There are {name} for {found} positions, but {positions} answer positions.",
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

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def split(self, size: int) -> list[Self]:
        """Split the prompts into batches of at most `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device."""
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def _rows(ids: Ids, name: str) -> list[list[int]]:
    try:
        rows = ids.tolist() if isinstance(ids, Tensor) else [list(row) for row in ids]
        return [[int(token) for token in row] for row in rows]
    except TypeError as error:
        raise UsageError(
            f"The {name} prompts are not rows of token ids.", "Give a list of lists, or a [B, T] tensor."
        ) from error


def _positions(given: Sequence[int] | Sequence[Sequence[int]] | Tensor | None, pads: list[int], length: int) -> Tensor:
    if given is None:
        return torch.full((len(pads), 1), length - 1)
    listed: list[Any] = given.tolist() if isinstance(given, Tensor) else list(given)
    rows: list[list[int]] = [[row] if isinstance(row, int) else list(row) for row in listed]
    if len(rows) != len(pads):
        raise UsageError(
            f"There are answer positions for {len(rows)} of {len(pads)} prompts.", "Give one row per prompt."
        )
    widest = max(map(len, rows))
    result = torch.full((len(pads), widest), -1)
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


def _token_sets(given: Answers, prompts: int, name: str) -> Tensor:
    """Make `[B, A, n]` from one token or set per prompt, or one set per answer position; padded with -1."""
    listed: list[Any] = given.tolist() if isinstance(given, Tensor) else list(given)
    if len(listed) != prompts:
        raise UsageError(f"There are {len(listed)} {name} for {prompts} prompts.", f"Give {name} for every prompt.")
    nested: list[list[list[int]]] = []
    for row in listed:
        if isinstance(row, int):
            nested.append([[row]])
        elif all(isinstance(token, int) for token in row):
            nested.append([list(row)])
        else:
            nested.append([list(tokens) for tokens in row])
    positions = max(map(len, nested))
    widest = max(len(tokens) for row in nested for tokens in row)
    result = torch.full((prompts, positions, widest), -1)
    for number, row in enumerate(nested):
        for position, tokens in enumerate(row):
            result[number, position, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return result
