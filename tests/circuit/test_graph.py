"""Index arithmetic against names and paths worked out one at a time."""

from dataclasses import replace

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.graphs import coupled_with, graphs, graphs_with_kept, paths, writers_fed

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError


def expected_names(graph: EdgeGraph) -> set[str]:
    """List every edge, in the order of a forward pass."""
    names, stream = set(), ["input"]
    per_group = graph.heads // graph.kv_heads
    for layer in range(graph.layers):
        heads = [f"a{layer}.h{head}" for head in range(graph.heads)]
        readers = [f"{head}<q>" for head in heads]
        if graph.kv == "group" and per_group > 1:
            readers += [f"a{layer}.kv{group}<{kind}>" for group in range(graph.kv_heads) for kind in "kv"]
        else:
            readers += [f"{head}<{kind}>" for head in heads for kind in "kv"]
        names |= {f"{writer}->{reader}" for writer in stream for reader in readers}
        mlp = [f"m{layer}"] if graph.mlps else []
        names |= {f"{writer}->{reader}" for writer in stream + ([] if graph.parallel else heads) for reader in mlp}
        stream += heads + mlp
    return names | {f"{writer}->logits" for writer in stream}


@settings(deadline=None)
@given(graphs())
def test_names_are_the_edges_of_the_forward_pass(graph: EdgeGraph) -> None:
    assert len(graph.names) == len(graph) == len(set(graph.names))
    assert set(graph.names) == expected_names(graph)


@settings(deadline=None)
@given(graphs())
def test_names_parse_back_to_their_index(graph: EdgeGraph) -> None:
    assert [graph.parse(name) for name in graph.names] == list(range(len(graph)))
    assert [graph.parse_writer(name) for name in graph.writer_names] == list(range(graph.n_writers))
    assert [graph.parse_reader(name) for name in graph.reader_names] == list(range(graph.n_readers))


@pytest.mark.parametrize(
    ("graph", "edges"),
    [
        (EdgeGraph(12, 12, 12), 32_491),  # GPT-2 small
        (EdgeGraph(30, 9, 3), 70_651),  # SmolLM2-135M
        (EdgeGraph(2, 3, 3), 75),
        (EdgeGraph(1, 1, 1, mlps=False), 3 + 2),
        (EdgeGraph(1, 4, 2), 4 + 2 * 2 + 5 + 6),
        (EdgeGraph(1, 4, 2, kv="head"), 3 * 4 + 5 + 6),
        (EdgeGraph(1, 4, 2, parallel=True), 4 + 2 * 2 + 1 + 6),
    ],
)
def test_sizes(graph: EdgeGraph, edges: int) -> None:
    assert len(graph) == edges


def test_nodes_are_in_the_order_of_eap_ig() -> None:
    expected = reference.read("extras.json")
    graph = EdgeGraph(2, 3, 3)
    assert graph.writer_names == expected["src_nodes"]
    assert graph.reader_names == expected["dst_nodes"]


@settings(deadline=None)
@given(graphs())
def test_a_reader_feeds_the_writers_of_its_head_or_group(graph: EdgeGraph) -> None:
    alone = replace(graph, coupled=False)
    for reader, name in enumerate(graph.reader_names):
        assert {graph.writer_names[owner] for owner in graph.writers_fed_by(reader)} == writers_fed(alone, name)
        assert {graph.writer_names[owner] for owner in graph.writers_changed_by(reader)} == writers_fed(graph, name)


@settings(deadline=None)
@given(graphs())
def test_reader_and_reader_index_are_inverse(graph: EdgeGraph) -> None:
    for reader in range(graph.n_readers):
        assert graph.reader_index(*graph.reader(reader)) == reader
    assert graph.writer_names[graph.heads_of(graph.layers - 1)][-1] == f"a{graph.layers - 1}.h{graph.heads - 1}"
    if graph.mlps:
        assert graph.writer_names[graph.mlp(0)] == "m0"


@settings(deadline=None)
@given(graphs())
def test_blocks_partition_edges_and_readers_and_agree_with_index(graph: EdgeGraph) -> None:
    numbers = torch.arange(len(graph))
    edges, readers = 0, 0
    for block in graph.blocks:
        assert block.edges.start == edges
        assert block.readers.start == readers
        matrix = graph.matrix(numbers, block)
        for row, reader in enumerate(block.readers):
            assert graph.block(reader) == block
            assert graph.prefix(reader) == block.writers
            assert matrix[row].tolist() == [graph.index(writer, reader) for writer in range(block.writers)]
            assert matrix[row].tolist() == numbers[graph.edges(reader)].tolist()
            with pytest.raises(IndexError):
                graph.index(block.writers, reader)
        edges, readers = block.edges.stop, block.readers.stop
    assert (edges, readers) == (len(graph), graph.n_readers)
    assert [block.kind for block in map(graph.attention, range(graph.layers))] == ["attention"] * graph.layers
    if graph.mlps:
        assert [graph.mlp_block(layer).layer for layer in range(graph.layers)] == list(range(graph.layers))


