"""The Llama family: RMSNorm, rotary positions, grouped-query attention, gated MLPs.

Serves Llama, Mistral (sliding window), Qwen 2 (biases, sliding windows) and Qwen 3 (norms of queries and keys).
"""

from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import MistralModel, PreTrainedModel

from circuitkit.models.families.base import Family, rms_norm
from circuitkit.models.norm import Norm
from circuitkit.models.rotary import RotaryPositions
from circuitkit.models.weights import AttentionWeights


class Llama(Family):
    """`LlamaForCausalLM` and models with the same modules."""

    gated = True

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._body: Any = model.model

    @cached_property
    def _rotary(self) -> RotaryPositions:
        return RotaryPositions(self._body.rotary_emb)

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.layers[layer].self_attn
        return self.by_head(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP, which takes the normed input."""
        module: nn.Module = self._body.layers[layer].mlp
        return module

    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""
        return self.norm(self._body.layers[layer].input_layernorm)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return self.norm(self._body.layers[layer].post_attention_layernorm)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return self.norm(self._body.norm)

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        """Return the norms of each head's query and key (Qwen 3)."""
        attention = self._body.layers[layer].self_attn
        if not hasattr(attention, "q_norm"):
            return None
        return self.norm(attention.q_norm), self.norm(attention.k_norm)

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines over the full width of each head."""
        return self._rotary(positions, like)

    def scales_from(self) -> int | None:
        """Return the length above which positions are scaled by the prompt's length."""
        return self._rotary.scales_from

    def scale(self, layer: int) -> float:
        """Return the factor of the products of queries and keys."""
        return float(self._body.layers[layer].self_attn.scaling)

    def window(self, layer: int) -> int | None:
        """Return the sliding window: each layer's own of Qwen, the config's of Mistral, none of Llama."""
        size: int | None = getattr(self._body.layers[layer].self_attn, "sliding_window", None)
        if isinstance(self._body, MistralModel):  # its code reads the config whenever it runs
            size = self.config.sliding_window
        return size

    # For subclasses

    def norm(self, module: nn.Module) -> Norm:
        """Convert one of the model's RMSNorm modules."""
        return rms_norm(module)
