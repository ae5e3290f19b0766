"""Files of EAP-IG: read, written, and refused."""

import json
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.graphs import GROUPED, TINY, circuits, eap, graphs, on_one_line, random_circuit
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.eap_ig_files import ScoresOf
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import CircuitKitError, UsageError


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_eap_ig_files_are_read(ending: str) -> None:
    circuit = Circuit.from_eap_ig(reference.EAP_IG / f"eap_top20.{ending}")
    assert circuit.graph == TINY
    assert torch.equal(circuit.scores, eap().scores)  # helps: negative there, positive here
    assert circuit.to_dict()["m0->logits"] == pytest.approx(0.7542, abs=1e-4)
    assert set(circuit.names()) == set(reference.read("circuits.json")["20"]["edges"])
    assert set(circuit.score_sources.tolist()) == {ScoreSource.GIVEN}
    assert f"eap_top20.{ending}" in circuit.selection


def test_eap_ig_json_is_written_identically(tmp_path: Path) -> None:
    Circuit.from_eap_ig(reference.EAP_IG / "eap_top20.pt").to_eap_ig(tmp_path / "out.json", d_model=24)
    assert (tmp_path / "out.json").read_bytes() == (reference.EAP_IG / "eap_top20.json").read_bytes()
    eap().top(20).prune().to_eap_ig(tmp_path / "out.json", d_model=24)
    assert (tmp_path / "out.json").read_bytes() == (reference.EAP_IG / "eap_top20.json").read_bytes()


def test_eap_ig_pt_is_written_with_the_same_content(tmp_path: Path) -> None:
    Circuit.from_eap_ig(reference.EAP_IG / "eap_top20.json").to_eap_ig(tmp_path / "out.pt", d_model=24)
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = torch.load(reference.EAP_IG / "eap_top20.pt", weights_only=True)
    assert list(written) == list(expected)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert written[key].dtype == value.dtype
            assert torch.equal(written[key], value)
        else:
            assert written[key] == value


