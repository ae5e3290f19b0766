"""Logits at the answer positions, computed only for the tokens that an objective needs."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Logits:
    """The final residual stream at the answer positions, and methods that compute logits from it.

    Attributes:
        hidden: the final residual stream after the norm, at the A answer positions, `[..., B, A, D]`.
        weight: the unembedding, `[V, D]`.
        bias: `[V]` or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def all(self) -> Tensor:
        """Compute the logits of the whole vocabulary, `[..., B, A, V]`."""
        return torch.nn.functional.linear(self.hidden, self.weight, self.bias)

    def of(self, tokens: Tensor) -> Tensor:
        """Compute the logits `[..., B, A, n]` of the tokens `[B, A, n]` only; undefined where a token is -1."""
        rows = tokens.clamp(min=0)
        logits = (self.weight[rows] @ self.hidden.unsqueeze(-1)).squeeze(-1)
        return logits if self.bias is None else logits + self.bias[rows]
