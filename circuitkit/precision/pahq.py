"""Policies with weights in low precision, by bitsandbytes: PAHQ, and its control."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config.checks import check_flags
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.interrupts import hold_signals, run_then
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import LostWeights, ModuleWeights
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.precision.mixed_weights import MixedWeights
from circuitkit.precision.quantization import MODES, Mode
from circuitkit.precision.units import Unit, unit_of, writers_of
from circuitkit.torch_state import usual_torch_state

Scope = Literal["attention", "attention+mlp"]


class Quantization(PrecisionPolicy):
    """Weights in low precision; subclasses define which are in full precision while a reader is investigated.

    Between `prepare` and `close` the transformers module has no weights of its own and cannot be run. The
    full-precision weights are in an unnamed file in the temporary folder (`TMPDIR`), or on CUDA in pinned host memory.

    Args:
        mode: `"int8"` (one scale per row), `"nf4"` or `"fp4"` (one scale per 64 values), or `"bf16"`.
        scope: the matrices in low precision: `"attention"` or `"attention+mlp"`. Biases, norms and embeddings always
            stay in full precision.

    Raises:
        UsageError: an unknown mode or scope.
    """

    def __init__(self, mode: Mode = "int8", scope: Scope = "attention") -> None:
        for name, value, known in (("mode", mode, MODES), ("scope", scope, get_args(Scope))):
            if value not in known:
                raise UsageError(f"{name}={value!r} is unknown.", f"Choose {' or '.join(map(repr, known))}.")
        self.mode: Mode = mode
        self.scope: Scope = scope
        self._prepared: tuple[CircuitModel, MixedWeights] | None = None

    @usual_torch_state()
    def prepare(self, model: CircuitModel) -> None:
        """Round the model's weights, store the full ones elsewhere, and free them.

        If it fails or is interrupted, the model is left as it was.

        Raises:
            UsageError: the policy already holds a model's weights, or the model has several dtypes.
            CircuitKitError: there is no space for the full weights, or the model has lost some.
        """
        if self._prepared is not None:
            raise UsageError(f"This {type(self).__name__} already holds a model's weights.", "Call close() first.")
        model.check_weights()
        if model.family.made:
            raise UsageError(
                f"The model is quantized or has adapters already, and {type(self).__name__} would quantize it again.",
                "Choose precision: full, or load the model without them (an adapter: merge_and_unload()).",
            )
        weights = MixedWeights(model, self.mode, self.scope == "attention+mlp")

        def take() -> None:
            self._prepared = model, weights
            model.weights = weights  # instead of views of the module's own weights, which would keep them in memory
            weights.take()

        run_then(take, lambda taken: None if taken else self.close())

    @usual_torch_state()
    def close(self) -> None:
        """Restore the weights, bit for bit; SIGINT and SIGTERM take effect afterwards.

        Raises:
            CircuitKitError: some could not be restored; the model refuses to be used.
        """
        if self._prepared is None:
            return
        model, weights = self._prepared
        with hold_signals():
            try:
                interruption = weights.give_back()
                model.weights = ModuleWeights(model.family)
            except CircuitKitError as error:
                model.weights = LostWeights(error)
                raise
            finally:
                self._prepared = None
        if interruption is not None:
            raise interruption

    def full(self) -> AbstractContextManager[None]:
        """Put everything in full precision inside a `with`; each layer is read from the store when it is accessed."""
        return nullcontext() if self._prepared is None else self._prepared[1].in_full(None)

    def low_precision_writers(self) -> Tensor | None:
        """Return which writers have low-precision weights now, bool `[W]`; None: nothing is prepared."""
        if self._prepared is None:
            return None
        model, weights = self._prepared
        graph, units = model.graph, weights.units
        if units is None:
            return torch.zeros(graph.n_writers, dtype=torch.bool)
        lowered = torch.ones(graph.n_writers, dtype=torch.bool)
        lowered[: graph.inputs] = False
        if graph.mlps and self.scope == "attention":
            lowered[graph.mlp(0) :: graph.writers_per_layer] = False
        for unit in units:
            lowered[writers_of(graph, unit)] = False
        return lowered

    def advice(self) -> str:
        """Return the choice to recommend if this precision cannot decide a threshold."""
        return "mode='int8'" if self.mode in ("nf4", "fp4") else "precision: full"

    def footprint(self) -> dict[str, int]:
        """Count bytes of weights: `high` (embeddings, norms, ...), `low`, and `full` (on disk or pinned)."""
        return {} if self._prepared is None else self._prepared[1].footprint()


class AllLowPrecision(Quantization):
    """Everything in low precision, including the head under investigation: the control.

    Args:
        mode, scope: see `Quantization`.
    """


class PAHQ(Quantization):
    """The head under investigation in full precision, all others in low (PAHQ: Wang et al. 2025, arXiv 2510.23264).

    With grouped-query attention, the head's whole key-value group is in full precision: its heads share keys and
    values, which cannot have two precisions at once. An MLP under investigation is in full precision too. For edges
    into the logits, no node is put in full precision.

    Two differences from the paper, unless `anchor` is off: nodes outside the investigation are exact on the clean run,
    so that rounding affects only the change that a patch causes; and decisions close to the threshold are rechecked in
    full precision. The published code rounds to float8 and leaves `o` in full precision.

    Args:
        mode, scope: see `Quantization`.
        anchor: add a constant offset to every node in low precision, so that it is exact on the clean run (equation (2)
            of `circuitkit.engine.anchoring`).
        recheck_close: searches recheck close decisions in full precision; by default as `anchor`.

    Raises:
        UsageError: an unknown mode or scope; rechecks without `anchor`, since captures are then in low precision.
    """

    depends_on_reader = True

    def __init__(
        self, mode: Mode = "int8", scope: Scope = "attention", anchor: bool = True, recheck_close: bool | None = None
    ) -> None:
        super().__init__(mode, scope)
        check_flags(anchor=anchor, recheck_close=bool(anchor) if recheck_close is None else recheck_close)
        if recheck_close and not anchor:
            raise UsageError(
                "recheck_close=True with anchor=False would compare with captures in low precision.",
                "Leave recheck_close out, or set anchor=True.",
            )
        self.anchor = self.anchored = anchor
        self.recheck_close = self.rechecks_close = anchor if recheck_close is None else recheck_close

    def investigate(self, readers: Collection[int]) -> AbstractContextManager[None]:
        """Put exactly the units of these readers in full precision inside a `with`."""
        if self._prepared is None:
            return nullcontext()
        model, weights = self._prepared
        if weights.units is None:
            return nullcontext()
        return weights.in_full(frozenset(self._units(model.graph, readers)))

    def groups(self, graph: EdgeGraph) -> Iterator[Sequence[int]]:
        """Yield one set per k, of the k-th key-value group of every layer, then one of the MLPs.

        Readers without a unit are in the first set.
        """
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
