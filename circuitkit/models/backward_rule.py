"""Backward rules: gradients through norms, attention and gated MLPs, plain or as an attribution method defines them."""

from typing import Literal

from torch import Tensor

from circuitkit.models.norm import Norm


class BackwardRule:
    """Plain gradients; a subclass overrides what it changes.

    A rule changes gradients only: every value stays the same. Apply it with `CircuitModel.under(rule)`.
    """

    def norm(self, norm: Norm) -> Norm:
        """Return the norm to use instead of one of the model's: before attention, MLP or unembedding, or of heads."""
        return norm

    def softmax(self, scores: Tensor) -> Tensor:
        """Compute the attention pattern from masked scores, both `[..., P, T]`."""
        return scores.softmax(-1)

    def projected(self, kind: Literal["q", "k", "v"], x: Tensor) -> Tensor:
        """Return projected queries, keys or values `[heads, ..., T, E]` with the same values, and other gradients."""
        return x

    def gated_mlp(self, output: Tensor) -> Tensor:
        """Return the output of a gated MLP, `[..., D]`, with the same values, and other gradients."""
        return output


PLAIN = BackwardRule()
