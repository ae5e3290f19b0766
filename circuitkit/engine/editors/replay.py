"""The reference editor: every hypothesis is a masked run from the open reader's layer on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.editors.base import Editor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch, capture_bytes


class ReplayEditor(Editor):
    """Runs equation (1) from the reader's layer on: slow, but short and easy to check.

    The layers before it have not been edited, and their outputs are those of the starting circuit's run.

    Args:
        prepared_batches: the prompts, in one batch or several.
        kept: the starting circuit, bool `[edges]`.
        memory_budget: bytes for the hypotheses that run together; by default half of what is free.
    """

    def __init__(
        self,
        prepared_batches: Sequence[PreparedBatch],
        kept: Tensor | None = None,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(prepared_batches, kept, memory_budget)
        self._starting = self.kept.clone()
        self._start_outputs: list[Tensor] | None = None
        self._runs: list[MaskedRun] = []
        self._runs_layer = -1

    def open(self, reader: int) -> None:
        """Open a reader."""
        super().open(reader)
        layer = self.graph.block(reader).layer
        if layer == self._runs_layer:
            return
        with torch.no_grad():
            if self._start_outputs is None:
                with self.prepared_batches[0].capturing():
                    self._start_outputs = [
                        MaskedRun(prepared).outputs(self._starting) for prepared in self.prepared_batches
                    ]
            before = self.graph.head(layer, 0)
            starts = zip(self.prepared_batches, self._start_outputs, strict=True)
            self._runs = [MaskedRun(prepared, layer, outputs[:before]) for prepared, outputs in starts]
        self._runs_layer = layer

    def values(self, removals: Tensor, full: bool = False) -> Tensor:
        """See the base class."""
        return self._mean(self._values(self._with_current(removals), full).sum(1))

    def values_by_prompt(self, removals: Tensor, full: bool = False) -> Tensor:
        """See the base class."""
        return self._of_all_prompts(self._values(removals, full))

    @torch.no_grad()
    def _values(self, removals: Tensor, full: bool) -> Tensor:
        """Compute the values of this process's prompts, `[J, B]`."""
        masks = self.kept.repeat(len(removals), 1)
        masks[:, self.graph.edges(self.reader)] &= ~removals.cpu()
        found = []
        with self.policy.full() if full else self.policy.investigate([self.reader]):
            for run in self._runs:
                chunk = self._hypotheses_at_once(run.prepared)
                found.append(torch.cat([run.values(part) for part in masks.split(chunk)]).double().cpu())
        self.forward_equivalents += len(masks) * (self.graph.layers - self._runs_layer) / self.graph.layers
        return torch.cat(found, dim=1)

    def gradient(self) -> Tensor:
        """See the base class."""
        edges = self.graph.edges(self.reader)
        mask = self.kept.to(self.model.dtype)[None].requires_grad_()
        total = torch.zeros(edges.stop - edges.start, dtype=torch.float64)
        with self.policy.investigate([self.reader]), torch.enable_grad():
            for run in self._runs:
                (slope,) = torch.autograd.grad(run.values(mask).sum(), mask)
                total -= slope[0, edges].double().cpu()
        return self._mean(total) * self.kept[edges]

    def gradient_by_prompt(self) -> Tensor:
        """See the base class; one backward pass per prompt."""
        edges = self.graph.edges(self.reader)
        mask, slopes = self.kept.to(self.model.dtype)[None].requires_grad_(), []
        with self.policy.investigate([self.reader]), torch.enable_grad():
            for value in (value for run in self._runs for value in run.values(mask)[0]):
                (slope,) = torch.autograd.grad(value, mask, retain_graph=True)
                slopes.append(-slope[0, edges].double().cpu())
        return self._of_all_prompts(torch.stack(slopes, dim=1)) * self.kept[edges, None]

    def footprint(self) -> dict[str, int]:
        """Count the bytes of the captures."""
        return {"captures": capture_bytes(self.prepared_batches)}

    def _hypotheses_at_once(self, prepared: PreparedBatch) -> int:
        after = self.graph.n_writers - self.graph.head(min(self._runs_layer, self.graph.layers - 1), 0)
        vectors = after + 4 * self.graph.readers_per_layer  # differences; a layer's inputs and the results from them
        each = vectors * prepared.inputs[0].nbytes
        return memory.how_many(each, self.memory_budget, "hypothesis of these prompts")
