"""GIM: edge attribution patching with another backward rule."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitkit.circuit import Circuit, Origin
from circuitkit.models.backward_rule import BackwardRule
from circuitkit.models.norm import Norm
from circuitkit.strategies.base import Discovery, DiscoveryStrategy
from circuitkit.strategies.eap import refuse_vanishing

TEMPERATURE = 2.0
Q_SCALE, K_SCALE, V_SCALE = 0.25, 0.25, 0.5


class GIM(DiscoveryStrategy):
    """Gradient interaction modifications (Edin et al. 2025, arXiv 2505.17630) as a way to score edges.

    EAP's scores, with gradients by `GIMRule`. It scores; the circuit keeps every edge, and sizes come from ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient vanishes at the full model."""
        refuse_vanishing(run.objective, "GIM")

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        return Circuit.from_scores(run.model.graph, run.attribution(GIMRule()), origin=Origin.ESTIMATED)


class GIMRule(BackwardRule):
    """GIM's gradients; the values are the model's own.

    - The scale of every norm is a constant, that of heads' and of the final norm too; a LayerNorm's subtraction of the
      mean keeps its gradient.
    - The gradient at attention scores s is p * (g - sum(g p)) with p = softmax(s / 2), where g is the gradient at the
      pattern: the softmax's own formula with a softer pattern, and no factor 1/2 besides.
    - Gradients at queries, keys and values are multiplied by 1/4, 1/4 and 1/2.
    """

    def norm(self, norm: Norm) -> Norm:
        """The norm with a constant scale."""
        return replace(norm, frozen=True)

    def softmax(self, scores: Tensor) -> Tensor:
        """The softmax, with a softer pattern's gradient."""
        return _apply(_SofterGradient, scores, TEMPERATURE)

    def projected(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with scaled gradients."""
        return (
            _apply(_ScaledGradient, q, Q_SCALE),
            _apply(_ScaledGradient, k, K_SCALE),
            _apply(_ScaledGradient, v, V_SCALE),
        )


class _SofterGradient(torch.autograd.Function):
    """Softmax; its gradient is that at scores / temperature."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.temperature = temperature
        return scores.softmax(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        softer = (scores / ctx.temperature).softmax(-1)
        return softer * (gradient - (gradient * softer).sum(-1, keepdim=True)), None


class _ScaledGradient(torch.autograd.Function):
    """The same; its gradient is scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def _apply(function: type[torch.autograd.Function], x: Tensor, number: float) -> Tensor:
    applied: Tensor = function.apply(x, number)
    return applied
