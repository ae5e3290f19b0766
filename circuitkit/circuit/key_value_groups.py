"""A circuit's values for keys and values read once per group, and once per query head."""

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource

Values = tuple[Tensor, Tensor, Tensor]
"""Scores, kept edges and score sources."""


def split_groups(by_head: EdgeGraph, by_group: EdgeGraph, scores: Tensor, kept: Tensor, sources: Tensor) -> Values:
    """Give each head's edge an equal part of its group's score, as `Circuit.expand_kv` describes."""
    to = _group_edges(by_head, by_group)
    parts = torch.bincount(to, minlength=len(by_group)).to(scores.dtype)
    return (scores / parts)[to], kept[to], sources[to]


def join_groups(by_head: EdgeGraph, by_group: EdgeGraph, scores: Tensor, kept: Tensor, sources: Tensor) -> Values:
    """Add the scores of a group's heads, as `Circuit.collapse_kv` describes."""
    to = _group_edges(by_head, by_group)
    low, high = (
        torch.zeros(len(by_group), dtype=torch.int8).scatter_reduce(0, to, sources, how, include_self=False)
        for how in ("amin", "amax")
    )
    return (
        scores.new_zeros(len(by_group)).index_add(0, to, scores),
        torch.bincount(to[kept], minlength=len(by_group)) > 0,
        low.where(low == high, int(ScoreSource.GIVEN)),
    )


def _group_edges(by_head: EdgeGraph, by_group: EdgeGraph) -> Tensor:
    """Map every edge of the first graph to its edge in the second, `[edges]`."""
    share = by_head.heads // by_group.kv_heads
    readers = (by_head.reader(index) for index in range(by_head.n_readers))
    starts = [
        by_group.edges(by_group.reader_index(kind, layer, head // share if kind in ("k", "v") else head)).start
        for kind, layer, head in readers
    ]
    return torch.tensor(starts, dtype=torch.int64)[by_head.reader_of] + by_head.writer_of
