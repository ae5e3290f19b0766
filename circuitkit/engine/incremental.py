"""The incremental editor: the replay editor's values, computing only what a removal changes.

Exact, and fast for five reasons:

1. *Upstream is constant.* Readers are opened from the logits backwards, so every writer before the open reader has the
   output it had in the starting circuit, and removing w -> r adds the constant õ_w - o_w to the input of r.
2. *Only the cone.* The change reaches the objective through kept edges only. Which heads and MLPs it passes depends on
   the open reader and the circuit behind it, not on what is removed: the cone is planned once for all hypotheses of a
   reader (`cone.py`) and then run for many at once.
3. *Only the needed positions.* What is read by `logits` alone is needed at the answer positions alone; through queries
   and MLPs that stays so; keys and values need all positions.
4. *Nothing before the prompts part.* Where clean and ablated outputs agree, nothing changes.
5. *Nothing is put right before it must be.* While a reader is open, what was removed from it is one more constant; the
   live state behind it is brought up to date when the next reader is opened, and rebuilt at every layer, so that no
   sum runs over thousands of edits. Where a precision policy computes with other weights for every reader, it is
   rebuilt for every reader, under these weights.

Live state (`LiveState`), for the circuit as it stands: every writer's difference o - õ, every reader's input, every
head's query, key and value.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.cone import Cone
from circuitkit.engine.editor import Editor
from circuitkit.engine.live import LiveState
from circuitkit.engine.scene import Scene

LARGEST_BATCH = 512
"""Hypotheses computed at once at most: beyond, a batch gains nothing."""
LARGEST_BYTES = 32 << 20
"""What hypotheses computed at once may take on a CPU, once there are `ENOUGH_ROWS`: more would be no faster."""
ENOUGH_ROWS = 384
"""With so many rows a matrix product is at its speed on a CPU."""


class IncrementalEditor(Editor):
    """Values of removals through the cone behind the open reader.

    Args:
        scenes: the prompts, in one batch or several.
        kept: the starting circuit, bool `[edges]`.
        memory_budget: bytes that the hypotheses of one run may take together; by default half of what is free.

    Attributes:
        forward_equivalents: multiply-adds of all values so far, in plain forwards of all prompts.
    """

    def __init__(self, scenes: Sequence[Scene], kept: Tensor | None = None, memory_budget: int | None = None) -> None:
        super().__init__(scenes, kept, memory_budget)
        self._states = [LiveState(scene, self.kept) for scene in scenes]
        self._cones: list[Cone] = []
        self._block = -1
        self._layer = -1
        self._committed = torch.zeros(0)
        # Where a policy computes with other weights for every reader, and in full precision to settle doubts
        self._rebuilds = self.policy.varies or self.policy.settles_doubts
        self._built: bool | None = None  # whether in full precision; None: not at all for the open reader
        self.forward_equivalents = 0.0

    def open(self, reader: int) -> None:
        """Turn to a reader's edges."""
        if self._rebuilds:
            super().open(reader)
            self._built = None
            return
        if self._cones and self._committed.any():
            for cone in self._cones:
                cone.update(self._committed)
        super().open(reader)
        block = self.graph.block(reader)
        if block.layer != self._layer:
            self._rebuild()
            self._layer = block.layer
        elif block.readers.start != self._block:
            for state in self._states:
                state.look_behind(self.kept)
        self._block = block.readers.start
        self._plan()

    def _build(self, full: bool) -> None:
        """Live state and cones in the precision that now is, where it is another than they were made in."""
        if self._rebuilds and self._built != full:
            self._rebuild()
            self._plan()
            self._built = full

    def _rebuild(self) -> None:
        layer = min(self.graph.block(self.reader).layer, self.graph.layers)
        for state in self._states:
            state.rebuild(self.kept, layer)

    def _plan(self) -> None:
        self._cones = [Cone(state, self.reader, self.kept) for state in self._states]
        self._committed = torch.zeros(self.graph.prefix(self.reader))

    def values(self, removals: Tensor, full: bool = False) -> Tensor:
        """See the base class."""
        with self.policy.full() if full else self.policy.investigate([self.reader]):
            self._build(full)
            return self._values(removals)

    @torch.no_grad()
    def _values(self, removals: Tensor) -> Tensor:
        fresh = removals & self.kept[self.graph.edges(self.reader)]
        removed = torch.cat([torch.zeros_like(self._committed)[None], fresh]) + self._committed  # [J + 1, P]
        total = torch.zeros(len(removed), dtype=torch.float64)
        for cone in self._cones:
            parts = removed.tensor_split(-(-len(removed) // self._hypotheses_at_once(cone)))
            total += torch.cat([cone.values(part) for part in parts]).double().sum(1).cpu()
            self.forward_equivalents += len(removed) * cone.cost * len(cone.state.scene.batch) / self.prompts
        return total / self.prompts

    def gradient(self) -> Tensor:
        """See the base class."""
        edges = self.graph.edges(self.reader)
        total = torch.zeros(edges.stop - edges.start, dtype=torch.float64)
        with self.policy.investigate([self.reader]), torch.enable_grad():
            self._build(full=False)
            for cone in self._cones:
                removed = self._committed[None].clone().requires_grad_()
                (slope,) = torch.autograd.grad(cone.values(removed).sum(), removed)
                total += slope[0].double().cpu()
        return total / self.prompts * self.kept[edges]

    def commit(self, removed: Tensor) -> None:
        """These edges of the open reader, bool `[P]`, are gone."""
        fresh = removed & self.kept[self.graph.edges(self.reader)]
        super().commit(removed)
        if not self._rebuilds or self._built is not None:
            self._committed += fresh

    def footprint(self) -> dict[str, int]:
        """Bytes held: `captures`, `live`, and `cone`, what one hypothesis adds behind the open reader."""
        return {
            "captures": sum(state.capture_bytes for state in self._states),
            "live": sum(state.live_bytes for state in self._states),
            "cone": sum(cone.bytes_per_hypothesis for cone in self._cones),
        }

    def _hypotheses_at_once(self, cone: Cone) -> int:
        fitting = memory.how_many(cone.bytes_per_hypothesis, self.memory_budget, "hypothesis of these prompts")
        if self.model.device.type == "cpu":
            fitting = min(fitting, max(LARGEST_BYTES // cone.bytes_per_hypothesis, -(-ENOUGH_ROWS // cone.rows)))
        return min(LARGEST_BATCH, fitting)
