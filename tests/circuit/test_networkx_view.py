"""Circuits as networkx graphs."""

import networkx as nx
from hypothesis import given, settings
from support.graphs import GROUPED, circuits

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource


@settings(deadline=None)
@given(circuits())
def test_networkx_has_the_circuits_edges_and_paths(circuit: Circuit) -> None:
    result = circuit.to_networkx()
    scored = {f"{a}->{b}": data for a, b, data in result.edges(data=True) if "score" in data}
    assert set(scored) == set(circuit.names())
    for name, data in scored.items():
        edge = circuit.graph.parse(name)
        assert data["score"] == circuit.scores[edge]
        assert data["score_source"] == ScoreSource(int(circuit.score_sources[edge])).name.lower()
    assert nx.is_directed_acyclic_graph(result)
    pruned = circuit.prune()
    whole = "input" in result and "logits" in result and nx.has_path(result, "input", "logits")
    assert whole == (len(pruned) > 0)


def test_networkx_nodes_have_their_kind_and_layer() -> None:
    nodes = Circuit.from_names(GROUPED, ["input->a1.kv1<k>", "a1.h3->m1", "m1->logits"]).to_networkx().nodes
    assert {name: (node["kind"], node["layer"]) for name, node in nodes.items()} == {
        "input": ("input", 0),
        "a1.kv1<k>": ("k", 1),
        "a1.h2": ("head", 1),
        "a1.h3": ("head", 1),
        "m1": ("mlp", 1),
        "logits": ("logits", 2),
    }
