"""The order in which a search visits readers, and the writers of each."""

from collections.abc import Iterator
from typing import Literal

import torch

from circuitkit.circuit.graph import EdgeGraph

Order = Literal["reverse", "normal", "shuffle"]


def head_orders(graph: EdgeGraph, order: Order, generator: torch.Generator | None) -> Iterator[list[int]]:
    """Yield the heads of each layer in the order of their visits; the generator is for `"shuffle"`."""
    for _ in range(graph.layers):
        if order == "shuffle":
            yield torch.randperm(graph.heads, generator=generator, dtype=torch.int64).tolist()
        else:
            yield list(range(graph.heads) if order == "normal" else reversed(range(graph.heads)))


def visits(graph: EdgeGraph, heads: list[list[int]], try_whole_reader: bool) -> Iterator[tuple[int, bool]]:
    """Yield each visit of the search: a reader, and whether this visit tries to remove all its edges together.

    Args:
        graph: of the readers.
        heads: the heads of every layer, in the order of their visits.
        try_whole_reader: before the visits that decide single edges, visit each attention reader of a layer as a whole.
    """
    yield graph.logits, False
    share = graph.heads // graph.kv_readers
    for layer in reversed(range(graph.layers)):
        if graph.mlps:
            yield graph.reader_index("mlp", layer), False
        groups = list(dict.fromkeys(head // share for head in heads[layer]))
        attention = [
            *(graph.reader_index("v", layer, group) for group in groups),
            *(graph.reader_index("k", layer, group) for group in groups),
            *(graph.reader_index("q", layer, head) for head in heads[layer]),
        ]
        if try_whole_reader:
            yield from ((reader, True) for reader in attention)
        yield from ((reader, False) for reader in attention)


def writers_in_order(graph: EdgeGraph, reader: int, heads: list[list[int]]) -> list[int]:
    """List the writers before a reader from the last layer to `input`; in a layer the MLP, then the heads."""
    prefix = graph.prefix(reader)
    writers: list[int] = []
    for layer in reversed(range(graph.layers)):
        if graph.mlps:
            writers.append(graph.mlp(layer))
        writers += [graph.head(layer, head) for head in heads[layer]]
    return [writer for writer in writers if writer < prefix] + list(reversed(range(graph.inputs)))
