"""RelP: edge attribution patching with the coefficients of layer-wise relevance propagation instead of gradients."""

from dataclasses import replace

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.models.backward_rule import BackwardRule, scale_gradient
from circuitkit.models.norm import Norm
from circuitkit.strategies.base import DiscoveryStrategy, refuse_zero_gradient, time_discovery
from circuitkit.strategies.discovery import Discovery

GATED_SCALE = 0.5


class RelP(DiscoveryStrategy):
    """Relevance patching (Rezaei Jafari et al. 2025, arXiv 2508.21258) applied to edges.

    EAP's scores, with gradients by `RelPRule`, at the same cost. It only scores edges: the circuit keeps all of them;
    choose a size by ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient vanishes at the full model."""
        refuse_zero_gradient(run.objective, "RelP")

    def footprint(self, run: Discovery) -> Need:
        """Count one pass."""
        return run.ranking_need(RelPRule())

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few prompts."""
        return time_discovery(self, run)

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        return run.rank_edges(RelPRule())


class RelPRule(BackwardRule):
    """The propagation coefficients of layer-wise relevance propagation, as gradients; the values are the model's own.

    - Norms (LN rule): the scale of every norm is a constant, including the norms of heads and the final norm; a
      LayerNorm's subtraction of the mean keeps its gradient.
    - Activation functions (identity rule): f(x) = x * (f(x) / x), where f(x) / x is a constant (0 where x is 0).
    - The product of gate and up in a gated MLP (half rule): gradients at both factors are multiplied by 1/2.
    - Linear layers and the attention pattern keep their gradients. The authors' code can also treat the pattern as a
      constant (AH rule), but neither its default rules nor its demonstration do so. Under that rule every edge into a
      query or key would score 0.

    The authors divide by x + 1e-6 sign(x) rather than x, which makes no difference but next to 0.
    """

    def norm(self, norm: Norm) -> Norm:
        """Treat the scale of a norm as a constant in the backward pass."""
        return replace(norm, frozen=True)

    def activation(self, x: Tensor, output: Tensor) -> Tensor:
        """Let the gradient be that of x times a constant."""
        if not x.requires_grad:
            return output
        x_value, output = x.detach(), output.detach()
        ratio = torch.where(x_value == 0, 0.0, output / x_value)
        return output + (x - x_value) * ratio  # exactly the output

    def gated_mlp(self, output: Tensor) -> Tensor:
        """Halve the gradients of gate and up: all of both passes through the output, which is linear in the product."""
        return scale_gradient(output, GATED_SCALE)
