"""A precision policy outside the package: the output matrices of all heads rounded to 16 bits.

pip install examples/my_policy
circuitkit list precision
circuitkit discover --model toy --task ioi --strategy eap --precision half_outputs --precision.dtype float16
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from circuitkit import CircuitModel, PrecisionPolicy, UsageError
from circuitkit.models import AttentionWeights, ModuleWeights


class HalfOutputs(PrecisionPolicy):
    """W_O in 16 bits, which changes what every head writes.

    Args:
        dtype: `"float16"` or `"bfloat16"`.
    """

    def __init__(self, dtype: Literal["float16", "bfloat16"] = "bfloat16") -> None:
        if dtype not in ("float16", "bfloat16"):
            raise UsageError(f"dtype={dtype!r} is unknown.", "Choose 'float16' or 'bfloat16'.")
        self.dtype = dtype
        self._rounded = True
        self._model: CircuitModel | None = None

    # For the run

    def prepare(self, model: CircuitModel) -> None:
        """Provide the weights in place of the module's own, which stay as they are."""
        self._model, self._own = model, ModuleWeights(model.family)
        model.weights = self

    def close(self) -> None:
        """Let the model have its own weights again."""
        if self._model is not None:
            self._model.weights = self._own
            self._model = None

    # For the engine, which asks for weights each time it needs them

    def attention(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        full = self._own.attention(layer)
        return replace(full, o=full.o.to(getattr(torch, self.dtype)).to(full.o.dtype)) if self._rounded else full

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """Return a layer's MLP parameters and buffers."""
        return self._own.mlp(layer)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Round nothing inside a `with`."""
        before, self._rounded = self._rounded, False
        try:
            yield
        finally:
            self._rounded = before

    def low_precision_writers(self) -> Tensor | None:
        """Return which writers are rounded now: all heads, or none."""
        if self._model is None:
            return None
        graph = self._model.graph
        rounded = torch.zeros(graph.n_writers, dtype=torch.bool)
        for layer in range(graph.layers):
            rounded[graph.heads_of(layer)] = self._rounded
        return rounded
