"""Gemma: the modules of Llama with scaled embeddings, and with norms that multiply by 1 + weight."""

from typing import Any

import torch
from torch import Tensor

from circuitkit.models.families.llama import Llama
from circuitkit.models.norm import Norm


class Gemma(Llama):
    """`GemmaForCausalLM`."""

    def embed(self, ids: Tensor) -> Tensor:
        """Compute token embeddings `[..., T, D]`, times the scale of the embedding module."""
        # Up to transformers 5.0, the module had none: the model multiplied by the root of the width
        scale = getattr(self.model.get_input_embeddings(), "embed_scale", self.width**0.5)
        return super().embed(ids) * torch.as_tensor(scale, dtype=self.dtype)

    def norm(self, module: Any) -> Norm:
        """Convert one of the model's RMSNorm modules, which compute in at least float32."""
        weight: Tensor = module.weight.detach()
        return Norm(1.0 + weight.to(torch.promote_types(weight.dtype, torch.float32)), None, module.eps, False)
