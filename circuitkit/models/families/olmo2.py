"""OLMo 2: norms after attention and MLP alone, and norms of the queries, and of the keys, of all heads together."""

from circuitkit.models.families.norm_after import NormAfter
from circuitkit.models.norm import Identity, Norm


class OLMo2(NormAfter):
    """`Olmo2ForCausalLM`."""

    def attention_norm(self, layer: int) -> Norm:
        """Return the identity: the attention reads the stream itself."""
        return Identity(self._body.norm.weight.detach(), None, 0.0, False)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the identity: the MLP reads the stream itself."""
        return Identity(self._body.norm.weight.detach(), None, 0.0, False)
