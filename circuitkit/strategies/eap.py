"""Edge attribution patching: every edge's effect from one backward pass."""

from circuitkit.circuit import Circuit, Origin
from circuitkit.errors import UsageError
from circuitkit.objective import Objective
from circuitkit.strategies.base import Discovery, DiscoveryStrategy


class EAP(DiscoveryStrategy):
    """Edge attribution patching (Syed et al. 2023, arXiv 2310.10348).

    score(w -> r) = (õ_w - o_w) . dL/dx_r on the clean run, summed over positions, mean over prompts. It scores;
    the circuit keeps every edge, and sizes come from ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient vanishes at the full model."""
        refuse_vanishing(run.objective, "EAP")

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        return Circuit.from_scores(run.model.graph, run.attribution(), origin=Origin.ESTIMATED)


def refuse_vanishing(objective: Objective, method: str) -> None:
    """Refuse an objective for a method that takes gradients at the full model only.

    Raises:
        UsageError: the objective's gradient vanishes there.
    """
    if objective.zero_at_full_model:
        raise UsageError(
            f"{method} with the objective {type(objective).__name__} would score every edge zero: "
            "its gradient vanishes at the full model.",
            "Choose logit_difference, or a strategy that looks elsewhere than at the full model.",
        )
