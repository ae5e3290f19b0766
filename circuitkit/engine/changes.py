"""What the hypotheses of a cone change: of every affected writer's output, and what readers see of it.

A circuit is sparse, so that a reader sums the changes of a few writers among many. A sum over kept edges alone
(`embedding_bag`) takes a fraction of the time of a matrix product with zeros.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitkit.engine.live import Positions


class Reads:
    """Which changes some readers see.

    Args:
        kept: bool `[n, c]`, on the device of the changes.

    Attributes:
        edges: how many changes are seen, each as often as there are readers that see it.
    """

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept
        self._counts = kept.sum(1)
        self._first = self._counts.cumsum(0) - self._counts
        self._readers, self._changes = kept.nonzero(as_tuple=True)
        self.edges = len(self._changes)
        self._vectors = 1
        self._bags = self._changes, self._first

    def bags(self, vectors: int) -> tuple[Tensor, Tensor]:
        """For sums over a table of vectors, so many a change: which to add, and where each sum's begin.

        The sums are in the order of the readers, and for each in the order of the vectors.
        """
        if vectors != self._vectors:
            each = torch.arange(vectors, device=self._changes.device)
            rank = torch.arange(len(self._changes), device=each.device) - self._first[self._readers]
            place = (self._first[self._readers] * vectors + rank)[:, None] + each * self._counts[self._readers][:, None]
            which = torch.empty_like(place).flatten()
            which[place.flatten()] = (self._changes[:, None] * vectors + each).flatten()
            begins = (self._first * vectors)[:, None] + each * self._counts[:, None]
            self._vectors, self._bags = vectors, (which, begins.flatten())
        return self._bags


class Changes(Protocol):
    """Changes so far, at all positions where they are needed there, and all of them at the answers alone."""

    def add(self, outputs: Tensor, written: Tensor | None, everywhere: bool) -> Tensor:
        """Take in the next writers' outputs `[n, J, B, P, D]`, less what they wrote `[n, B, P, D]`; the changes."""

    def summed(self, reads: Reads, everywhere: bool) -> Tensor:
        """What each reader sees of the first c changes, `[n, J, B, P, D]`."""


class TableOfChanges:
    """Changes in a table that has room for all.

    Args:
        positions: the two sets of positions.
        room: how many changes there will be at all positions, and at the answers.
    """

    def __init__(self, positions: Positions, room: dict[bool, int]) -> None:
        self._positions, self._room = positions, room
        self._tables: dict[bool, Tensor] = {}
        self._filled = {True: 0, False: 0}

    def add(self, outputs: Tensor, written: Tensor | None, everywhere: bool) -> Tensor:
        """See `Changes`."""
        change = self._rows(outputs, everywhere)
        if written is None:
            change.copy_(outputs)
        else:
            torch.sub(outputs, written.unsqueeze(1), out=change)
        if everywhere:
            there = self._positions.answers_of(change)
            self._rows(there, False).copy_(there)
        return change

    def summed(self, reads: Reads, everywhere: bool) -> Tensor:
        """See `Changes`."""
        table = self._tables[everywhere]
        which, begins = reads.bags(table[0, ..., 0].numel())
        sums = F.embedding_bag(which, table.view(-1, table.shape[-1]), begins, mode="sum")
        return sums.view(len(reads.kept), *table.shape[1:])

    def _rows(self, like: Tensor, everywhere: bool) -> Tensor:
        if everywhere not in self._tables:
            self._tables[everywhere] = like.new_empty(self._room[everywhere], *like.shape[1:])
        start = self._filled[everywhere]
        self._filled[everywhere] += len(like)
        return self._tables[everywhere][start : self._filled[everywhere]]


class DifferentiableChanges:
    """Changes as autograd wants them: in pieces that nothing writes to.

    Args:
        positions: the two sets of positions.
    """

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._pieces: dict[bool, list[Tensor]] = {True: [], False: []}

    def add(self, outputs: Tensor, written: Tensor | None, everywhere: bool) -> Tensor:
        """See `Changes`."""
        change = outputs if written is None else outputs - written.unsqueeze(1)
        self._pieces[everywhere].append(change)
        if everywhere:
            self._pieces[False].append(self._positions.answers_of(change))
        return change

    def summed(self, reads: Reads, everywhere: bool) -> Tensor:
        """See `Changes`."""
        pieces = self._pieces[everywhere]
        total = pieces[0].new_zeros(len(reads.kept), *pieces[0].shape[1:])
        start = 0
        for piece in pieces:
            kept = reads.kept[:, start : start + len(piece)]
            start += len(piece)
            if bool(kept.any()):
                total = total + (kept.to(piece) @ piece[: kept.shape[1]].flatten(1)).view_as(total)
        return total
