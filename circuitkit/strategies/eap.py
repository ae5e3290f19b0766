"""Edge attribution patching: the effect of every edge, from one backward pass."""

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.strategies.base import DiscoveryStrategy, refuse_zero_gradient, time_discovery
from circuitkit.strategies.discovery import Discovery


class EAP(DiscoveryStrategy):
    """Edge attribution patching (Syed et al. 2023, arXiv 2310.10348).

    score(w -> r) = (õ_w - o_w) . dL/dx_r on the clean run, summed over positions, mean over prompts. It only
    scores edges: the circuit keeps all of them; choose a size by ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient is zero at the full model."""
        refuse_zero_gradient(run.objective, "EAP")

    def footprint(self, run: Discovery) -> Need:
        """Count one pass."""
        return run.ranking_need()

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few prompts."""
        return time_discovery(self, run)

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        return run.rank_edges()
