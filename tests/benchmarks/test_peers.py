"""What `tools/peers.py` does without the other packages: names of edges, comparison, tables."""

from types import SimpleNamespace

import peer_run
import peers
import pytest

from circuitkit.circuit.graph import EdgeGraph


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("Resid Start->Resid End", "input->logits"),
        ("A0.1->A10.11.Q", "a0.h1->a10.h11<q>"),
        ("MLP 3->A4.0.V", "m3->a4.h0<v>"),
        ("A2.3->MLP 2", "a2.h3->m2"),
    ],
)
def test_edges_of_auto_circuit(theirs, ours):
    assert peer_run._name_of_edge(theirs) == ours


def test_nodes_of_transformer_lens_are_those_of_a_graph():
    node, graph = SimpleNamespace, EdgeGraph(2, 2, 2)
    layers, heads = range(2), [(layer, head) for layer in range(2) for head in range(2)]
    mlps = [node(kind=kind, layer=layer, head=None) for layer in layers for kind in ("mlp_out", "mlp_in")]
    outputs = [node(kind="attn_head_out", layer=layer, head=head) for layer, head in heads]
    inputs = [node(kind=f"{letter}_input", layer=layer, head=head) for layer, head in heads for letter in "qkv"]
    ends = [node(kind="embed", layer=None, head=None), node(kind="logits", layer=1, head=None)]
    found = {peer_run._name_of_node(which) for which in [*mlps, *outputs, *inputs, *ends]}
    assert found == {*graph.writer_names, *graph.reader_names}


def test_our_own_scores(tmp_path):
    peers.write_inputs(tmp_path, "tiny")
    measured = peer_run.measure(peer_run.prepare_circuitkit(tmp_path, "eap"), 1)
    config = peers.MODELS["tiny"]
    graph = EdgeGraph(config.n_layer, config.n_head, config.n_head)
    assert list(measured["scores"]) == graph.names
    assert len(measured["seconds"]) == 1
    assert measured["peak_mb"] > 0


def test_a_comparison():
    ours = {"a": 1.0, "b": -2.0, "c": 0.5}
    assert peers.compare(ours, dict(reversed(ours.items()))) == {"edges": 3, "difference": 0.0, "correlation": 1.0}
    found = peers.compare(ours, ours | {"c": 0.4})
    assert found["difference"] == pytest.approx(0.05)
    assert 0.99 < found["correlation"] < 1
    with pytest.raises(SystemExit, match="different edges, 2 of them, such as c"):
        peers.compare(ours, {"a": 1.0, "b": -2.0, "d": 0.5})


def test_a_table():
    row = {"title": "one", "seconds": 1.234, "peak_mb": 56.7}
    text = peers.make_table([row, row | {"difference": 2e-7, "correlation": 1.0}])
    assert text.splitlines()[2:] == ["| one | 1.23 | 57 |  |  |", "| one | 1.23 | 57 | 2e-07 | 1.000000 |"]
