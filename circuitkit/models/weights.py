"""The weights of attention and MLPs, fetched when needed.

The engine reaches weights only through a `Weights` object. The default, `ModuleWeights`, returns views of the module's
own parameters; a precision policy replaces it with its own object.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from circuitkit.errors import CircuitKitError


class AttentionByHead(Protocol):
    """One layer's attention weights by head, with the attributes of `AttentionWeights`.

    Under a policy, each may be made only when it is accessed.
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
        o: `[H, E, D]`, applied as `z @ o[h]`: W_O of each head.
        q_bias: `[H, E]`; k_bias, v_bias: `[K, E]`; None if the model has none.
        o_bias: `[D]`, a constant of the stream; None if the model has none.
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
    """Provides weights to the engine."""

    def attention(self, layer: int) -> AttentionByHead:
        """Return a layer's attention weights; call again after the set of investigated readers has changed."""

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """Return a layer's MLP parameters and buffers by their names inside the MLP module."""


class WeightsOfModule(Protocol):
    """The part of a `Family` that `ModuleWeights` uses."""

    layers: int
    mlps: bool
    made: bool

    def attention_weights(self, layer: int) -> AttentionWeights: ...
    def mlp_weights(self, layer: int) -> Mapping[str, Tensor]: ...


class ModuleWeights:
    """The default `Weights`: views of the module's own parameters, made once.

    If the module is quantized or has adapters, there is nothing to view: each layer's weights are made at every call,
    so that the memory saved stays saved.

    Args:
        family: of the model.
    """

    def __init__(self, family: WeightsOfModule) -> None:
        self._family = family
        layers = 0 if family.made else family.layers
        self._attention = [family.attention_weights(layer) for layer in range(layers)]
        self._mlp = [family.mlp_weights(layer) for layer in range(layers if family.mlps else 0)]

    def attention(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights."""
        return self._attention[layer] if self._attention else self._family.attention_weights(layer)

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """Return a layer's MLP parameters and buffers by their names inside the MLP module."""
        return self._mlp[layer] if self._mlp else self._family.mlp_weights(layer)


class LostWeights:
    """The `Weights` of a model that has lost some: every use raises the error that says so.

    Args:
        error: which weights, and why.
    """

    def __init__(self, error: CircuitKitError) -> None:
        self.problem, self.remedy = error.problem, error.remedy

    def attention(self, layer: int) -> AttentionWeights:
        """Refuse.

        Raises:
            CircuitKitError: always.
        """
        raise CircuitKitError(self.problem, self.remedy)

    def mlp(self, layer: int) -> Mapping[str, Tensor]:
        """Refuse.

        Raises:
            CircuitKitError: always.
        """
        raise CircuitKitError(self.problem, self.remedy)