@pytest.mark.parametrize("ending", ["json", "pt"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_written_eap_ig_files_read_back(ending: str, data: st.DataObject) -> None:
    circuit = data.draw(circuits(graphs(largest=2).filter(lambda graph: graph.mlps)))
    circuit = replace(circuit, scores=circuit.scores.float())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"circuit.{ending}"
        circuit.to_eap_ig(path, d_model=8)
        back = Circuit.from_eap_ig(path, circuit.graph)
        again = Circuit.from_eap_ig(path)
    assert back.graph == circuit.graph
    assert torch.equal(back.kept, circuit.kept)
    assert torch.allclose(back.scores, circuit.scores)
    assert same_edges(again.graph, circuit.expand_kv().graph)
    assert torch.equal(again.scores, circuit.expand_kv().scores)


@pytest.mark.parametrize("parallel", [False, True])
def test_edges_are_written_in_the_order_of_eap_ig(parallel: bool, tmp_path: Path) -> None:
    graph = EdgeGraph(3, 4, 2, parallel=parallel)
    random_circuit(graph).to_eap_ig(tmp_path / "out.json", d_model=16)
    written = json.loads((tmp_path / "out.json").read_text())
    expected: list[str] = []
    stream = ["input"]
    for layer in range(3):
        heads, mlp = [f"a{layer}.h{head}" for head in range(4)], f"m{layer}"
        for writer in stream:
            expected += [f"{writer}->{head}<{letter}>" for head in heads for letter in "qkv"]
            expected += [f"{writer}->{mlp}"] * parallel
        stream += heads
        expected += [] if parallel else [f"{writer}->{mlp}" for writer in stream]
        stream.append(mlp)
    expected += [f"{writer}->logits" for writer in stream]
    assert list(written["edges"]) == expected
    assert list(written["nodes"]) == [*stream, "logits"]
    assert written["cfg"] == {"n_layers": 3, "n_heads": 4, "parallel_attn_mlp": parallel, "d_model": 16}


def test_a_node_is_in_the_graph_if_edges_lead_in_and_out(tmp_path: Path) -> None:
    names = ["input->a0.h0<k>", "a0.h0->m1", "m0->m1", "input->a1.h2<q>", "input->logits"]
    circuit = Circuit.from_names(TINY, names)
    circuit.to_eap_ig(tmp_path / "out.json", d_model=24)
    nodes = json.loads((tmp_path / "out.json").read_text())["nodes"]
    assert {name for name, node in nodes.items() if node["in_graph"]} == {"input", "a0.h0", "logits"}
    circuit.to_eap_ig(tmp_path / "out.pt", d_model=24)
    found = torch.load(tmp_path / "out.pt", weights_only=True)["nodes_in_graph"]
    assert found.tolist() == [name in ("input", "a0.h0") for name in TINY.writer_names]


def test_zeros_are_written_without_a_sign(tmp_path: Path) -> None:
    Circuit.from_scores(TINY, torch.zeros(75)).to_eap_ig(tmp_path / "out.json", d_model=24)
    assert "-0" not in (tmp_path / "out.json").read_text()
    assert not Circuit.from_eap_ig(tmp_path / "out.json").scores.signbit().any()


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_scores_of_a_loss_keep_their_sign(ending: str, tmp_path: Path) -> None:
    path, circuit = tmp_path / f"out.{ending}", random_circuit(GROUPED)
    circuit.to_eap_ig(path, d_model=24, scores_of="loss")
    assert torch.equal(Circuit.from_eap_ig(path, scores_of="loss").scores, circuit.expand_kv().scores)
    assert torch.equal(Circuit.from_eap_ig(path, scores_of="metric").scores, -circuit.expand_kv().scores)


def test_another_sign_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    for act in (
        lambda: eap().to_eap_ig(path, d_model=24, scores_of="gain"),
        lambda: Circuit.from_eap_ig(path, scores_of="gain"),
    ):
        with pytest.raises(UsageError, match="scores_of='gain'"):
            act()
    assert not path.exists()


@pytest.mark.parametrize("ending", ["json", "pt"])
@pytest.mark.parametrize("scores_of", ["metric", "loss"])
def test_a_file_without_scores_has_them_from_its_edges(ending: str, scores_of: ScoresOf, tmp_path: Path) -> None:
    if ending == "json":
        found = edited(lambda found: [edge.pop("score") for edge in found["edges"].values()])
        (tmp_path / "plain.json").write_text(json.dumps(found))
    else:
        found = torch.load(reference.EAP_IG / "eap_top20.pt", weights_only=True)
        del found["edges_scores"]
        torch.save(found, tmp_path / "plain.pt")
    circuit = Circuit.from_eap_ig(tmp_path / f"plain.{ending}", scores_of=scores_of)
    names = reference.read("circuits.json")["20"]["edges"]
    expected = Circuit.from_names(TINY, names)
    assert torch.equal(circuit.kept, expected.kept)
    assert torch.equal(circuit.scores, expected.scores)


def test_a_file_is_read_for_a_given_graph() -> None:
    graph = EdgeGraph(2, 3, 3, kv="head")
    assert Circuit.from_eap_ig(reference.EAP_IG / "eap_top20.json", graph).graph == graph
    grouped = Circuit.from_eap_ig(reference.EAP_IG / "eap_top20.json", EdgeGraph(2, 3, 1))
    scores = eap().to_dict()
    summed = sum(scores[f"input->a0.h{head}<k>"] for head in range(3))
    assert grouped.to_dict()["input->a0.kv0<k>"] == pytest.approx(summed)
    for other in (EdgeGraph(3, 3, 3), EdgeGraph(2, 3, 3, parallel=True), EdgeGraph(2, 3, 3, mlps=False), GROUPED):
        with pytest.raises(UsageError, match="same model"):
            Circuit.from_eap_ig(reference.EAP_IG / "eap_top20.pt", other)


def test_what_eap_ig_cannot_hold_is_refused(tmp_path: Path) -> None:
    endless = Circuit.from_scores(TINY, torch.full((75,), torch.inf))
    with pytest.raises(UsageError, match=r"ends in \.pt"):
        endless.to_eap_ig(tmp_path / "out.json", d_model=24)
    endless.to_eap_ig(tmp_path / "out.pt", d_model=24)  # what the message advises
    assert Circuit.from_eap_ig(tmp_path / "out.pt").scores.isposinf().all()
    with pytest.raises(UsageError, match="without MLPs"):
        random_circuit(EdgeGraph(2, 3, 3, mlps=False)).to_eap_ig(tmp_path / "none.pt", d_model=24)
    for act in (lambda path: eap().to_eap_ig(path, d_model=24), Circuit.from_eap_ig):
        with pytest.raises(UsageError, match=r"out\.txt"):
            act(tmp_path / "out.txt")
    assert {path.name for path in tmp_path.iterdir()} == {"out.pt"}


def assert_refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(CircuitKitError, match=match) as raised:
        Circuit.from_eap_ig(path)
    assert on_one_line(raised.value)


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    found = reference.read("eap_top20.json")
    edit(found)
    return found


@pytest.mark.parametrize(
    ("edit", "quoted"),
    [
        (lambda d: d.pop("cfg"), "no entry 'cfg'"),
        (lambda d: d.pop("nodes"), "no entry 'nodes'"),
        (lambda d: d.update(edges=[]), "malformed entry 'edges'"),
        (lambda d: d["edges"].pop("m0->m1"), "no edge 'm0->m1'"),
        (lambda d: d["edges"].update({"m1->m0": {"score": 0.0, "in_graph": False}}), "unknown edge 'm1->m0'"),
        (lambda d: d["edges"].update({"m0->m1": 0.5}), "0.5 for the edge 'm0->m1'"),
        (lambda d: d["edges"]["m0->m1"].pop("score"), "'in_graph': .* for the edge 'm0->m1'"),
        (lambda d: d["edges"]["m0->m1"].update(score=None), "None"),
        (lambda d: d["edges"]["m0->m1"].update(score=True), "True"),
        (lambda d: d["edges"]["m0->m1"].update(score=float("nan")), "'m0->m1' is NaN"),
        (lambda d: d["edges"]["m0->m1"].update(score=10**400), "too large"),
        (lambda d: d["edges"]["m0->m1"].update(in_graph="yes"), "'yes'"),
        (lambda d: d["cfg"].update(n_layers=3), "no edge"),
        (lambda d: d["cfg"].update(n_layers=10**9), "'n_layers' 1000000000"),
        (lambda d: d["cfg"].update(n_heads=0), "'n_heads' 0"),
        (lambda d: d["cfg"].update(n_heads=3.0), "'n_heads' 3.0"),
        (lambda d: d["cfg"].pop("parallel_attn_mlp"), "'parallel_attn_mlp' None"),
        (lambda d: d["nodes"]["m0"].update(neurons=[True, False]), "neurons"),
    ],
)
def test_malformed_eap_ig_json_is_refused(edit: Callable[[Any], object], quoted: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(edited(edit)))
    assert_refused(path, quoted)


def test_further_entries_of_an_eap_ig_file_are_ignored(tmp_path: Path) -> None:
    def add_entries(found: dict[str, Any]) -> None:
        found["cfg"]["model_name"] = "gpt2"
        found["nodes"]["m0"] |= {"score": 0.5, "neurons": [True] * 24}
        found["nodes"]["m1"] = False  # as early versions wrote nodes

    path = tmp_path / "more.json"
    path.write_text(json.dumps(edited(add_entries)))
    assert torch.equal(Circuit.from_eap_ig(path).scores, eap().scores)


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"cfg": None}, "no entry 'cfg'"),
        ({"cfg": [2, 3]}, "malformed entry 'cfg'"),
        ({"edges_scores": [[0.0]]}, "malformed entry 'edges_scores'"),
        ({"edges_scores": torch.zeros(9, 20)}, r"'edges_scores' \[9, 20\]"),
        ({"edges_scores": torch.zeros(9, 21).to_sparse()}, "edges_scores"),
        ({"edges_scores": torch.full((9, 21), torch.nan)}, "NaN"),
        ({"edges_in_graph": torch.zeros(189, dtype=torch.bool)}, r"'edges_in_graph' \[189\]"),
        ({"src_nodes": ["input"]}, "other nodes"),
        ({"dst_nodes": None}, "no entry 'dst_nodes'"),
        ({"edges_in_graph": None}, "no entry 'edges_in_graph'"),
        ({"neurons_in_graph": torch.zeros(9, 24)}, "neurons"),
    ],
)
def test_malformed_eap_ig_pt_is_refused(change: dict[str, Any], quoted: str, tmp_path: Path) -> None:
    found = torch.load(reference.EAP_IG / "eap_top20.pt", weights_only=True) | change
    torch.save({key: value for key, value in found.items() if value is not None}, tmp_path / "broken.pt")
    assert_refused(tmp_path / "broken.pt", quoted)


