"""The reference editor: every hypothesis is a masked run from the open reader's layer on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.editor import Editor
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.scene import Scene


class ReplayEditor(Editor):
    """Runs equation (1) from the reader's layer on: slow, short, obviously right.

    What stands before that layer has not been edited yet and is taken from the starting circuit's run.

    Args:
        scenes: the prompts, in one batch or several.
        kept: the starting circuit, bool `[edges]`.
        memory_budget: bytes that the hypotheses of one run may take together; by default half of what is free.
    """

    def __init__(self, scenes: Sequence[Scene], kept: Tensor | None = None, memory_budget: int | None = None) -> None:
        super().__init__(scenes, kept, memory_budget)
        self._starting = self.kept.clone()
        self._start_outputs: list[Tensor] | None = None
        self._runs: list[MaskedRun] = []
        self._runs_layer = -1

    def open(self, reader: int) -> None:
        """Turn to a reader's edges."""
        super().open(reader)
        layer = self.graph.block(reader).layer
        if layer == self._runs_layer:
            return
        with torch.no_grad():
            if self._start_outputs is None:
                with self.scenes[0].capturing():
                    self._start_outputs = [MaskedRun(scene).outputs(self._starting) for scene in self.scenes]
            before = self.graph.head(layer, 0)
            starts = zip(self.scenes, self._start_outputs, strict=True)
            self._runs = [MaskedRun(scene, layer, outputs[:before]) for scene, outputs in starts]
        self._runs_layer = layer

    @torch.no_grad()
    def values(self, removals: Tensor, full: bool = False) -> Tensor:
        """See the base class."""
        masks = self.kept.repeat(len(removals) + 1, 1)
        masks[1:, self.graph.edges(self.reader)] &= ~removals.cpu()
        total = torch.zeros(len(masks), dtype=torch.float64)
        with self.policy.full() if full else self.policy.investigate([self.reader]):
            for run in self._runs:
                chunk = self._hypotheses_at_once(run.scene)
                values = torch.cat([run.values(part) for part in masks.split(chunk)])  # [J + 1, B]
                total += values.double().sum(1).cpu()
        return total / self.prompts

    def gradient(self) -> Tensor:
        """See the base class."""
        edges = self.graph.edges(self.reader)
        mask = self.kept.to(self.model.dtype)[None].requires_grad_()
        total = torch.zeros(edges.stop - edges.start, dtype=torch.float64)
        with self.policy.investigate([self.reader]), torch.enable_grad():
            for run in self._runs:
                (slope,) = torch.autograd.grad(run.values(mask).sum(), mask)
                total -= slope[0, edges].double().cpu()
        return total / self.prompts * self.kept[edges]

    def _hypotheses_at_once(self, scene: Scene) -> int:
        after = self.graph.n_writers - self.graph.head(min(self._runs_layer, self.graph.layers - 1), 0)
        vectors = after + 4 * self.graph.readers_per_layer  # differences, and a layer's inputs and what is made of them
        each = vectors * scene.embedded.numel() * scene.embedded.element_size()
        return memory.how_many(each, self.memory_budget, "hypothesis of these prompts")
