"""The weights a node computes with, fetched when asked for.

The engine reaches weights only through a `Weights` object. The default hands out views of the module's own
parameters; a precision policy puts its own object in that place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class AttentionByHead(Protocol):
    """One layer's attention weights by head: see `AttentionWeights`, which has them at hand.

    A policy may make each of them only when it is asked for.
    """

    @property
    def q(self) -> Tensor: ...
    @property
    def k(self) -> Tensor: ...
    @property
    def v(self) -> Tensor: ...
    @property
    def o(self) -> Tensor: ...
    @property
    def q_bias(self) -> Tensor | None: ...
    @property
    def k_bias(self) -> Tensor | None: ...
    @property
    def v_bias(self) -> Tensor | None: ...
    @property
    def o_bias(self) -> Tensor | None: ...


@dataclass(frozen=True)
class AttentionWeights:
    """One layer's attention, by head.

    Attributes:
        q: `[H, E, D]`, applied as `x @ q[h].T`.
        k, v: `[K, E, D]`, likewise.
        o: `[H, E, D]`, applied as `z @ o[h]`: what a head writes.
        q_bias: `[H, E]`; k_bias, v_bias: `[K, E]`; None where the model has none.
        o_bias: `[D]`, a constant of the stream; None where the model has none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None


class Weights(Protocol):
    """Where the engine gets weights from."""

    def attention(self, layer: int) -> AttentionByHead:
        """A layer's attention weights, all heads at once; ask again after what is investigated has changed."""

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """A layer's MLP parameters by their names inside the MLP module."""