def test_pairs_that_are_no_edges_are_ignored(tmp_path: Path) -> None:
    found = torch.load(reference.EAP_IG / "eap_top20.pt", weights_only=True)
    found["edges_in_graph"][:, 0] = True  # as EAP-IG does when it keeps whole nodes; only `input` feeds this reader
    found["edges_scores"][8, 0] = torch.nan
    torch.save(found, tmp_path / "nodes.pt")
    assert Circuit.from_eap_ig(tmp_path / "nodes.pt") == replace(
        Circuit.from_eap_ig(reference.EAP_IG / "eap_top20.pt"), selection="as kept in nodes.pt"
    )


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def test_no_pickle_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    found = torch.load(reference.EAP_IG / "eap_top20.pt", weights_only=True) | {"extra": Trap(trace)}
    torch.save(found, tmp_path / "trap.pt")
    assert_refused(tmp_path / "trap.pt", "tensors alone")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(trace), protocol=2))
    assert_refused(tmp_path / "plain.pt", "tensors alone")
    assert not trace.exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert trace.exists()  # the trap works


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_truncated_eap_ig_files_are_refused(ending: str, tmp_path: Path) -> None:
    whole = (reference.EAP_IG / f"eap_top20.{ending}").read_bytes()
    path = tmp_path / f"broken.{ending}"
    assert_refused(path, "no file")
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        assert_refused(path, "broken")
    path.write_bytes(b"\x80\x02garbage")
    assert_refused(path, "damaged")
    path.write_bytes(b"")
    assert_refused(path, "damaged")


def test_a_single_tensor_is_no_circuit(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    assert_refused(tmp_path / "tensor.pt", "dictionary")