@settings(deadline=None)
@given(graphs())
def test_writer_of_and_reader_of_match_the_names(graph: EdgeGraph) -> None:
    for name, writer, reader in zip(graph.names, graph.writer_of, graph.reader_of, strict=True):
        assert name == f"{graph.writer_names[writer]}->{graph.reader_names[reader]}"


def test_a_block_is_a_view() -> None:
    graph = EdgeGraph(2, 4, 2)
    values = torch.zeros(2, len(graph))
    block = graph.attention(1)
    graph.matrix(values, block)[1] = 1
    assert graph.matrix(values, block).shape == (2, 8, graph.prefix(block.readers.start))
    assert values[0].sum() == 0
    assert values[1, block.edges].all()


@settings(deadline=None)
@given(graphs_with_kept())
def test_live_writers_are_those_with_a_path_to_the_logits(case: tuple[EdgeGraph, torch.Tensor]) -> None:
    graph, kept = case
    before = nx.ancestors(paths(graph, kept), ("reader", "logits")) | {("reader", "logits")}
    live = graph.live_writers(kept)
    assert live.tolist() == [
        any(("writer", other) in before for other in coupled_with(graph, name)) for name in graph.writer_names
    ]
    assert graph.live_readers(live).tolist() == [("reader", name) in before for name in graph.reader_names]


@settings(deadline=None)
@given(graphs_with_kept())
def test_reached_writers_are_those_with_a_path_from_the_input(case: tuple[EdgeGraph, torch.Tensor]) -> None:
    graph, kept = case
    after = nx.descendants(paths(graph, kept), ("writer", "input")) | {("writer", "input")}
    assert graph.reached_writers(kept).tolist() == [("writer", name) in after for name in graph.writer_names]


@pytest.mark.parametrize(
    "name",
    [
        "", "->", "a0.h0", "input->", "->logits", "input->logits->logits", "input -> logits", "Input->logits",
        "logits->logits", "input->input", "input->a0.h0", "input->a0.h0<o>", "input->a0.h0<q>\n", "input->a0.h00<q>",
        "input->a0.kv0<q>", "input->a0.h0<k>", "input->a0.kv2<k>", "input->a0.h4<q>", "input->a2.h0<q>", "input->m2",
        "m0->m0", "m1->m0", "a1.h0->m0", "a0.h0->a0.h1<q>", "a0.kv0->m0", "a0.h-1->m1", "m+0->m1", "m 0->m1", "m0.->m1",
        "m" + "9" * 5000 + "->logits", "input->a0.h0<qk>",
    ],
)  # fmt: skip
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as raised:
        EdgeGraph(2, 4, 2).parse(name)
    assert len(str(raised.value).splitlines()) == 1


def test_digits_of_other_scripts_are_refused() -> None:
    for name in ("m1\u0661->logits", "a0.h1\uff11->logits", "input->a1\u0661.h0<q>"):
        with pytest.raises(UsageError):
            EdgeGraph(12, 12, 12).parse(name)


@settings(deadline=None)
@given(graphs(), st.text("am.hkv<>-qlogitsnpu0123456789", max_size=20), st.data())
def test_no_other_text_is_the_name_of_an_edge(graph: EdgeGraph, text: str, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(graph.names))
    at = data.draw(st.integers(0, len(name)))
    for candidate in (text, name[:at] + text[:1] + name[at:], name[:at] + name[at + 1 :]):
        try:
            assert graph.names[graph.parse(candidate)] == candidate
        except UsageError:
            assert candidate not in graph.names


@pytest.mark.parametrize(
    ("dimensions", "quoted"),
    [((0, 1, 1), "0 layers"), ((1, 0, 1), "0 heads"), ((2, 4, 3), "3 key-value"), ((2, 4, 8), "8"), ((-1, 4, 4), "-1")],
)
def test_impossible_graphs_are_refused(dimensions: tuple[int, int, int], quoted: str) -> None:
    with pytest.raises(UsageError, match=quoted):
        EdgeGraph(*dimensions)


def test_an_unknown_kv_is_refused() -> None:
    with pytest.raises(UsageError, match="'heads'"):
        EdgeGraph(2, 4, 2, kv="heads")  # type: ignore[arg-type]
