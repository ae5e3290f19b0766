"""GIM: edge attribution patching with a different backward rule."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.models.attention import Kind
from circuitkit.models.backward_rule import BackwardRule, scale_gradient
from circuitkit.models.norm import Norm
from circuitkit.strategies.base import DiscoveryStrategy, refuse_zero_gradient, time_discovery
from circuitkit.strategies.discovery import Discovery

TEMPERATURE = 2.0
SCALES = {"q": 0.25, "k": 0.25, "v": 0.5}
GATED_SCALE = 0.5


class GIM(DiscoveryStrategy):
    """Gradient interaction modifications (Edin et al. 2025, arXiv 2505.17630) applied to edges.

    EAP's scores, with gradients by `GIMRule`. It only scores edges: the circuit keeps all of them; choose a size by
    ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient vanishes at the full model."""
        refuse_zero_gradient(run.objective, "GIM")

    def footprint(self, run: Discovery) -> Need:
        """Count one pass."""
        return run.ranking_need(GIMRule())

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few prompts."""
        return time_discovery(self, run)

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        return run.rank_edges(GIMRule())


class GIMRule(BackwardRule):
    """GIM's gradients; the values are the model's own.

    - The scale of every norm is a constant, including the norms of heads and the final norm; a LayerNorm's subtraction
      of the mean keeps its gradient.
    - The gradient at attention scores s is p * (g - sum(g p)) with p = softmax(s / 2), where g is the gradient at the
      pattern. This is the softmax's own formula with a softer pattern, without the factor 1/2 of its chain rule.
    - Gradients at queries, keys and values are multiplied by 1/4, 1/4 and 1/2.
    - In a gated MLP (Llama, Mistral, Qwen), down(act(gate(x)) * up(x)), gradients at both factors of the product are
      multiplied by 1/2. The authors' package `gim-explain` lacks this rule up to 0.1.4.
    """

    def norm(self, norm: Norm) -> Norm:
        """Treat the scale of a norm as a constant in the backward pass."""
        return replace(norm, frozen=True)

    def softmax(self, scores: Tensor) -> Tensor:
        """Compute the softmax, with the gradient of a softer pattern."""
        softmax: Tensor = _SofterGradient.apply(scores, TEMPERATURE)  # type: ignore[no-untyped-call]
        return softmax

    def projected(self, kind: Kind, x: Tensor) -> Tensor:
        """Scale the gradients of queries, keys or values."""
        return scale_gradient(x, SCALES[kind])

    def gated_mlp(self, output: Tensor) -> Tensor:
        """Halve the gradients of gate and up: all of both passes through the output, which is linear in the product."""
        return scale_gradient(output, GATED_SCALE)


class _SofterGradient(torch.autograd.Function):
    """Softmax, with the gradient of the softmax of scores / temperature."""

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
