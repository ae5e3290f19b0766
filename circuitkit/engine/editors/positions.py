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
        rotary: cosines and sines at the positions, `[B, P, *]`, or None.
    """

    count: int
    rotary: Rotary

    @abstractmethod
    def take(self, x: Tensor) -> Tensor:
        """Take `[..., B, T, *]` at the positions, `[..., B, P, *]`."""

    @abstractmethod
    def put(self, target: Tensor, index: Tensor, x: Tensor) -> None:
        """Write `x` `[n, B, P, *]` into `target[index]` `[n, B, T, *]` at the positions."""

    @abstractmethod
    def attention_mask(self, layer: int) -> Tensor:
        """Return the rows of a layer's additive attention mask at the positions, `[B, P, T]`."""


class FromFirstChange(PositionSet):
    """All positions from `start` on."""

    def __init__(self, prepared: PreparedBatch, start: int) -> None:
        self.start = start
        self.count = prepared.batch.length - start
        self._model, self._context = prepared.model, prepared.context
        rotary = prepared.context.rotary
        self.rotary = None if rotary is None else (rotary[0][:, start:], rotary[1][:, start:])

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
        model, context = prepared.model, prepared.context
        rotary = context.rotary
        self.rotary = None if rotary is None else (self._pick(rotary[0]), self._pick(rotary[1]))
        self._window = model.family.window
        self._masks = {window: self._pick(mask) for window, mask in context.attention_masks.items()}

    def _pick(self, x: Tensor) -> Tensor:
        return x[self.rows, self.columns]

    def take(self, x: Tensor) -> Tensor:
        """See the base class."""
        return x[..., self.rows, self.columns, :]

    def put(self, target: Tensor, index: Tensor, x: Tensor) -> None:
        """See the base class."""
        target[index[:, None, None], self.rows, self.columns] = x

    def attention_mask(self, layer: int) -> Tensor:
        """See the base class."""
        return self._masks[self._window(layer)]


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
        bool `[W]`. The other live writers are needed only at the answer positions.
    """
    needed = torch.zeros_like(live)
    for block in reversed(graph.blocks[:-1]):
        if block.kind == "mlp":
            readers = needed[graph.mlp(block.layer)][None]
        else:
            heads = graph.heads_of(block.layer)
            groups = live[heads].unflatten(0, (graph.kv_readers, -1)).any(1)
            readers = torch.cat([needed[heads], groups, groups])
        if readers.any():
            needed[: block.writers] |= graph.matrix(kept, block)[readers].any(0)
    return needed & live
