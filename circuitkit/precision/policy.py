"""What weights each node computes with while a reader is investigated. The base class: full precision."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from circuitkit.graph import EdgeGraph
from circuitkit.models.circuit_model import CircuitModel


class PrecisionPolicy:
    """Full precision everywhere; subclasses override what they change.

    The engine tells a policy what is looked at; nobody asks a policy what it is.
    """

    anchored = False
    """Whether nodes outside the investigation compute exactly on the clean run (the engine adds an offset)."""

    varies = False
    """Whether investigating other readers changes any weight."""

    settles_doubts = False
    """Whether searches repeat doubtful decisions in full precision."""

    def prepare(self, model: CircuitModel) -> None:
        """Take over the model's weights, and free what is not needed."""

    def close(self) -> None:
        """Give the weights back, bit for bit."""

    def investigate(self, readers: Collection[int]) -> AbstractContextManager[None]:
        """The owners of these readers are in full precision inside, and those of the readers around are not."""
        return nullcontext()

    def full(self) -> AbstractContextManager[None]:
        """Everything is in full precision inside (captures, settling doubts, evaluation), whatever is investigated."""
        return nullcontext()

    def lowered(self) -> Tensor | None:
        """Which writers compute with low-precision weights now, bool `[W]` on the CPU; None: none ever does."""
        return None

    def groups(self, graph: EdgeGraph) -> Iterator[Sequence[int]]:
        """Sets of readers that one gradient pass may investigate together; every reader is in one."""
        yield range(graph.n_readers)

    def footprint(self) -> dict[str, int]:
        """Bytes of weights held, by kind (`high`, `low`, `masters`); empty where nothing is changed."""
        return {}

    def advice(self) -> str:
        """What to choose when this precision cannot decide a threshold."""
        return "precision: full"


class FullPrecision(PrecisionPolicy):
    """Everything in the precision the model was loaded in."""
