"""Phi 1, 1.5 and 2: parallel blocks with one LayerNorm, biases, partial rotary positions."""

from torch import nn

from circuitkit.models.families.base import layer_norm
from circuitkit.models.families.llama import Llama
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class Phi(Llama):
    """`PhiForCausalLM`: the modules of Llama, connected and named in another way."""

    gated = False
    parallel = True

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.layers[layer].self_attn
        return self.by_head(attention.q_proj, attention.k_proj, attention.v_proj, attention.dense)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP: that before its attention."""
        return self.attention_norm(layer)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return self.norm(self._body.final_layernorm)

    def head_norms(self, layer: int) -> tuple[Norm, Norm] | None:
        """Return the norms of each head's query and key, if it has them."""
        attention = self._body.layers[layer].self_attn
        if not attention.qk_layernorm:
            return None
        return self.norm(attention.q_layernorm), self.norm(attention.k_layernorm)

    def norm(self, module: nn.Module) -> Norm:
        """Convert one of the model's LayerNorms."""
        return layer_norm(module)
