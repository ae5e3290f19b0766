"""A circuit under edit: what ACDC and exact patching stand on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.scene import Scene


class Editor(ABC):
    """A circuit under edit, and the objective's value for it.

    Readers are opened from the logits backwards: layers from the last to the first, within a layer the MLP before
    the heads of a serial block, otherwise any, and again. Edges are removed, never put back.

    Args:
        scenes: the prompts, in one batch or several; values are means over all of them.
        kept: the starting circuit, bool `[edges]`; by default the full model.
        memory_budget: bytes that the hypotheses of one run may take together; by default half of what is free.

    Attributes:
        kept: the circuit as it stands, bool `[edges]`.
        reader: the open reader.
    """

    def __init__(self, scenes: Sequence[Scene], kept: Tensor | None = None, memory_budget: int | None = None) -> None:
        self.scenes = scenes
        self.model = scenes[0].model
        self.graph = self.model.graph
        self.policy = scenes[0].policy
        self.kept = torch.ones(len(self.graph), dtype=torch.bool) if kept is None else kept.clone()
        self.prompts = sum(len(scene.batch) for scene in scenes)
        self.reader = self.graph.logits
        # Once: with another number of hypotheses at once, the last bits would differ
        self.memory_budget = memory_budget or memory.budget(self.model.device)
        self._live: Tensor | None = None

    def restart(self, kept: Tensor) -> None:
        """Go to a circuit that a search from this editor's starting circuit has come to at the start of a layer."""
        self.kept = kept.clone()
        self._live = None

    def live(self, reader: int) -> bool:
        """Whether a path of kept edges leads from what the reader feeds to the logits."""
        if reader == self.graph.logits:
            return True
        if self._live is None:
            self._live = self.graph.live_writers(self.kept)
        owners = self.graph.owners(reader)
        return bool(self._live[owners.start : owners.stop].any())

    def open(self, reader: int) -> None:
        """Turn to a reader's edges."""
        self.reader = reader

    @abstractmethod
    def values(self, removals: Tensor, full: bool = False) -> Tensor:
        """The objective for the circuit as it stands, then without some of the open reader's edges.

        Args:
            removals: bool `[J, P]` over the writers before the open reader: what each hypothesis removes.
            full: everything behind the open reader in full precision, whatever the policy.

        Returns:
            `[J + 1]` float64 on the CPU. All are computed alike, so that differences within one call are effects.
        """

    @abstractmethod
    def gradient(self) -> Tensor:
        """First-order effect of removing each kept edge of the open reader, as things stand; `[P]`, 0 elsewhere."""

    def commit(self, removed: Tensor) -> None:
        """These edges of the open reader, bool `[P]`, are gone."""
        self.kept[self.graph.edges(self.reader)] &= ~removed
        self._live = None
