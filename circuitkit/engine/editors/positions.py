"""The two sets of positions at which an incremental search computes nodes."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.attention import Rotary


class PositionSet(ABC):
    """P positions of every prompt of a batch.

    Attributes:
        count: P.
    """

    count: int

    def __init__(self, prepared: PreparedBatch) -> None:
        self._model, self._context = prepared.model, prepared.context
        self._rotary = {
            kind: None if rotary is None else (self.take(rotary[0]), self.take(rotary[1]))
            for kind, rotary in self._context.rotary.items()
        }

    @abstractmethod
    def take(self, x: Tensor) -> Tensor:
        """Take `[..., B, T, *]` at the positions, `[..., B, P, *]`."""

    @abstractmethod
    def put(self, target: Tensor, index: Tensor, x: Tensor) -> None:
        """Write `x` `[n, B, P, *]` into `target[index]` `[n, B, T, *]` at the positions."""

    def rotary(self, layer: int) -> Rotary:
        """Return a layer's cosines and sines at the positions, `[B, P, *]`, or None."""
        return self._rotary[self._model.family.rotary_kind(layer)]

    @abstractmethod
    def attention_mask(self, layer: int) -> Tensor:
        """Return the rows of a layer's additive attention mask at the positions, `[B, P, T]`."""


class FromFirstChange(PositionSet):
    """All positions from `start` on."""

    def __init__(self, prepared: PreparedBatch, start: int) -> None:
        self.start = start
        self.count = prepared.batch.length - start
        super().__init__(prepared)

    def take(self, x: Tensor) -> Tensor:
        """See the base class."""
        return x[..., self.start :, :]

    def put(self, target: Tensor, index: Tensor, x: Tensor) -> None:
        """See the base class."""
        target[index, :, self.start :] = x

    def attention_mask(self, layer: int) -> Tensor:
        """See the base class."""
        return self._model.attention_mask(layer, self._context)[:, self.start :]


class Answers(PositionSet):
    """The answer positions; a prompt with fewer than A repeats its last one."""

    def __init__(self, prepared: PreparedBatch) -> None:
        batch = prepared.batch
        self.columns = batch.read_positions  # [B, A]
        self.rows = torch.arange(len(batch), dtype=torch.int64, device=batch.clean.device)[:, None]
        self.count = self.columns.shape[1]
        super().__init__(prepared)
        self._masks = {window: self.take(mask) for window, mask in self._context.attention_masks.items()}

    def take(self, x: Tensor) -> Tensor:
        """See the base class."""
        return x[..., self.rows, self.columns, :]

    def put(self, target: Tensor, index: Tensor, x: Tensor) -> None:
        """See the base class."""
        target[index[:, None, None], self.rows, self.columns] = x

    def attention_mask(self, layer: int) -> Tensor:
        """See the base class."""
        return self._masks[self._model.family.window(layer)]


class Positions:
    """Both sets of positions of a batch.

    Args:
        prepared: the prompts.

    Attributes:
        changed: every position from the first at which a clean and an ablated output can differ, or from the first
            answer position if that is earlier.
        answers: the answer positions alone.
    """

    def __init__(self, prepared: PreparedBatch) -> None:
        self.answers = Answers(prepared)
        self.changed = FromFirstChange(prepared, min(prepared.first_changed_position, int(self.answers.columns.min())))

    @property
    def both(self) -> tuple[PositionSet, PositionSet]:
        """Return both sets, `changed` first."""
        return self.changed, self.answers

    def narrow(self, x: Tensor) -> Tensor:
        """Select the answers `[..., B, A, *]` from values at the positions `changed`, `[..., B, P, *]`."""
        return x[..., self.answers.rows, self.answers.columns - self.changed.start, :]


def needed_everywhere(graph: EdgeGraph, kept: Tensor, live: Tensor) -> Tensor:
    """Find the live writers that are needed at all positions, because some key or value depends on them.

    Args:
        graph: of the model.
        kept: the circuit, bool `[edges]`.
        live: its live writers, bool `[W]`.

    Returns:
        bool `[W]`. The other live writers are needed only at the answer positions. Coupled heads are needed at the
        positions of all of them.
    """
    needed = torch.zeros_like(live)
    for block in reversed(graph.blocks[:-1]):
        graph.couple(block, needed)
        if block.kind == "mlp":
            readers = needed[graph.mlp(block.layer)][None]
        else:
            heads = graph.heads_of(block.layer)
            groups = live[heads].unflatten(0, (graph.kv_readers, -1)).any(1)
            readers = torch.cat([needed[heads], groups, groups])
        if readers.any():
            needed[: block.writers] |= graph.matrix(kept, block)[readers].any(0)
    return needed & live
