"""The interface that ACDC and edge patching build on: a circuit under edit."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.prepared_batch import PreparedBatch


class Editor(ABC):
    """A circuit under edit, and the objective's value for it.

    Readers are opened from the logits backwards: layers from the last to the first; within a layer of a serial model
    the MLP first, otherwise in any order. A reader may be opened again. Edges are removed, never put back.

    Args:
        prepared_batches: the prompts, in one batch or several; values are means over all of them, in all processes.
        kept: the starting circuit, bool `[edges]`; by default the full model.
        memory_budget: bytes for the hypotheses that run together; by default half of what is free.

    Attributes:
        kept: the current circuit, bool `[edges]`.
        reader: the open reader.
        forward_equivalents: multiply-adds of all values so far, divided by those of a forward pass of all prompts.
    """

    def __init__(
        self,
        prepared_batches: Sequence[PreparedBatch],
        kept: Tensor | None = None,
        memory_budget: int | None = None,
    ) -> None:
        self.prepared_batches = prepared_batches
        self.model = prepared_batches[0].model
        self.graph = self.model.graph
        self.policy = prepared_batches[0].policy
        self.kept = torch.ones(len(self.graph), dtype=torch.bool) if kept is None else kept.clone()
        self.processes = prepared_batches[0].processes
        prompts = torch.tensor(sum(len(prepared.batch) for prepared in prepared_batches), dtype=torch.int64)
        self.prompts = int(self.processes.sum(prompts))
        self.reader = self.graph.logits
        # Measured once: another number of hypotheses per batch would change the last bits of the values
        self.memory_budget = memory_budget or memory.budget(self.model.device)
        self.forward_equivalents = 0.0
        self._live: Tensor | None = None

    def restart(self, kept: Tensor) -> None:
        """Replace the circuit by another one that a search has reached, and forget everything computed for this one.

        The search must have begun from this editor's starting circuit, and the next reader to be opened must be one of
        the layer that it has reached.
        """
        self.kept = kept.clone()
        self._live = None

    def is_live(self, reader: int) -> bool:
        """Tell whether a writer that the reader feeds has a path of kept edges to the logits."""
        if reader == self.graph.logits:
            return True
        if self._live is None:
            self._live = self.graph.live_writers(self.kept)
        writers = self.graph.writers_fed_by(reader)
        return bool(self._live[writers.start : writers.stop].any())

    def open(self, reader: int) -> None:
        """Open a reader: the methods below concern its edges."""
        self.reader = reader

    @abstractmethod
    def values(self, removals: Tensor, full: bool = False) -> Tensor:
        """Compute the objective for the current circuit, then without some of the open reader's edges.

        Args:
            removals: the edges that each hypothesis removes, bool `[J, U]`; U is the number of writers before the
                open reader.
            full: compute everything downstream of the open reader in full precision, whatever the policy.

        Returns:
            `[J + 1]` float64 on the CPU. All are computed in the same precision, so that differences within one call
            are effects.
        """

    @abstractmethod
    def values_by_prompt(self, removals: Tensor, full: bool = False) -> Tensor:
        """Compute the objective prompt by prompt, without some of the open reader's edges.

        Args:
            removals: the edges that each hypothesis removes, bool `[J, U]`; unlike in `values`, the current circuit is
                not among them unless it is asked for, by a hypothesis that removes nothing.
            full: as in `values`.

        Returns:
            `[J, B]` float64 on the CPU, B prompts of all processes in order.
        """

    @staticmethod
    def _with_current(removals: Tensor) -> Tensor:
        """Put the current circuit before some hypotheses."""
        return torch.cat([removals.new_zeros(1, removals.shape[1]), removals])

    @abstractmethod
    def gradient(self) -> Tensor:
        """Estimate the effect of removing each kept edge of the open reader, to first order: `[U]`, 0 for others."""

    @abstractmethod
    def gradient_by_prompt(self) -> Tensor:
        """Compute what `gradient` averages: `[U, B]` float64 on the CPU, B prompts of all processes in order."""

    def commit(self, removed: Tensor) -> None:
        """Remove edges of the open reader, bool `[U]`."""
        self.kept[self.graph.edges(self.reader)] &= ~removed
        self._live = None

    def _mean(self, totals: Tensor) -> Tensor:
        """Divide totals over this process's prompts, added up over the processes, by the number of all prompts."""
        return self.processes.sum(totals) / self.prompts

    def _of_all_prompts(self, x: Tensor) -> Tensor:
        """Put figures of this process's prompts, `[n, b]`, among those of the other processes, `[n, B]`."""
        every = x.new_zeros(len(x), self.prompts)
        every[:, self.processes.rank :: self.processes.count] = x  # as `Processes.own` shares prompts out
        return self.processes.sum(every)

    @abstractmethod
    def footprint(self) -> dict[str, int]:
        """Count bytes by part: `captures`, and for some editors `live` state, `cone` (per hypothesis), `copies`."""
