"""GPT-2: learned positions, LayerNorm, fused query-key-value in a `Conv1D`."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models.families.base import Family, layer_norm, unsupported
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class GPT2(Family):
    """`GPT2LMHeadModel`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        if self.config.add_cross_attention:
            raise unsupported("cross-attention")
        self._body: Any = model.transformer

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.h[layer].attn
        q, k, v = self.matrix(attention.c_attn).unflatten(0, (3, self.heads, -1))  # [H, E, D] each
        biases: Any = self.bias(attention.c_attn)
        q_bias, k_bias, v_bias = biases.unflatten(0, (3, self.heads, -1))
        o = self.matrix(attention.c_proj).unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        return AttentionWeights(q, k, v, o, q_bias, k_bias, v_bias, self.bias(attention.c_proj))

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP, which takes the normed input."""
        module: nn.Module = self._body.h[layer].mlp
        return module

    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""
        return layer_norm(self._body.h[layer].ln_1)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return layer_norm(self._body.h[layer].ln_2)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return layer_norm(self._body.ln_f)

    def position_constant(self, positions: Tensor) -> Tensor:
        """Return the learned position embeddings, `[B, T, D]`."""
        table: Tensor = self._body.wpe.weight.detach()
        return table[positions]

    def max_positions(self) -> int:
        """Return the length of the table of positions."""
        return int(self._body.wpe.weight.shape[0])

    def scale(self, layer: int) -> float:
        """Return the factor of the products of queries and keys."""
        return float(self._body.h[layer].attn.scaling)
