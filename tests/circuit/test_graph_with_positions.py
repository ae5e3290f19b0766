"""Position embeddings as a writer of their own: names, paths, files and views of such a graph."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.errors import UsageError

WITHOUT = EdgeGraph(2, 3, 3)
GRAPH = replace(WITHOUT, positions="writer")


@pytest.mark.parametrize("without", [WITHOUT, EdgeGraph(2, 4, 2, parallel=True), EdgeGraph(1, 2, 2, mlps=False)])
def test_every_reader_also_reads_the_positions(without: EdgeGraph) -> None:
    graph = replace(without, positions="writer")
    assert len(graph) == len(without) + without.n_readers
    assert graph.reader_names == without.reader_names
    assert graph.writer_names == ["input", "positions", *without.writer_names[1:]]
    added = {f"positions->{reader}" for reader in graph.reader_names}
    assert set(graph.names) == set(without.names) | added
    assert [graph.parse(name) for name in graph.names] == list(range(len(graph)))
    assert [graph.parse_writer(name) for name in graph.writer_names] == list(range(graph.n_writers))


@pytest.mark.parametrize("graph", [WITHOUT, GRAPH])
def test_the_place_of_a_writer(graph: EdgeGraph) -> None:
    for writer, name in enumerate(graph.writer_names):
        layer, place = graph.place_of(writer)
        if name in ("input", "positions"):
            assert layer == -1
        else:
            assert name == (f"m{layer}" if place == graph.heads else f"a{layer}.h{place}")
    for reader in range(graph.n_readers):
        for writer in graph.writers_fed_by(reader):
            assert graph.reader(reader).layer == graph.place_of(writer)[0]


def test_graphs_with_and_without_are_told_apart() -> None:
    assert not same_edges(GRAPH, WITHOUT)
    assert repr(WITHOUT) == "EdgeGraph(layers=2, heads=3, kv_heads=3, parallel=False, mlps=True, kv='group')"
    assert "positions='writer'" in repr(GRAPH)
    with pytest.raises(UsageError, match="no writer 'positions'"):
        WITHOUT.parse("positions->m0")
    with pytest.raises(UsageError, match=r"positions='both'.*"):
        replace(GRAPH, positions="both")


def test_a_path_may_begin_at_the_positions() -> None:
    names = ["positions->a0.h1<k>", "a0.h1->m1", "m1->logits", "a1.h0->logits", "input->m0"]
    circuit = Circuit.from_names(GRAPH, names)
    assert set(circuit.prune()) == {"positions->a0.h1<k>", "a0.h1->m1", "m1->logits"}


def test_files(tmp_path: Path) -> None:
    circuit = Circuit.from_names(GRAPH, ["positions->m0", "m0->logits"])
    circuit.save(tmp_path)
    assert Circuit.load(tmp_path) == circuit
    Circuit.from_names(WITHOUT, ["m0->logits"]).save(tmp_path, "without")
    assert "positions" not in json.loads((tmp_path / "without.json").read_text())["graph"]  # earlier versions read it
    with pytest.raises(UsageError, match="EAP-IG does not support position embeddings"):
        circuit.to_eap_ig(tmp_path / "circuit.pt", d_model=8)


def test_views(tmp_path: Path) -> None:
    circuit = Circuit.from_names(GRAPH, ["positions->a0.h1<q>", "positions->logits", "a0.h1->logits", "m1->logits"])
    network = circuit.to_networkx()
    assert network.nodes["positions"] == {"kind": "positions", "layer": 0}
    assert network.nodes["a0.h1"] == {"kind": "head", "layer": 0}
    assert network.nodes["m1"] == {"kind": "mlp", "layer": 1}
    table = circuit.to_pandas().set_index("edge")
    assert table.loc["positions->m1", ["writer", "layer_from", "layer_to"]].tolist() == ["positions", -1, 1]
    assert table.loc["m0->m1", "layer_from"] == 0
    for ending in ("svg", "html", "dot"):
        circuit.draw(tmp_path / f"circuit.{ending}")
        assert "positions" in (tmp_path / f"circuit.{ending}").read_text()
