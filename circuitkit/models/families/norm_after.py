"""The norms after attention and MLP, which couple the heads of a layer."""

from transformers import PreTrainedModel

from circuitkit.models.families.base import unsupported
from circuitkit.models.families.llama import Llama
from circuitkit.models.norm import Norm


class NormAfter(Llama):
    """The modules of Llama, with norms after attention and MLP."""

    coupled = True

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        if getattr(self.config, "use_bidirectional_attention", False):
            raise unsupported("attention to later tokens")
        if any(self.bias(layer.self_attn.o_proj) is not None for layer in self._body.layers):
            raise unsupported("an output bias of the attention before a norm")

    def attention_norm_after(self, layer: int) -> Norm:
        """Return the norm of the sum of a layer's heads."""
        return self.norm(self._body.layers[layer].post_attention_layernorm)

    def mlp_norm_after(self, layer: int) -> Norm:
        """Return the norm of the output of a layer's MLP."""
        return self.norm(self._body.layers[layer].post_feedforward_layernorm)
