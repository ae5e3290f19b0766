"""GPT-J: parallel blocks with one LayerNorm, and rotary positions that turn neighbouring dimensions."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models.families.base import Family, layer_norm
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class GPTJ(Family):
    """`GPTJForCausalLM`."""

    parallel = True
    interleaved = True

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._body: Any = model.transformer

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.h[layer].attn
        return self.by_head(attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a layer's MLP, which takes the normed input."""
        module: nn.Module = self._body.h[layer].mlp
        return module

    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""
        return layer_norm(self._body.h[layer].ln_1)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP: that before its attention."""
        return self.attention_norm(layer)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return layer_norm(self._body.ln_f)

    def rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Look cosines and sines up; each stands for two neighbouring dimensions."""
        sin, cos = self._table()[positions].to(like.dtype).repeat_interleave(2, -1).chunk(2, -1)
        return cos, sin

    def max_positions(self) -> int:
        """Return the length of the table of sines and cosines."""
        return len(self._table())

    def scale(self, layer: int) -> float:
        """Return the factor of the products of queries and keys."""
        return 1 / float(self._body.h[layer].attn.scale_attn)

    def _table(self) -> Tensor:
        """Return sines and cosines by position, `[P, rotated width]`; every layer has the same."""
        table: Tensor = self._body.h[0].attn.embed_positions
        return table
