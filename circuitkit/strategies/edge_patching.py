"""The exact effect of every edge alone."""

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate, estimate_single
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery


class EdgePatching(DiscoveryStrategy):
    """Removes each edge alone from the full model: the effect that EAP estimates ("exact" in EAP-IG and MIB).

    Everything downstream of each removal is computed, for many removals at once. It only scores edges: the circuit
    keeps all of them; choose a size by ranking.
    """

    def footprint(self, run: Discovery) -> Need:
        """Count the search in the full model."""
        return run.footprints.editor(gradients=False)

    def discover(self, run: Discovery) -> Circuit:
        """Measure every edge."""
        graph, editor = run.model.graph, run.editor()
        scores = torch.zeros(len(graph), dtype=torch.float64)
        done = 0
        for reader in reversed(range(graph.n_readers)):
            editor.open(reader)
            edges = graph.edges(reader)
            values = editor.values(torch.eye(edges.stop - edges.start, dtype=torch.bool))
            scores[edges] = values[1:] - values[0]
            done += edges.stop - edges.start
            run.report(done, len(graph), "edges")
        run.log(edges_tested=done)
        return Circuit.from_scores(graph, scores, score_sources=ScoreSource.TESTED)

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few edges."""
        return estimate_single(run.editor)
