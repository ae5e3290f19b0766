"""Checks of a circuit's values, and their hash."""

import hashlib
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import UsageError, quote


def check_values(graph: EdgeGraph, scores: Tensor, kept: Tensor, score_sources: Tensor) -> None:
    """Check the tensors of a circuit.

    Raises:
        UsageError: one has another shape or type, a score is NaN, or a score source is unknown.
    """
    check_graph(graph)
    for name, tensor, wanted in (
        ("scores", scores, None),
        ("kept", kept, torch.bool),
        ("score_sources", score_sources, torch.int8),
    ):
        right = isinstance(tensor, Tensor) and tensor.shape == (len(graph),) and not tensor.is_meta
        if not right or not (tensor.is_floating_point() if wanted is None else tensor.dtype == wanted):
            found = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else quote(tensor)
            found += " on the meta device, which has no values" * (isinstance(tensor, Tensor) and tensor.is_meta)
            kind = str(wanted or "floating-point").removeprefix("torch.")
            raise UsageError(f"{name} is {found}.", f"Give a {kind} tensor with {len(graph)} edges.")
    if (missing := scores.isnan()).any():
        first = graph.names[int(missing.nonzero()[0])]
        raise UsageError(
            f"The score of {first!r} is NaN ({int(missing.sum())} of {len(missing)} are).",
            "Check the objective on every prompt: each must have a finite value.",
        )
    if not ((score_sources >= min(ScoreSource)) & (score_sources <= max(ScoreSource))).all():
        raise UsageError(f"There is no score source {score_sources.max()}.", "Use the members of ScoreSource.")


def check_graph(graph: Any) -> EdgeGraph:
    """Return a graph.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(graph, EdgeGraph):
        raise UsageError(f"{quote(graph)} is no EdgeGraph.", "Give one, such as `model.graph`.")
    return graph


def check_size(n: object, edges: int) -> None:
    """Check a number of edges.

    Raises:
        UsageError: it is not a whole number, or the graph has fewer edges.
    """
    if isinstance(n, bool) or not isinstance(n, SupportsIndex):
        advice = f"Give a whole number from 0 to {edges}"
        if isinstance(n, float) and 0 < n < 1:
            advice += f"; for this fraction of the edges {round(n * edges)}, that is round({n!r} * {edges})"
        raise UsageError(f"{n!r} is not a number of edges.", f"{advice}.")
    if not 0 <= n.__index__() <= edges:
        raise UsageError(f"There is no circuit of {n} edges.", f"Choose from 0 to {edges}.")


def fill_score_sources(graph: EdgeGraph, score_sources: ScoreSource | Tensor) -> Tensor:
    """Repeat one score source for every edge; leave a tensor of them as it is."""
    if isinstance(score_sources, Tensor):
        return score_sources
    if not isinstance(score_sources, ScoreSource):
        raise UsageError(f"There is no score source {quote(score_sources)}.", "Use the members of ScoreSource.")
    return torch.full((len(graph),), int(score_sources), dtype=torch.int8)


def hash_values(graph: EdgeGraph, *tensors: Tensor) -> str:
    """Hash a graph and tensors on the CPU: 16 hexadecimal digits."""
    hashed = hashlib.sha256(repr(graph).encode())
    for tensor in tensors:
        hashed.update(f"{tensor.dtype};".encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]
