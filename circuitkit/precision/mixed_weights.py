"""A model's weights in low precision, with chosen units in full precision.

Steps of `take`, layer by layer, so that no more than one layer is held twice:

1. Write the layer's weights to the store, head by head, bit for bit.
2. Round them.
3. Free the module's weights.

Afterwards, each access to a part of a layer (such as `q`) dequantizes it in one call, and overwrites the slices of the
units in full precision from the store. Biases, norms and embeddings stay as they are.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import AttentionByHead
from circuitkit.precision.free_memory import MappedPages, ParameterIndex, return_free_memory
from circuitkit.precision.quantization import Mode
from circuitkit.precision.quantized_layers import PARTS, AttentionLayer, MixedAttention, MLPLayer
from circuitkit.precision.units import Unit, unit_after
from circuitkit.precision.weight_store import WeightStore, make_weight_store

_Part = AttentionLayer | MLPLayer


class MixedWeights:
    """The `Weights` of a model under a quantizing policy, after `take`.

    Args:
        model: the model whose weights are taken.
        mode: the low precision.
        low_mlps: whether MLPs are in low precision too.

    Attributes:
        units: the units in full precision now; None: all.

    Raises:
        CircuitKitError: there is no folder for the store.
    """

    def __init__(self, model: CircuitModel, mode: Mode, low_mlps: bool) -> None:
        self.units: frozenset[Unit] | None = frozenset()
        self._graph, self._family, self._module = model.graph, model.family, model.model
        self._mode: Mode = mode
        self._low_mlps = low_mlps and model.graph.mlps
        self._attention: list[AttentionLayer] = []
        self._mlps: list[MLPLayer] = []
        self._plain_mlps: list[Mapping[str, Tensor]] = []
        self._investigated = self.units
        self._store: WeightStore = make_weight_store(model.device, self._bytes_to_keep())

    # For the engine

    def attention(self, layer: int) -> AttentionByHead:
        """Return a layer's attention weights; each part is made when it is accessed."""
        if self.units is None:
            return MixedAttention(self._attention[layer], None)
        groups = [unit.group for unit in self.units if unit[:2] == ("attention", layer)]
        return MixedAttention(self._attention[layer], groups)

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """Return a layer's MLP parameters and buffers by their names inside the MLP module."""
        if not self._low_mlps:
            return self._plain_mlps[layer]
        high = self.units is None or Unit("mlp", layer) in self.units
        return self._mlps[layer].full() if high else self._mlps[layer].low()

    # For the policy

    def take(self) -> None:
        """Take the module's weights, and free them.

        Raises:
            UsageError: they have several dtypes.
            CircuitKitError: there is no space for the full-precision weights.
        """
        index = ParameterIndex(self._module)
        for layer in range(self._graph.layers):
            source = (self._family, layer, self._mode, self._store, index)
            self._attention.append(AttentionLayer(*source))
            self._attention[-1].free()  # after it is in the list, so that `give_back` can restore it
            if self._low_mlps:
                self._mlps.append(MLPLayer(*source))
                self._mlps[-1].free()
            elif self._graph.mlps:
                self._plain_mlps.append(self._family.mlp_weights(layer))
            return_free_memory()
        pages = MappedPages()
        for parameter in self._module.parameters():  # most of the embeddings are not read again
            pages.drop(parameter.data)

    def give_back(self) -> BaseException | None:
        """Restore the freed weights from the store, bit for bit, and close the store.

        What cannot be restored does not keep other weights from being restored. It is tried twice, since an exception
        from outside (such as one that another thread sends) ends one attempt only.

        Returns:
            An exception from outside, which the caller should raise; everything is restored.

        Raises:
            CircuitKitError: weights were lost.
        """
        try:
            interrupted = _restore(self._parts())
            lost = _restore(interrupted)
        finally:
            self._store.close()
        if lost:
            cause = next(iter(lost.values()))
            raise CircuitKitError(
                f"The weights of the model's {', '.join(part.name for part in lost)} were lost, because they could not "
                f"be restored: {str(cause) or type(cause).__name__}.",
                "Load the model again.",
            ) from cause
        return next((cause for cause in interrupted.values() if not isinstance(cause, Exception)), None)

    @contextmanager
    def in_full(self, units: frozenset[Unit] | None) -> Iterator[None]:
        """Put exactly these units (None: all) in full precision inside a `with`."""
        before = self.units
        try:
            self.units = units
            if units:  # none: what has been fetched stays for the reads that follow
                self._store.prefetch(self._units_to_prefetch(units))
                if len(units) == 1 and units != self._investigated:  # a search has reached the next unit
                    self._investigated = units
                    return_free_memory()  # the freed weights of the last unit leave holes in the heap
            yield
        finally:
            self.units = before

    def footprint(self) -> dict[str, int]:
        """Count bytes: `high`, the module's own weights (embeddings, norms, ...); `low`; and `full`, in the store."""
        return {
            "high": sum(parameter.nbytes for parameter in self._module.parameters()),
            "low": sum(part.nbytes for part in self._parts()),
            "full": self._store.nbytes,
        }

    def _parts(self) -> list[_Part]:
        return [*self._attention, *self._mlps]

    def _units_to_prefetch(self, units: frozenset[Unit]) -> set[Unit]:
        """Return a single unit and the next one; for several units nothing, as their copies would fill the device."""
        if len(units) != 1:
            return set()
        (unit,) = units
        after = unit_after(self._graph, unit, self._low_mlps)
        return {unit} if after is None else {unit, after}

    def _bytes_to_keep(self) -> int:
        total = 0
        for layer in range(self._graph.layers):
            attention = self._family.attention_weights(layer)
            total += sum(getattr(attention, part).nbytes for part in PARTS)
            if self._low_mlps:
                total += sum(weight.nbytes for weight in self._family.mlp_weights(layer).values())
        return total


def _restore(parts: Iterable[_Part]) -> dict[_Part, BaseException]:
    """Give the module the weights of these parts back; return the parts that failed, with the reason."""
    failed: dict[_Part, BaseException] = {}
    for part in parts:
        try:
            part.restore()
            return_free_memory()
        except BaseException as error:
            failed[part] = error
    return failed
