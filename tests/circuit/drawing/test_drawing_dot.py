"""DOT text, read back by pydot."""

import pydot
import pytest
import torch
from support.graphs import GROUPED, TINY, eap, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.drawing.dot import render_dot
from circuitkit.circuit.score_source import ScoreSource

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot")


def plain(text: str | None) -> str:
    return (text or "").strip('"')


@pytest.mark.parametrize("circuit", [random_circuit(GROUPED), eap().top(20), eap().top(0)], ids=["gqa", "eap", "none"])
def test_dot_has_the_edges_of_the_networkx_graph(circuit: Circuit) -> None:
    [read] = pydot.graph_from_dot_data(render_dot(circuit))
    found = {}
    for edge in read.get_edges():
        if edge.get("score") is not None:
            kind = edge.get("kind")
            found[plain(edge.get_source()), plain(edge.get_destination()), kind] = float(plain(edge.get("score")))
    wanted = {}
    for name, score in circuit.to_dict().items():
        writer, reader = name.split("->")
        kind = circuit.graph.reader(circuit.graph.parse_reader(reader)).kind
        wanted[writer, reader.removesuffix("<q>"), kind] = score
    assert found == wanted


def test_a_key_of_a_group_leads_to_each_of_its_heads() -> None:
    circuit = Circuit.from_names(GROUPED, ["input->a1.kv1<k>"])
    [read] = pydot.graph_from_dot_data(render_dot(circuit))
    ends = {(plain(edge.get_source()), plain(edge.get_destination())) for edge in read.get_edges()}
    assert ends == {("input", "a1.kv1<k>"), ("a1.kv1<k>", "a1.h2"), ("a1.kv1<k>", "a1.h3")}


def test_nodes_have_positions_and_edges_their_score_source() -> None:
    circuit = Circuit.from_scores(TINY, torch.ones(75, dtype=torch.float64), ScoreSource.TESTED).top(30)
    [read] = pydot.graph_from_dot_data(render_dot(circuit))
    assert read.get_nodes()
    for node in read.get_nodes():
        x, y = plain(node.get("pos")).removesuffix("!").split(",")
        assert float(x) >= -40
        assert float(y) >= 0
    assert {edge.get("score_source") for edge in read.get_edges() if edge.get("score")} == {"tested"}
