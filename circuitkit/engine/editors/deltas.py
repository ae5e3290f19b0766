"""Deltas: the changes of affected writers' outputs under each hypothesis, and their sums at readers' inputs.

In a sparse circuit, a reader sums the deltas of few writers. A sum over kept edges only (`embedding_bag`) takes a
fraction of the time of a matrix product with zeros. In a dense one the product is faster, and needs no bags.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitkit.engine.editors.positions import Positions, PositionSet


class KeptEdges:
    """The kept edges from deltas to some readers.

    Args:
        kept: bool `[n, c]` for n readers and the first c deltas, on the device of the deltas.

    Attributes:
        count: the number of kept edges.
        dense: whether a matrix product is faster than the bags. The rule is from times of both on a CPU: the bags' time
            grows with the kept edges, the product's with the deltas and, in smaller part, with deltas times readers.
    """

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept
        self._counts = kept.sum(1)
        self._first = self._counts.cumsum(0) - self._counts
        self._readers, self._deltas = kept.nonzero(as_tuple=True)
        self.count = len(self._deltas)
        readers, deltas = kept.shape
        self.dense = 3 * self.count > (readers + 1) * deltas
        self._vectors = 1
        self._bags = self._deltas, self._first

    def index_bytes(self, vectors: int) -> int:
        """Count the bytes of the bags, which are held while the reader is open; a dense product needs none.

        Args:
            vectors: as in `bags`.
        """
        return 0 if self.dense else 8 * vectors * (self.count + len(self.kept))

    def bags(self, vectors: int) -> tuple[Tensor, Tensor]:
        """Return the arguments of `embedding_bag`: the rows of the table to add, and where each sum begins.

        Args:
            vectors: the number of vectors per delta (hypotheses x prompts x positions). The table has one row per
                vector, ordered by delta.

        Returns:
            Numbers of rows, and the place of each sum's first row among them. Sums are ordered by reader, then by
            vector.
        """
        if vectors != self._vectors:
            each = torch.arange(vectors, dtype=torch.int64, device=self._deltas.device)
            rank = torch.arange(len(self._deltas), dtype=torch.int64, device=each.device) - self._first[self._readers]
            place = (self._first[self._readers] * vectors + rank)[:, None] + each * self._counts[self._readers][:, None]
            which = torch.empty_like(place).flatten()
            which[place.flatten()] = (self._deltas[:, None] * vectors + each).flatten()
            begins = (self._first * vectors)[:, None] + each * self._counts[:, None]
            self._vectors, self._bags = vectors, (which, begins.flatten())
        return self._bags


class Deltas(Protocol):
    """The deltas so far, listed per set of positions; a delta at all positions is also listed at the answers."""

    def add(self, outputs: Tensor, before: Tensor | None, at: PositionSet) -> Tensor:
        """Add and return the next deltas: outputs `[n, J, B, P, D]` minus those before, `[n, B, P, D]`."""

    def sums(self, edges: KeptEdges, at: PositionSet) -> Tensor:
        """Sum the deltas along the kept edges of n readers, `[n, J, B, P, D]`."""


class DeltaTable:
    """Deltas in a preallocated table.

    Args:
        positions: the two sets of positions.
        room: the number of deltas that each set will have.
    """

    def __init__(self, positions: Positions, room: Mapping[PositionSet, int]) -> None:
        self._positions, self._room = positions, room
        self._tables: dict[PositionSet, Tensor] = {}
        self._filled = dict.fromkeys(positions.both, 0)

    def add(self, outputs: Tensor, before: Tensor | None, at: PositionSet) -> Tensor:
        """See `Deltas`."""
        delta = self._next_rows(outputs, at)
        if before is None:
            delta.copy_(outputs)
        else:
            torch.sub(outputs, before.unsqueeze(1), out=delta)
        if at is self._positions.changed:
            at_answers = self._positions.narrow(delta)
            self._next_rows(at_answers, self._positions.answers).copy_(at_answers)
        return delta

    def sums(self, edges: KeptEdges, at: PositionSet) -> Tensor:
        """See `Deltas`."""
        table = self._tables[at]
        if edges.dense:
            deltas = table[: edges.kept.shape[1]]
            return (edges.kept.to(table) @ deltas.flatten(1)).view(-1, *table.shape[1:])
        which, begins = edges.bags(table[0, ..., 0].numel())
        sums = F.embedding_bag(which, table.view(-1, table.shape[-1]), begins, mode="sum")
        return sums.view(len(edges.kept), *table.shape[1:])

    def _next_rows(self, like: Tensor, at: PositionSet) -> Tensor:
        if at not in self._tables:
            self._tables[at] = like.new_empty(self._room[at], *like.shape[1:])
        start = self._filled[at]
        self._filled[at] += len(like)
        return self._tables[at][start : self._filled[at]]


class DifferentiableDeltas:
    """Deltas for autograd, which does not allow writes into one table: a list of tensors.

    Args:
        positions: the two sets of positions.
    """

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._pieces: dict[PositionSet, list[Tensor]] = {at: [] for at in positions.both}

    def add(self, outputs: Tensor, before: Tensor | None, at: PositionSet) -> Tensor:
        """See `Deltas`."""
        delta = outputs if before is None else outputs - before.unsqueeze(1)
        self._pieces[at].append(delta)
        if at is self._positions.changed:
            self._pieces[self._positions.answers].append(self._positions.narrow(delta))
        return delta

    def sums(self, edges: KeptEdges, at: PositionSet) -> Tensor:
        """See `Deltas`."""
        pieces = self._pieces[at]
        total = pieces[0].new_zeros(len(edges.kept), *pieces[0].shape[1:])
        start = 0
        for piece in pieces:
            kept = edges.kept[:, start : start + len(piece)]
            start += len(piece)
            if bool(kept.any()):
                total = total + (kept.to(piece) @ piece[: kept.shape[1]].flatten(1)).view_as(total)
        return total
