"""Gemma 2: norms before and after attention and MLP, soft-capping, and sliding windows of every other layer."""

from circuitkit.models.families.gemma import Gemma
from circuitkit.models.families.norm_after import NormAfter
from circuitkit.models.norm import Norm


class Gemma2(NormAfter, Gemma):
    """`Gemma2ForCausalLM`."""

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return self.norm(self._body.layers[layer].pre_feedforward_layernorm)

    def attention_cap(self, layer: int) -> float | None:
        """Return the soft-capping of the products of queries and keys."""
        cap: float | None = self._body.layers[layer].self_attn.attn_logit_softcapping
        return cap

    def logit_cap(self) -> float | None:
        """Return the soft-capping of the logits, which the model's code reads from the config whenever it runs."""
        cap: float | None = self.config.final_logit_softcapping
        return cap

    def window(self, layer: int) -> int | None:
        """Return the sliding window, which the model's code reads from the config whenever it runs."""
        slides = self.config.layer_types[layer] == "sliding_attention"
        size: int | None = self.config.sliding_window if slides else None
        return size
