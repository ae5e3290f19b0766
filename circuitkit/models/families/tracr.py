"""Transformers compiled by tracr: no norms, attention in both directions, learned positions."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models.families.base import Family
from circuitkit.models.norm import Identity, Norm
from circuitkit.models.weights import AttentionWeights


class Tracr(Family):
    """`TracrLMHeadModel`, compiled by tracr from a RASP program."""

    causal = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._body: Any = model
        self._none = Identity(torch.empty(0, dtype=model.dtype), None, 0.0, False)

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        found = self._body.layers[layer]
        return self.by_head(found.q, found.k, found.v, found.o)

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP."""
        module: nn.Module = self._body.layers[layer].mlp
        return module

    def attention_norm(self, layer: int) -> Norm:
        """Return the identity."""
        return self._none

    def mlp_norm(self, layer: int) -> Norm:
        """Return the identity."""
        return self._none

    def final_norm(self) -> Norm:
        """Return the identity."""
        return self._none

    def position_constant(self, positions: Tensor) -> Tensor:
        """Return the learned position embeddings, `[B, T, D]`."""
        table: Tensor = self._body.positions.weight.detach()
        return table[positions]

    def max_positions(self) -> int:
        """Return the length of the table of positions."""
        return int(self._body.positions.weight.shape[0])
