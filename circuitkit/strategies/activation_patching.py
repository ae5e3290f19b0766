"""The exact effect of every edge alone."""

import torch

from circuitkit.circuit import Circuit, Origin
from circuitkit.preflight import Estimate, estimate_single
from circuitkit.strategies.base import Discovery, DiscoveryStrategy


class ActivationPatching(DiscoveryStrategy):
    """Removes each edge alone from the full model: what EAP estimates ("exact" in EAP-IG and MIB).

    Each removal is computed through the full model behind it, many at once. It scores; the circuit keeps every edge.
    """

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
        return Circuit.from_scores(graph, scores, origin=Origin.TESTED)

    def preflight(self, run: Discovery) -> Estimate:
        """Time a few edges."""
        return estimate_single(run.editor)
