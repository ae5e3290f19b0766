"""The control: random scores."""

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.strategies.base import DiscoveryStrategy, time_discovery
from circuitkit.strategies.discovery import Discovery


class RandomEdges(DiscoveryStrategy):
    """Scores every edge with a random number in [0, 1): the baseline that any method must beat."""

    def footprint(self, run: Discovery) -> Need:
        """Count nothing."""
        return Need()

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few prompts."""
        return time_discovery(self, run)

    def discover(self, run: Discovery) -> Circuit:
        """Draw the scores."""
        scores = torch.rand(len(run.model.graph), generator=run.generator, dtype=torch.float64)
        return Circuit.from_scores(run.model.graph, scores)
