"""Graphs and circuits for tests: small fixed ones, random ones, and a networkx version built from the names alone."""

import re

import networkx as nx
import torch
from hypothesis import strategies as st
from support import reference

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource

TINY = EdgeGraph(2, 3, 3)
"""The graph of the reference model: 75 edges."""
GROUPED = EdgeGraph(2, 4, 2)


def eap() -> Circuit:
    """EAP's scores of the reference model, with this package's sign."""
    scores = reference.read("scores.json")["EAP"]
    return Circuit.from_scores(TINY, -torch.tensor([scores[name] for name in TINY.names]), ScoreSource.ESTIMATED)


def random_circuit(graph: EdgeGraph, seed: int = 0, density: float = 0.5) -> Circuit:
    """A circuit with normally distributed scores, and random members and score sources."""
    random = torch.Generator().manual_seed(seed)
    return Circuit(
        graph,
        torch.randn(len(graph), generator=random),
        torch.rand(len(graph), generator=random) < density,
        torch.randint(len(ScoreSource), (len(graph),), generator=random, dtype=torch.int8),
        "at random",
    )


@st.composite
def graphs(draw: st.DrawFn, largest: int = 3) -> EdgeGraph:
    """Draw graphs with up to `largest` layers."""
    kv_heads = draw(st.integers(1, 3))
    return EdgeGraph(
        draw(st.integers(1, largest)),
        kv_heads * draw(st.integers(1, 3)),
        kv_heads,
        parallel=draw(st.booleans()),
        mlps=draw(st.booleans()),
        kv=draw(st.sampled_from(["group", "head"])),
        coupled=draw(st.booleans()),
    )


@st.composite
def graphs_with_kept(draw: st.DrawFn) -> tuple[EdgeGraph, torch.Tensor]:
    """Draw graphs, each with random kept edges."""
    graph = draw(graphs())
    density = draw(st.sampled_from([0.05, 0.1, 0.3, 0.7]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return graph, torch.rand(len(graph), generator=random) < density


@st.composite
def circuits(draw: st.DrawFn, graph: st.SearchStrategy[EdgeGraph] | None = None, spread: int = 3) -> Circuit:
    """Draw circuits with few different scores, so that most cuts fall inside a tie."""
    built = draw(graphs(largest=2) if graph is None else graph)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]))
    return Circuit(
        built,
        torch.randint(-spread, spread + 1, (len(built),), generator=random).double(),
        torch.rand(len(built), generator=random) < density,
        torch.randint(len(ScoreSource), (len(built),), generator=random, dtype=torch.int8),
        draw(st.sampled_from(["given", "found", "größer → «x»\n"])),
        draw(st.booleans()),
    )


def members(circuit: Circuit) -> set[int]:
    """List the numbers of the kept edges."""
    return set(circuit.kept.nonzero()[:, 0].tolist())


def writers_fed(graph: EdgeGraph, reader: str) -> set[str]:
    """List the writers that a reader feeds, from its name, and those coupled with these."""
    if graph.coupled and (match := re.fullmatch(r"(a\d+)\..*", reader)):
        return {f"{match[1]}.h{head}" for head in range(graph.heads)}
    if match := re.fullmatch(r"(a\d+)\.kv(\d+)<[kv]>", reader):
        share = graph.heads // graph.kv_heads
        return {f"{match[1]}.h{int(match[2]) * share + offset}" for offset in range(share)}
    return set() if reader == "logits" else {reader.split("<")[0]}


def coupled_with(graph: EdgeGraph, writer: str) -> set[str]:
    """List a writer and those whose outputs change with its output."""
    return writers_fed(graph, f"{writer}<q>") if graph.coupled and "." in writer else {writer}


def paths(graph: EdgeGraph, kept: torch.Tensor) -> nx.DiGraph:
    """Join writers to readers by the kept edges, and every reader to the writers that it changes."""
    result = nx.DiGraph()
    result.add_nodes_from(("writer", name) for name in graph.writer_names)
    for name in graph.reader_names:
        result.add_edges_from((("reader", name), ("writer", writer)) for writer in writers_fed(graph, name))
    for edge in kept.nonzero()[:, 0].tolist():
        writer, reader = graph.names[edge].split("->")
        result.add_edge(("writer", writer), ("reader", reader))
    result.add_node(("reader", "logits"))
    return result


def on_one_line(error: BaseException) -> bool:
    """Tell whether an error's message is a single line."""
    return len(str(error).splitlines()) == 1
