"""The Llama family: RMSNorm, rotary positions, grouped-query attention, gated MLPs.

Serves Llama, Mistral (sliding window), Qwen 2 (biases, sliding windows) and Qwen 3 (norms of queries and keys).
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models.families.base import Family, bias_by_head, by_head, rms_norm
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class Llama(Family):
    """`LlamaForCausalLM` and models with the same modules."""

    gated = True

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._body: Any = model.model

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.layers[layer].self_attn
        q, k, v, o = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        return AttentionWeights(
            q=by_head(q.weight, self.heads),
            k=by_head(k.weight, self.kv_heads),
            v=by_head(v.weight, self.kv_heads),
            o=o.weight.detach().unflatten(1, (self.heads, -1)).permute(1, 2, 0),
            q_bias=bias_by_head(q.bias, self.heads),
            k_bias=bias_by_head(k.bias, self.kv_heads),
            v_bias=bias_by_head(v.bias, self.kv_heads),
            o_bias=None if o.bias is None else o.bias.detach(),
        )

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP, which takes the normed input."""
        module: nn.Module = self._body.layers[layer].mlp
        return module

    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""
        return rms_norm(self._body.layers[layer].input_layernorm)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return rms_norm(self._body.layers[layer].post_attention_layernorm)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return rms_norm(self._body.norm)

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        """Return the norms of each head's query and key (Qwen 3)."""
        attention = self._body.layers[layer].self_attn
        if not hasattr(attention, "q_norm"):
            return None
        return rms_norm(attention.q_norm), rms_norm(attention.k_norm)

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines over the full width of each head."""
        cos, sin = self._body.rotary_emb(like, position_ids=positions)
        return cos, sin

    def window(self, layer: int) -> int | None:
        """Return the sliding window: every layer of Mistral has one, Qwen's those that `layer_types` names."""
        size: int | None = getattr(self.config, "sliding_window", None)
        kinds = getattr(self.config, "layer_types", None)
        return None if kinds is not None and kinds[layer] != "sliding_attention" else size
