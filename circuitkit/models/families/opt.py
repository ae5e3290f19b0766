"""OPT: learned positions with an offset, LayerNorm, MLPs whose layers belong to the block."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.models.families.base import Family, layer_norm, unsupported
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights


class OPT(Family):
    """`OPTForCausalLM`.

    Raises:
        UsageError: it is the 350M model, or another with norms after its blocks or with embeddings of another width.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        body: Any = model.model
        self._body = body.decoder
        if not all(layer.do_layer_norm_before for layer in self._body.layers):
            raise unsupported("norms after its blocks (do_layer_norm_before is false, as in OPT 350M)")
        if self._body.project_in is not None or self._body.project_out is not None:
            raise unsupported("embeddings of another width than its stream (project_in, project_out)")
        if self._body.final_layer_norm is None:
            raise unsupported("no norm before its unembedding (_remove_final_layer_norm)")

    def attention_weights(self, layer: int) -> AttentionWeights:
        """Return a layer's attention weights, by head."""
        attention = self._body.layers[layer].self_attn
        return self.by_head(attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)

    def mlp_module(self, layer: int) -> nn.Module:
        """Return a module of the block's layers that make up its MLP."""
        return _MLP(self._body.layers[layer])

    def attention_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's attention."""
        return self._norm(self._body.layers[layer].self_attn_layer_norm)

    def mlp_norm(self, layer: int) -> Norm:
        """Return the norm before a layer's MLP."""
        return self._norm(self._body.layers[layer].final_layer_norm)

    def final_norm(self) -> Norm:
        """Return the norm before the unembedding."""
        return self._norm(self._body.final_layer_norm)

    def position_constant(self, positions: Tensor) -> Tensor:
        """Return the learned position embeddings, `[B, T, D]`."""
        table = self._body.embed_positions
        found: Tensor = table.weight.detach()[positions + table.offset]
        return found

    def max_positions(self) -> int:
        """Return how many positions the table has after its offset."""
        table = self._body.embed_positions
        return int(table.weight.shape[0]) - int(table.offset)

    def scale(self, layer: int) -> float:
        """Return the factor of the products of queries and keys."""
        return float(self._body.layers[layer].self_attn.scaling)

    def _norm(self, module: nn.LayerNorm) -> Norm:
        if not module.elementwise_affine:
            ones = torch.ones(self.width, dtype=self.dtype, device=self.model.device)
            return Norm(ones, None, module.eps, True)
        return layer_norm(module)


class _MLP(nn.Module):
    """The MLP of a block, sharing its layers."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = block.fc1, block.activation_fn, block.fc2

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.activation_fn(self.fc1(x)))
        return output
