"""One layer's attention or MLP under a quantizing policy: rounded at hand, in full precision among the masters.

Making one writes the module's own weights to the masters, head-major and bit for bit, and rounds them; then they can be
freed. Biases stay in the module.
"""

from collections.abc import Collection, Iterable
from functools import cached_property

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from circuitkit.errors import UsageError
from circuitkit.models.family import Family
from circuitkit.precision.masters import Masters
from circuitkit.precision.quantization import Mode, quantised
from circuitkit.precision.release import Owners

PARTS = ("q", "k", "v", "o")


class AttentionLayer:
    """A layer's attention.

    Args:
        family: of the model whose weights are taken.
        layer: which.
        mode: the low precision.
        masters: take the full weights: a row a key-value group, with the group's `q`, `k`, `v` and `o` in turn.
        owners: know which parameters the weights are.
    """

    def __init__(self, family: Family, layer: int, mode: Mode, masters: Masters, owners: Owners) -> None:
        self.kv_heads = family.kv_heads
        self._family, self._layer, self._masters = family, layer, masters
        weights = family.attention_weights(layer)
        matrices = [getattr(weights, part) for part in PARTS]
        _check_dtypes(matrices, family.model.dtype, f"attention of layer {layer}")
        rows = torch.cat([matrix.unflatten(0, (self.kv_heads, -1)).flatten(1) for matrix in matrices], 1).cpu()
        masters.write(("attention", layer), rows)
        self.low = {part: quantised(full, mode, weights.q.device) for part, full in self._split(rows).items()}
        self.biases = {part: getattr(weights, f"{part}_bias") for part in PARTS}
        self._parameters = owners.freeable(matrices)

    @property
    def nbytes(self) -> int:
        """Bytes of the low weights."""
        return sum(matrices.nbytes for matrices in self.low.values())

    def full(self, group: int | None = None) -> dict[str, Tensor]:
        """Full-precision parts of one group (`[H / K or 1, E, D]`) or of all (`[H or K, E, D]`)."""
        key = ("attention", self._layer)
        rows = self._masters.read(key) if group is None else self._masters.read(key, group, group + 1)
        return self._split(rows)

    def free(self) -> None:
        """Free the module's weights."""
        self._parameters.free()

    def restore(self) -> None:
        """Give the module its weights back."""
        full = self.full()
        self._parameters.allocate()
        weights = self._family.attention_weights(self._layer)
        for part in PARTS:
            getattr(weights, part).copy_(full[part])

    def _split(self, rows: Tensor) -> dict[str, Tensor]:
        """Groups' rows `[n, size]` as parts `[n * H / K, E, D]` and `[n, E, D]`."""
        width, head_width = self._family.width, self._family.head_width
        share = self._family.heads // self.kv_heads
        sizes = [heads * head_width * width for heads in (share, 1, 1, share)]
        parts = zip(PARTS, rows.split(sizes, 1), strict=True)
        return {part: columns.reshape(-1, head_width, width) for part, columns in parts}


class MixedAttention:
    """A layer's attention by head, each part made when it is first asked for (see `AttentionByHead`).

    Args:
        layer: whose.
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
        return self._part("q")

    @cached_property
    def k(self) -> Tensor:
        return self._part("k")

    @cached_property
    def v(self) -> Tensor:
        return self._part("v")

    @cached_property
    def o(self) -> Tensor:
        return self._part("o")

    @cached_property
    def _everything(self) -> dict[str, Tensor]:
        return self._layer.full()

    @cached_property
    def _units(self) -> dict[int, dict[str, Tensor]]:
        return {group: self._layer.full(group) for group in self._groups or ()}

    def _part(self, part: str) -> Tensor:
        if self._groups is None:
            return self._everything[part]
        weight = self._layer.low[part].dequantised()
        by_group = weight.unflatten(0, (self._layer.kv_heads, -1))
        for group, full in self._units.items():
            by_group[group] = full[part]
        return weight


class MLPLayer:
    """A layer's MLP, of which every matrix is rounded, in the orientation `[out, in]`.

    Args:
        family, layer, mode, masters, owners: as of `AttentionLayer`; the masters get one row.
    """

    def __init__(self, family: Family, layer: int, mode: Mode, masters: Masters, owners: Owners) -> None:
        self._module, self._layer, self._masters = family.mlp_module(layer), layer, masters
        weights = family.mlp_weights(layer)
        parameters = {name for name, parameter in self._module.named_parameters() if parameter.ndim == 2}
        matrices = {name: weight for name, weight in weights.items() if name in parameters}
        self._others = {name: weight for name, weight in weights.items() if name not in parameters}
        self._shapes = {name: matrix.shape for name, matrix in matrices.items()}
        _check_dtypes(matrices.values(), family.model.dtype, f"MLP of layer {layer}")
        masters.write(("mlp", layer), torch.cat([matrix.flatten() for matrix in matrices.values()])[None].cpu())
        self._low = {
            name: quantised(self._turned(name, matrix).cpu()[None], mode, matrix.device)
            for name, matrix in matrices.items()
        }
        self._parameters = owners.freeable(matrices.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the low weights."""
        return sum(matrices.nbytes for matrices in self._low.values())

    def full(self) -> dict[str, Tensor]:
        """All parameters and buffers in full precision."""
        (row,) = self._masters.read(("mlp", self._layer))
        parts = row.split([shape.numel() for shape in self._shapes.values()])
        shapes = self._shapes.items()
        return self._others | {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}

    def rounded(self) -> dict[str, Tensor]:
        """The same, with low-precision matrices."""
        return self._others | {name: self._turned(name, low.dequantised()[0]) for name, low in self._low.items()}

    def free(self) -> None:
        """Free the module's weights."""
        self._parameters.free()

    def restore(self) -> None:
        """Give the module its weights back."""
        full = self.full()
        self._parameters.allocate()
        for name in self._shapes:
            self._module.get_parameter(name).detach().copy_(full[name])

    def _turned(self, name: str, matrix: Tensor) -> Tensor:
        """From the module's orientation to `[out, in]`, and back: only transformers' `Conv1D` keeps `[in, out]`."""
        owner = self._module.get_submodule(name.rpartition(".")[0])
        return matrix.T if isinstance(owner, Conv1D) else matrix


def _check_dtypes(weights: Iterable[Tensor], wanted: torch.dtype, where: str) -> None:
    for weight in weights:
        if weight.dtype != wanted:
            raise UsageError(
                f"The {where} has weights in {weight.dtype}, the model others in {wanted}.",
                "Load the model in one floating-point dtype.",
            )
