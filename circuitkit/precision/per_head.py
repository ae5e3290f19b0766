"""Policies that keep weights in low precision, by bitsandbytes: the PAHQ idea, and its control."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from circuitkit.errors import UsageError
from circuitkit.graph import EdgeGraph
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.family import ModuleWeights
from circuitkit.precision.mixed import MixedWeights
from circuitkit.precision.policy import PrecisionPolicy
from circuitkit.precision.quantization import MODES, Mode
from circuitkit.precision.units import Unit, unit_of, writers_of

Scope = Literal["attention", "attention+mlp"]


class Quantization(PrecisionPolicy):
    """Weights in low precision; subclasses say which are full while a reader is investigated.

    Between `prepare` and `close` the transformers module has no weights of its own and cannot be run; the full ones
    are in a file without a name in the temporary folder (`TMPDIR`), on CUDA in pinned host memory.

    Args:
        mode: `"int8"` (a scale a row), `"nf4"` or `"fp4"` (a scale for 64 values), or `"bf16"`.
        scope: whose matrices: `"attention"` or `"attention+mlp"`. Biases, norms and embeddings are always full.
    """

    def __init__(self, mode: Mode = "int8", scope: Scope = "attention") -> None:
        for name, value, known in (("mode", mode, MODES), ("scope", scope, get_args(Scope))):
            if value not in known:
                raise UsageError(f"{name}={value!r} is unknown.", f"Choose {' or '.join(map(repr, known))}.")
        self.mode: Mode = mode
        self.scope: Scope = scope
        self._model: CircuitModel | None = None
        self._weights: MixedWeights | None = None

    def prepare(self, model: CircuitModel) -> None:
        """Round the model's weights, keep the full ones elsewhere, and free them.

        Raises:
            UsageError: the policy already holds a model's weights, or the model has several dtypes.
            CircuitKitError: there is no room for the full weights; the model is left as it was.
        """
        if self._weights is not None:
            raise UsageError(f"This {type(self).__name__} already holds a model's weights.", "Call close() first.")
        weights = MixedWeights(model, self.mode, self.scope == "attention+mlp")
        self._model, self._weights = model, weights
        model.weights = weights  # instead of views of the module's own, which would keep them in memory
        try:
            weights.take()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the weights back, bit for bit."""
        if self._model is None or self._weights is None:
            return
        model, weights = self._model, self._weights
        self._model = self._weights = None
        weights.give_back()
        model.weights = ModuleWeights(model.family)

    def full(self) -> AbstractContextManager[None]:
        """Everything is in full precision inside, each layer read when it is asked for."""
        return nullcontext() if self._weights is None else self._weights.in_full(None)

    def lowered(self) -> Tensor | None:
        """Which writers compute with low-precision weights now, bool `[W]`; None: none, as nothing is prepared."""
        if self._model is None or self._weights is None:
            return None
        graph, units = self._model.graph, self._weights.units
        if units is None:
            return torch.zeros(graph.n_writers, dtype=torch.bool)
        lowered = torch.ones(graph.n_writers, dtype=torch.bool)
        lowered[0] = False
        if graph.mlps and self.scope == "attention":
            lowered[graph.mlp(0) :: graph.writers_per_layer] = False
        for unit in units:
            lowered[writers_of(graph, unit)] = False
        return lowered

    def advice(self) -> str:
        """What to choose when this precision cannot decide a threshold."""
        return "mode='int8'" if self.mode in ("nf4", "fp4") else "precision: full"

    def footprint(self) -> dict[str, int]:
        """Bytes of weights held: `high` (embeddings, norms, ...), `low`, and `masters` (on disk or pinned)."""
        return {} if self._weights is None else self._weights.footprint()


class UniformQuantization(Quantization):
    """Everything in low precision throughout, the investigated head too: the control.

    Args:
        mode, scope: see `Quantization`.
    """


class PerHeadQuantization(Quantization):
    """The head under investigation in full precision, the others low: PAHQ (Wang et al. 2025, arXiv 2510.23264).

    With grouped queries it is the head's key-value group that is in full precision: its heads share keys and values,
    which cannot have two precisions at once. An MLP under investigation is full too; into the logits, nothing is.

    Differs from the paper, unless `anchor` is off: what is outside the investigation computes
    exactly on the clean run, so that rounding touches only the change that a patch makes; and decisions too close to
    the threshold for this precision are repeated in full. The published code rounds to float8 and leaves `o` full.

    Args:
        mode, scope: see `Quantization`.
        anchor: correct every node by a constant, so that it is exact on the clean run.
        settle_doubts: searches repeat doubtful decisions in full precision; by default where `anchor`.

    Raises:
        UsageError: an unknown mode or scope; doubts to be settled without anchors, whose captures are low.
    """

    varies = True

    def __init__(
        self, mode: Mode = "int8", scope: Scope = "attention", anchor: bool = True, settle_doubts: bool | None = None
    ) -> None:
        super().__init__(mode, scope)
        if settle_doubts and not anchor:
            raise UsageError(
                "settle_doubts=True with anchor=False would compare with captures in low precision.",
                "Leave settle_doubts out, or set anchor=True.",
            )
        self.anchor = self.anchored = anchor
        self.settle_doubts = self.settles_doubts = anchor if settle_doubts is None else settle_doubts

    def investigate(self, readers: Collection[int]) -> AbstractContextManager[None]:
        """The units of these readers are in full precision inside, instead of those of the readers around."""
        if self._model is None or self._weights is None or self._weights.units is None:
            return nullcontext()
        return self._weights.in_full(frozenset(self._units(self._model.graph, readers)))

    def groups(self, graph: EdgeGraph) -> Iterator[Sequence[int]]:
        """The k-th key-value group of every layer together, then the MLPs; what has no unit is with the first."""
        together: dict[tuple[str, int], list[int]] = {("attention", group): [] for group in range(graph.kv_heads)}
        for reader in range(graph.n_readers):
            unit = next(self._units(graph, [reader]), Unit("attention", 0))
            together.setdefault((unit.kind, unit.group), []).append(reader)
        yield from together.values()

    def _units(self, graph: EdgeGraph, readers: Collection[int]) -> Iterator[Unit]:
        for reader in readers:
            unit = unit_of(graph, reader)
            if unit is not None and (unit.kind == "attention" or self.scope == "attention+mlp"):
                yield unit
