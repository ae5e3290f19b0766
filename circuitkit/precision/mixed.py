"""A model's weights in low precision, with chosen units in full precision.

    a layer's weights -> masters, head-major, bit for bit -> rounded from there -> the module's own are freed

one layer after the other, so that no more than one layer is held twice. Afterwards a part of a layer (`q`, say) is
dequantised in one call when it is asked for, and the slices of the units in full precision are overwritten with what
the masters hold. Biases, norms and embeddings stay as they are.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import AttentionByHead
from circuitkit.precision.layers import PARTS, AttentionLayer, MixedAttention, MLPLayer
from circuitkit.precision.masters import Masters, make_masters
from circuitkit.precision.quantization import Mode
from circuitkit.precision.release import MappedPages, Owners, return_free_memory
from circuitkit.precision.units import Unit, unit_after


class MixedWeights:
    """The `Weights` of a model under a quantizing policy, once it was told to `take` them.

    Args:
        model: whose weights.
        mode: the low precision.
        low_mlps: whether MLPs are low too.

    Attributes:
        units: those in full precision now; None: everything is.

    Raises:
        CircuitKitError: there is no folder for the masters.
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
        self._masters: Masters = make_masters(model.device, self._bytes_to_keep())

    # What the engine asks for

    def attention(self, layer: int) -> AttentionByHead:
        """A layer's attention weights, all heads at once; each part is made when it is asked for."""
        if self.units is None:
            return MixedAttention(self._attention[layer], None)
        groups = [unit.group for unit in self.units if unit[:2] == ("attention", layer)]
        return MixedAttention(self._attention[layer], groups)

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """A layer's MLP parameters by their names inside the MLP module."""
        if not self._low_mlps:
            return self._plain_mlps[layer]
        high = self.units is None or Unit("mlp", layer) in self.units
        return self._mlps[layer].full() if high else self._mlps[layer].rounded()

    # What the policy asks for

    def take(self) -> None:
        """Take the module's weights, and free them.

        Raises:
            UsageError: they are of several dtypes.
            CircuitKitError: there is no room for the masters.
        """
        owners = Owners(self._module)
        for layer in range(self._graph.layers):
            source = (self._family, layer, self._mode, self._masters, owners)
            self._attention.append(AttentionLayer(*source))
            self._attention[-1].free()  # in the list first: an interrupt finds what it is to restore
            if self._low_mlps:
                self._mlps.append(MLPLayer(*source))
                self._mlps[-1].free()
            elif self._graph.mlps:
                self._plain_mlps.append(self._family.mlp_weights(layer))
            return_free_memory()
        pages = MappedPages()
        for parameter in self._module.parameters():  # most of the embeddings are not read again
            pages.drop(parameter.data)

    def give_back(self) -> None:
        """Fill what was freed with what the masters hold, bit for bit, and drop the masters."""
        try:
            for part in self._parts():
                part.restore()
                return_free_memory()
        finally:
            self._masters.close()

    @contextmanager
    def in_full(self, units: frozenset[Unit] | None) -> Iterator[None]:
        """These units are in full precision inside (None: everything), instead of those before."""
        before = self.units
        self.units = units
        if units is not None:
            self._masters.prefetch(self._soon(units))
            if len(units) == 1 and units != self._investigated:  # a search has come to the next unit
                self._investigated = units
                return_free_memory()  # what was made for the unit before leaves holes
        try:
            yield
        finally:
            self.units = before

    def footprint(self) -> dict[str, int]:
        """Bytes of weights held: `high`, the module's own (embeddings, norms, ...); `low`; and `masters`."""
        return {
            "high": sum(parameter.nbytes for parameter in self._module.parameters()),
            "low": sum(part.nbytes for part in self._parts()),
            "masters": self._masters.nbytes,
        }

    def _parts(self) -> list[AttentionLayer | MLPLayer]:
        return [*self._attention, *self._mlps]

    def _soon(self, units: frozenset[Unit]) -> set[Unit]:
        """One unit and that after it; of several none, or their copies would all be on the device at once."""
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
