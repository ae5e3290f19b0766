"""Edges that are connected to the logits, grown from there."""

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.graph import EdgeGraph


def grow(graph: EdgeGraph, level: Sequence[int], n: int) -> tuple[Tensor, bool]:
    """`n` edges: always the best of those into a node that is there already, at first the logits alone.

    Args:
        graph: of which edges.
        level: the place of every edge, the best 0; edges of equal worth have the same.
        n: how many; not more than there are.

    Returns:
        Which edges, bool `[edges]`, and whether others would have been as good.
    """
    writers, readers_of = graph.writer_of.tolist(), _readers_of(graph)
    kept, joined = torch.zeros(len(graph), dtype=torch.bool), {graph.logits}
    heap = [(level[edge], edge) for edge in _numbers(graph.edges(graph.logits))]
    heapq.heapify(heap)
    undecided = -1  # the worst level at which one of several equal edges came first, and which is not exhausted
    for _ in range(n):
        taken, edge = heapq.heappop(heap)
        kept[edge] = True
        if taken > undecided:
            undecided = -1
        if heap and heap[0][0] == taken:
            undecided = max(undecided, taken)
        # Readers and not nodes: a group's key is read once, whichever of its heads comes first
        for reader in readers_of[writers[edge]] - joined:
            joined.add(reader)
            for candidate in _numbers(graph.edges(reader)):
                heapq.heappush(heap, (level[candidate], candidate))
    return kept, bool(heap) and heap[0][0] <= undecided


def _readers_of(graph: EdgeGraph) -> list[set[int]]:
    """The readers that feed each writer, `[W]`."""
    result: list[set[int]] = [set() for _ in range(graph.n_writers)]
    for reader in range(graph.n_readers):
        for owner in graph.owners(reader):
            result[owner].add(reader)
    return result


def _numbers(edges: slice) -> range:
    return range(edges.start, edges.stop)
