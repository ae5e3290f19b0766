"""The base class of precision policies, which is also the policy that changes nothing: full precision."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.models.circuit_model import CircuitModel


class PrecisionPolicy:
    """Full precision everywhere; subclasses override what they change.

    The engine tells a policy which readers it investigates; no code checks which policy it has.
    """

    anchored = False
    """True if nodes outside the investigation are exact on the clean run (the engine adds an offset, equation (2))."""

    depends_on_reader = False
    """True if the weights depend on which reader is investigated."""

    rechecks_close = False
    """True if searches recheck close decisions in full precision."""

    def prepare(self, model: CircuitModel) -> None:
        """Take over the model's weights, and free those that are not needed.

        The engine sees what is in `model.weights` afterwards. A policy that changes the module's parameters instead
        calls `model.refresh()`; a run does so after `prepare` and `close`.
        """

    def close(self) -> None:
        """Restore the weights, bit for bit."""

    def investigate(self, readers: Collection[int]) -> AbstractContextManager[None]:
        """Put the writers that these readers feed in full precision inside a `with`.

        Nested calls replace outer ones.
        """
        return nullcontext()

    def full(self) -> AbstractContextManager[None]:
        """Put everything in full precision inside a `with` (captures, rechecks), also when nested in `investigate`."""
        return nullcontext()

    def low_precision_writers(self) -> Tensor | None:
        """Return which writers have low-precision weights now, bool `[W]` on the CPU; None: no writer ever has."""
        return None

    def groups(self, graph: EdgeGraph) -> Iterator[Sequence[int]]:
        """Yield sets of readers that one gradient pass may investigate together; every reader is in one set."""
        yield range(graph.n_readers)

    def footprint(self) -> dict[str, int]:
        """Count the bytes of weights held, by kind (`high`, `low`, `full`); empty if nothing is changed."""
        return {}

    def advice(self) -> str:
        """Return the choice to recommend if this precision cannot decide a threshold."""
        return "precision: full"


class FullPrecision(PrecisionPolicy):
    """Everything in the precision in which the model was loaded."""
