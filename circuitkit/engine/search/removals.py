"""What a search removes within a layer, and editors that follow it there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.engine.editors.base import Editor

Removal = tuple[int, Tensor]
"""A reader, and edges that were removed from it, bool `[U]`."""
MOST_UPDATES = 4
"""An editor that lacks the removals of more readers is built again, which takes as long as about so many updates."""


def repeat(removals: Sequence[Removal], open_reader: Callable[[int], None], commit: Callable[[Tensor], None]) -> None:
    """Repeat removals in their order."""
    opened = None
    for reader, removed in removals:
        if reader != opened:  # opening it again would update the live state in other steps, and round differently
            open_reader(reader)
        opened = reader
        commit(removed)


def remove(graph: EdgeGraph, kept: Tensor, removals: Sequence[Removal]) -> Tensor:
    """Return a circuit without the edges of some removals, bool `[edges]`."""
    kept = kept.clone()
    for reader, removed in removals:
        kept[graph.edges(reader)] &= ~removed
    return kept


@dataclass
class Follower:
    """An editor that follows a search through a layer, from one reader where it is needed to the next.

    Its values depend, in their last bits, on where it was built. So this is part of a search's state.

    Attributes:
        editor: on the starting circuit.
        built: the number of removals in this layer before its live state was built; None: it was not, in this layer.
        reached: the number of removals that it has.
    """

    editor: Editor
    built: int | None = None
    reached: int = 0

    def follow(self, kept: Tensor, removals: Sequence[Removal]) -> None:
        """Bring the editor up to date.

        Args:
            kept: the circuit at the layer's start, bool `[edges]`.
            removals: all of the layer so far.
        """
        lacking = removals[self.reached :]
        if self.built is None or len({reader for reader, _ in lacking}) > MOST_UPDATES:
            self.built = len(removals)
            self.editor.restart(remove(self.editor.graph, kept, removals))
        else:
            repeat(lacking, self.editor.open, self.editor.commit)
        self.reached = len(removals)

    def resume(self, built: int, reached: int, kept: Tensor, removals: Sequence[Removal]) -> None:
        """Bring a new editor to where another one was; the arguments are attributes, and those of `follow`."""
        self.built, self.reached = built, reached
        self.editor.restart(remove(self.editor.graph, kept, removals[:built]))
        repeat(removals[built:reached], self.editor.open, self.editor.commit)
