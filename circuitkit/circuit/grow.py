"""Grows a circuit backwards from the logits."""

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph


def grow(graph: EdgeGraph, level: Sequence[int], n: int) -> tuple[Tensor, bool]:
    """Grow a circuit of `n` edges: each step adds the best edge into a node that it already has, at first the logits.

    Args:
        graph: the graph of the edges.
        level: the rank of every edge, 0 for the best; equally good edges share a rank.
        n: number of edges to keep, at most `len(graph)`.

    Returns:
        The edges added, bool `[edges]`; and True if others would have been as good.
    """
    writers, readers_of = graph.writer_of.tolist(), _readers_of(graph)
    kept, joined = torch.zeros(len(graph), dtype=torch.bool), {graph.logits}
    heap = [(level[edge], edge) for edge in _numbers(graph.edges(graph.logits))]
    heapq.heapify(heap)
    undecided = -1  # the worst level at which an edge was added and one that was as good was not
    for _ in range(n):
        taken, edge = heapq.heappop(heap)
        kept[edge] = True
        if taken > undecided:
            undecided = -1
        if heap and heap[0][0] == taken:
            undecided = max(undecided, taken)
        # Readers, not heads: several heads share a group's key reader, whose edges are added once
        for reader in readers_of[writers[edge]] - joined:
            joined.add(reader)
            for candidate in _numbers(graph.edges(reader)):
                heapq.heappush(heap, (level[candidate], candidate))
    return kept, bool(heap) and heap[0][0] <= undecided


def _readers_of(graph: EdgeGraph) -> list[set[int]]:
    """List the readers that change each writer, `[W]`."""
    result: list[set[int]] = [set() for _ in range(graph.n_writers)]
    for reader in range(graph.n_readers):
        for writer in graph.writers_changed_by(reader):
            result[writer].add(reader)
    return result


def _numbers(edges: slice) -> range:
    return range(edges.start, edges.stop)
