"""Checks of a search's saved state: what it says was done must be what the search would have done."""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.storage.state import SavedState

Visit = tuple[int, bool]
"""A reader, and whether the visit tries to remove all its edges together."""


def read_heads(saved: SavedState, graph: EdgeGraph, order: Sequence[Sequence[int]] | None) -> list[list[int]]:
    """Return the heads of each layer in the order of their visits; `order` is that order, or None if it is random."""
    heads = saved.items("heads")
    every = list(range(graph.heads))
    fits = len(heads) == graph.layers and all(
        isinstance(layer, list) and all(type(head) is int for head in layer) and sorted(layer) == every
        for layer in heads
    )
    saved.expect("heads", fits and order in (None, heads), "the order of the heads in this search")
    return heads


def read_edges(saved: SavedState, graph: EdgeGraph) -> dict[str, Tensor]:
    """Return what the search knows of each edge."""
    size = [len(graph)]
    found = {name: saved.tensor(name, torch.bool, size) for name in ("decided", "kept", "layer_start")}
    sources = saved.tensor("score_sources", torch.int8, size)
    known = torch.tensor(list(ScoreSource), dtype=torch.int8)
    saved.expect("score_sources", bool(torch.isin(sources, known).all()), "known sources")
    scores = saved.tensor("scores", torch.float64, size)
    saved.expect("scores", not bool(scores.isnan().any()), "numbers")
    return found | {"scores": scores, "score_sources": sources}


def check_decided(
    saved: SavedState, edges: dict[str, Tensor], graph: EdgeGraph, start: Tensor, done: list[Visit]
) -> None:
    """Check that exactly the edges that these visits decide are decided.

    Args:
        saved: the state.
        edges: as `read_edges` returns them.
        graph: of the edges.
        start: the circuit at the start of the search, bool `[edges]`.
        done: the visits so far.
    """
    decided, kept = edges["decided"], edges["kept"]
    finished = {reader for reader, whole in done if not whole}
    tried = {reader for reader, _ in done}
    for reader in range(graph.n_readers):
        part = graph.edges(reader)
        everything = bool(decided[part].all())
        nothing = torch.equal(decided[part], ~start[part])
        fits = everything if reader in finished else nothing or (everything and reader in tried)
        saved.expect("decided", fits, f"the edges of the {len(finished)} readers visited")
    saved.expect("kept", not bool((kept & ~start).any()) and bool((kept | decided).all()), "kept of the edges decided")
    tested = int((edges["score_sources"] == ScoreSource.TESTED).sum())
    saved.count("tests", least=tested, most=tested)


def read_removals(saved: SavedState, graph: EdgeGraph, readers: set[int]) -> list[tuple[int, Tensor]]:
    """Return the removals within a layer, each from one of its visited readers, bool `[U]`."""
    found = []
    for item in saved.items("removals"):
        saved.expect("removals", isinstance(item, list) and len(item) == 2, "pairs of a reader and its removed edges")
        one = SavedState({"reader": item[0], "removed": item[1]}, "a removal", ("reader", "removed"))
        reader = one.count("reader")
        one.expect("reader", reader in readers, "a reader visited in this layer")
        found.append((reader, one.tensor("removed", torch.bool, [graph.prefix(reader)])))
    return found
