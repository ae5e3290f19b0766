"""A model family outside the package: StarCoder 2, which has Llama's attention with LayerNorm, biases and plain MLPs.

pip install examples/my_family
circuitkit list families
circuitkit check starcoder2
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models import AttentionWeights, Family, Norm, RotaryPositions, layer_norm


class Starcoder2(Family):
    """`Starcoder2ForCausalLM`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._body: Any = model.model
        self._rotary = RotaryPositions(self._body.rotary_emb)

    # What every family says: where the parts of a layer are

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
        return layer_norm(self._body.layers[layer].input_layernorm)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return layer_norm(self._body.layers[layer].post_attention_layernorm)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return layer_norm(self._body.norm)

    # Where this one differs from a family without positions and windows

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines over the full width of each head."""
        return self._rotary(positions, like)

    def scales_from(self) -> int | None:
        """Return the length above which positions are scaled by the prompt's length."""
        return self._rotary.scales_from

    def window(self, layer: int) -> int | None:
        """Return the size of the sliding window, which the code reads from the config."""
        size: int | None = self.config.sliding_window
        return size
