"""The circuit of a given size that a trained mask stands for."""

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource


def round_to_size(graph: EdgeGraph, scores: Tensor, wanted: int) -> Tensor:
    """Choose the best edges, `wanted` of them, counting only edges connected to `input` and to the logits.

    First, take the lowest threshold over all edges that leaves at most `wanted` edges after dropping unconnected ones.
    If the next edge would connect too many at once, add the best single edges from a reached writer to a live reader.

    Args:
        graph: of the edges.
        scores: `[edges]`.
        wanted: how many edges to keep.

    Returns:
        bool `[edges]`; fewer than `wanted` only if no further single edge would be connected.
    """
    ranking = Circuit.from_scores(graph, scores)
    low, high = 0, len(graph)
    while low < high:  # the number of connected edges grows with the number of edges
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(ranking.top(middle).prune()) <= wanted else (low, middle - 1)
    kept = ranking.top(low).prune().kept
    reached = graph.reached_writers(kept)
    live = graph.live_readers(graph.live_writers(kept))
    joined = ~kept & reached[graph.writer_of] & live[graph.reader_of]
    best = scores.masked_fill(~joined, -torch.inf).sort(descending=True, stable=True).indices
    kept[best[: min(wanted - int(kept.sum()), int(joined.sum()))]] = True
    return kept


def round_to_target(graph: EdgeGraph, scores: Tensor, target: float) -> Circuit:
    """Make the circuit whose number of edges leaves out the fraction `target`; see `round_to_size`."""
    kept = round_to_size(graph, scores, round((1 - target) * len(graph)))
    score_sources = torch.full((len(graph),), int(ScoreSource.GIVEN), dtype=torch.int8)
    return Circuit(graph, scores, kept, score_sources, selection=f"target {target:g}, connected edges counted")
