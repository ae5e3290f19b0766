"""One layer's attention or MLP in a quantized model: low-precision weights in memory, full-precision ones in a store.

The constructor writes the module's own weights to the store, head by head and bit for bit, and rounds them. After that,
`free` may free them. Biases stay in the module.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from circuitkit.errors import UsageError
from circuitkit.models.families.base import Family
from circuitkit.models.linear_layers import uncompiled_name
from circuitkit.precision.free_memory import ParameterIndex
from circuitkit.precision.quantization import Mode, quantize
from circuitkit.precision.weight_store import WeightStore

PARTS = ("q", "k", "v", "o")


class AttentionLayer:
    """A layer's attention.

    Args:
        family: of the model whose weights are taken.
        layer: the layer.
        mode: the low precision.
        store: gets the full-precision weights: one row per key-value group, with its `q`, `k`, `v` and `o` in turn.
        index: finds the parameters that the weights are views of.
    """

    def __init__(self, family: Family, layer: int, mode: Mode, store: WeightStore, index: ParameterIndex) -> None:
        self.kv_heads = family.kv_heads
        self.name = f"attention of layer {layer}"
        self._family, self._layer, self._store = family, layer, store
        weights = family.attention_weights(layer)
        matrices = [getattr(weights, part) for part in PARTS]
        _check_dtypes(matrices, family.model.dtype, self.name)
        rows = torch.cat([matrix.unflatten(0, (self.kv_heads, -1)).flatten(1) for matrix in matrices], 1).cpu()
        store.write(("attention", layer), rows)
        self.low = {part: quantize(full, mode, weights.q.device) for part, full in self._split(rows).items()}
        self.biases = {part: getattr(weights, f"{part}_bias") for part in PARTS}
        self._parameters = index.freeable(matrices)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the low-precision weights."""
        return sum(matrices.nbytes for matrices in self.low.values())

    def full(self, group: int | None = None) -> dict[str, Tensor]:
        """Return the full-precision parts of one group (`[H / K or 1, E, D]`) or of all (`[H or K, E, D]`)."""
        key = ("attention", self._layer)
        rows = self._store.read(key) if group is None else self._store.read(key, group, group + 1)
        return self._split(rows)

    def free(self) -> None:
        """Free the module's weights."""
        self._parameters.free()

    def restore(self) -> None:
        """Give the module its weights back."""
        full = self.full()
        with self._parameters.allocated():
            weights = self._family.attention_weights(self._layer)
            for part in PARTS:
                getattr(weights, part).copy_(full[part])

    def _split(self, rows: Tensor) -> dict[str, Tensor]:
        """Split groups' rows `[n, size]` into parts `[n * H / K, E, D]` and `[n, E, D]`."""
        width, head_width = self._family.width, self._family.head_width
        share = self._family.heads // self.kv_heads
        sizes = [heads * head_width * width for heads in (share, 1, 1, share)]
        parts = zip(PARTS, rows.split(sizes, 1), strict=True)
        return {part: columns.reshape(-1, head_width, width) for part, columns in parts}


class MixedAttention:
    """A layer's attention weights by head (see `AttentionByHead`); each part is made when it is first accessed.

    Args:
        layer: the layer.
        groups: the key-value groups in full precision; None: all.
    """

    def __init__(self, layer: AttentionLayer, groups: Collection[int] | None) -> None:
        self._layer, self._groups = layer, groups
        self.q_bias: Tensor | None = layer.biases["q"]
        self.k_bias: Tensor | None = layer.biases["k"]
        self.v_bias: Tensor | None = layer.biases["v"]
        self.o_bias: Tensor | None = layer.biases["o"]

    @cached_property
    def q(self) -> Tensor:
        return self._make("q")

    @cached_property
    def k(self) -> Tensor:
        return self._make("k")

    @cached_property
    def v(self) -> Tensor:
        return self._make("v")

    @cached_property
    def o(self) -> Tensor:
        return self._make("o")

    @cached_property
    def _everything(self) -> dict[str, Tensor]:
        return self._layer.full()

    @cached_property
    def _units(self) -> dict[int, dict[str, Tensor]]:
        return {group: self._layer.full(group) for group in self._groups or ()}

    def _make(self, part: str) -> Tensor:
        if self._groups is None:
            return self._everything[part]
        weight = self._layer.low[part].dequantize()
        by_group = weight.unflatten(0, (self._layer.kv_heads, -1))
        for group, full in self._units.items():
            by_group[group] = full[part]
        return weight


class MLPLayer:
    """A layer's MLP; every matrix is rounded in the orientation `[out, in]`.

    Args:
        family, layer, mode, store, index: as in `AttentionLayer`; the store gets one row.
    """

    def __init__(self, family: Family, layer: int, mode: Mode, store: WeightStore, index: ParameterIndex) -> None:
        self.name = f"MLP of layer {layer}"
        self._module, self._layer, self._store = family.mlp_module(layer), layer, store
        weights = family.mlp_weights(layer)
        parameters = {name for name, parameter in self._named_parameters() if parameter.ndim == 2}
        matrices = {name: weight for name, weight in weights.items() if name in parameters}
        self._others = {name: weight for name, weight in weights.items() if name not in parameters}
        self._shapes = {name: matrix.shape for name, matrix in matrices.items()}
        modules = self._module.named_modules()
        self._turned = {uncompiled_name(f"{name}.weight") for name, module in modules if isinstance(module, Conv1D)}
        _check_dtypes(matrices.values(), family.model.dtype, self.name)
        store.write(("mlp", layer), torch.cat([matrix.flatten() for matrix in matrices.values()])[None].cpu())
        self._low = {
            name: quantize(self._transpose(name, matrix).cpu()[None], mode, matrix.device)
            for name, matrix in matrices.items()
        }
        self._parameters = index.freeable(matrices.values())

    @property
    def nbytes(self) -> int:
        """Return the bytes of the low-precision weights."""
        return sum(matrices.nbytes for matrices in self._low.values())

    def full(self) -> dict[str, Tensor]:
        """Return all parameters and buffers in full precision."""
        (row,) = self._store.read(("mlp", self._layer))
        parts = row.split([shape.numel() for shape in self._shapes.values()])
        shapes = self._shapes.items()
        return self._others | {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}

    def low(self) -> dict[str, Tensor]:
        """Return all parameters and buffers, with low-precision matrices."""
        return self._others | {name: self._transpose(name, low.dequantize()[0]) for name, low in self._low.items()}

    def free(self) -> None:
        """Free the module's weights."""
        self._parameters.free()

    def restore(self) -> None:
        """Give the module its weights back."""
        full = self.full()
        with self._parameters.allocated():
            for name, parameter in self._named_parameters():
                if name in self._shapes:
                    parameter.detach().copy_(full[name])

    def _transpose(self, name: str, matrix: Tensor) -> Tensor:
        """Convert between the module's orientation and `[out, in]`: only transformers' `Conv1D` has `[in, out]`."""
        return matrix.T if name in self._turned else matrix

    def _named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((uncompiled_name(name), parameter) for name, parameter in self._module.named_parameters())


def _check_dtypes(weights: Iterable[Tensor], wanted: torch.dtype, where: str) -> None:
    for weight in weights:
        if weight.dtype != wanted:
            raise UsageError(
                f"The {where} has weights in {weight.dtype}, but the model has others in {wanted}.",
                "Load the model in one floating-point dtype.",
            )
