"""A circuit as a networkx graph."""

import networkx as nx
import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource


def to_networkx(graph: EdgeGraph, kept: Tensor, scores: Tensor, score_sources: Tensor) -> "nx.DiGraph[str]":
    """Convert the kept edges, bool `[edges]`, as `Circuit.to_networkx` describes."""
    result: nx.DiGraph[str] = nx.DiGraph()
    for edge in torch.nonzero(kept)[:, 0].tolist():
        writer, reader = int(graph.writer_of[edge]), int(graph.reader_of[edge])
        result.add_edge(
            _add_writer(result, graph, writer),
            _add_reader(result, graph, reader),
            score=float(scores[edge]),
            score_source=ScoreSource(int(score_sources[edge])).name.lower(),
        )
    return result


def _add_writer(to: "nx.DiGraph[str]", graph: EdgeGraph, writer: int) -> str:
    name = graph.writer_names[writer]
    layer, place = graph.place_of(writer)
    kind = name if layer < 0 else "head" if place < graph.heads else "mlp"
    to.add_node(name, kind=kind, layer=max(layer, 0))
    return name


def _add_reader(to: "nx.DiGraph[str]", graph: EdgeGraph, reader: int) -> str:
    name = graph.reader_names[reader]
    kind, layer, _ = graph.reader(reader)
    to.add_node(name, kind=kind, layer=layer)
    if kind in ("q", "k", "v"):
        to.add_edges_from((name, _add_writer(to, graph, writer)) for writer in graph.writers_changed_by(reader))
    return name
