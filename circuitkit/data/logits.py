"""Logits at the answer positions, computed only for the tokens that an objective needs; in float32 at least.

Logits in bfloat16 have steps of 0.06 at 10; probabilities and differences that were computed in them would hide what
most edges do. `all` still has the model's own rounding, since the whole table in float32 would be dear.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_BYTES = torch.float32.itemsize
"""Of a logit."""


@dataclass(frozen=True)
class Logits:
    """The final residual stream at the answer positions, and methods that compute logits from it.

    Attributes:
        hidden: the final residual stream after the norm, at the A answer positions, `[..., B, A, D]`.
        weight: the unembedding, `[V, D]`.
        bias: `[V]` or None.
        cap: soft-capping: every logit x is cap * tanh(x / cap). None: there is none.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    cap: float | None = None

    def all(self) -> Tensor:
        """Compute the logits of the whole vocabulary, `[..., B, A, V]`."""
        return self._capped(_wide(torch.nn.functional.linear(self.hidden, self.weight, self.bias)))

    def of(self, tokens: Tensor) -> Tensor:
        """Compute the logits `[..., B, A, n]` of the tokens `[B, A, n]` only; undefined where a token is -1."""
        rows = tokens.clamp(min=0)
        logits = (_wide(self.weight[rows]) @ _wide(self.hidden).unsqueeze(-1)).squeeze(-1)
        return self._capped(logits if self.bias is None else logits + self.bias[rows])

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
