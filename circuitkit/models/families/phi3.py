"""Phi 3 and Phi 4: the modules of Llama with fused query-key-value and gate-up matrices, and a sliding window."""

from circuitkit.models.families.llama import Llama
from circuitkit.models.weights import AttentionWeights


class Phi3(Llama):
    """`Phi3ForCausalLM`."""

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head: rows of queries, then of keys, then of values."""
        attention = self._body.layers[layer].self_attn
        rows = self.matrix(attention.qkv_proj).unflatten(0, (self.heads + 2 * self.kv_heads, -1))
        q, k, v = rows.split([self.heads, self.kv_heads, self.kv_heads])
        return AttentionWeights(q, k, v, self.matrix(attention.o_proj).unflatten(1, (self.heads, -1)).permute(1, 2, 0))

    def window(self, layer: int) -> int | None:
        """Return the sliding window of the config, which the model's code reads whenever it runs."""
        size: int | None = self.config.sliding_window
        return size
