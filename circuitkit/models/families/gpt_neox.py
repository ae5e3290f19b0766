"""GPT-NeoX (Pythia): parallel blocks, fused query-key-value interleaved by head, partial rotary positions."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models.families.base import Family, layer_norm
from circuitkit.models.norm import Norm
from circuitkit.models.rotary import RotaryPositions
from circuitkit.models.weights import AttentionWeights


class GPTNeoX(Family):
    """`GPTNeoXForCausalLM`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.parallel = self.config.use_parallel_residual
        body: Any = model.gpt_neox
        self._body = body
        self._rotary = RotaryPositions(body.rotary_emb)

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.layers[layer].attention
        fused = attention.query_key_value
        q, k, v = self.matrix(fused).unflatten(0, (self.heads, 3, -1)).transpose(0, 1)  # [H, E, D]
        biases: Any = (None, None, None)
        if (fused_bias := self.bias(fused)) is not None:
            biases = fused_bias.unflatten(0, (self.heads, 3, -1)).transpose(0, 1)
        o = self.matrix(attention.dense).unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        q_bias, k_bias, v_bias = biases
        return AttentionWeights(q, k, v, o, q_bias, k_bias, v_bias, self.bias(attention.dense))

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP, which takes the normed input."""
        module: nn.Module = self._body.layers[layer].mlp
        return module

    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""
        return layer_norm(self._body.layers[layer].input_layernorm)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return layer_norm(self._body.layers[layer].post_attention_layernorm)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return layer_norm(self._body.final_layer_norm)

    def scale(self, layer: int) -> float:
        """Return the factor of the products of queries and keys."""
        return float(self._body.layers[layer].attention.scaling)

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines of the rotated part of each head."""
        return self._rotary(positions, like)

    def scales_from(self) -> int | None:
        """Return the length above which positions are scaled by the prompt's length."""
        return self._rotary.scales_from
