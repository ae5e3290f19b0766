"""What can be drawn: the parts of `Circuit` that pictures need."""

from typing import Protocol, Self

from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph


class Subject(Protocol):
    """A circuit. Its class is not imported here, since its own methods draw it."""

    @property
    def graph(self) -> EdgeGraph:
        """The edges."""

    @property
    def scores(self) -> Tensor:
        """Floating-point `[edges]`."""

    @property
    def kept(self) -> Tensor:
        """Bool `[edges]`."""

    @property
    def score_sources(self) -> Tensor:
        """Int8 `[edges]`, a `ScoreSource` per edge."""

    @property
    def selection(self) -> str:
        """The rule that chose `kept`, in words."""

    @property
    def is_ranking(self) -> bool:
        """Whether edges were only scored, and none chosen."""

    def ranking(self, absolute: bool = True) -> Tensor:
        """Edge numbers `[edges]`, the best first, kept edges before all others."""

    def prune(self) -> Self:
        """Drop the edges that are on no path of kept edges from `input` to the logits."""
