"""Backward rules: gradients through norms, attention and MLPs, plain or as an attribution method defines them."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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

    def activation(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the output of an MLP's activation function at `x` with the same values, and other gradients."""
        return output

    def gated_mlp(self, output: Tensor) -> Tensor:
        """Return the output of a gated MLP, `[..., D]`, with the same values, and other gradients."""
        return output


PLAIN = BackwardRule()


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Return `x`, whose gradient is multiplied by a number."""
    scaled: Tensor = _ScaledGradient.apply(x, scale)  # type: ignore[no-untyped-call]
    return scaled


class _ScaledGradient(torch.autograd.Function):
    """Identity, with a scaled gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None
