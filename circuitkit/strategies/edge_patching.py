"""The exact effect of every edge alone."""

from dataclasses import replace

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate, estimate_single
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.starting_circuit import Start, StartsFromCircuit


class EdgePatching(StartsFromCircuit):
    """Removes each edge alone from the full model: the effect that EAP estimates ("exact" in EAP-IG and MIB).

    Everything downstream of each removal is computed, for many removals at once. It only scores edges: the circuit
    keeps all of them; choose a size by ranking.

    Args:
        start: remove edges from this circuit instead of the full model, and score no others: another strategy, by name,
            spec or object, which runs first; the folder of a run; or a `Circuit`.
        start_size: start from this fraction of the edges, the best of `start`; by default its own edges, or 0.05 of a
            ranking.

    Raises:
        UsageError: an argument is out of its range.
    """

    def __init__(self, start: Start = None, start_size: float | None = None) -> None:
        self._set_start(start, start_size)

    def footprint(self, run: Discovery) -> Need:
        """Count the search in the full model."""
        return run.footprints.editor(gradients=False)

    def discover(self, run: Discovery) -> Circuit:
        """Measure every edge of the full model or of the circuit to start from."""
        start = self._find_start(run)
        graph, editor = run.model.graph, run.editor(None if start is None else start.kept)
        tested = editor.kept.clone()
        scores = torch.zeros(len(graph), dtype=torch.float64)
        done, total = 0, int(tested.sum())
        for reader in reversed(range(graph.n_readers)):
            edges = graph.edges(reader)
            if not tested[edges].any():
                continue
            editor.open(reader)
            values = editor.values(torch.diag(tested[edges])[tested[edges]])
            scores[edges][tested[edges]] = values[1:] - values[0]
            done += len(values) - 1
            run.report(done, total, "edges")
        run.log(edges_tested=done)
        self._log_search(run)
        sources = torch.where(tested, int(ScoreSource.TESTED), int(ScoreSource.GIVEN)).to(torch.int8)
        return Circuit.from_scores(graph, scores, score_sources=sources)

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few edges."""
        if self._starting is None:
            return estimate_single(run.editor)
        kept, note = self._starting.assume(run.model.graph)
        return replace(estimate_single(lambda: run.editor(kept)), notes=(note,))
