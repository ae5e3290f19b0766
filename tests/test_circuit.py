"""Circuits: selections against plain readings of their definitions and EAP-IG's own, files whole and broken."""

import json
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import graphs, paths
from torch import Tensor

from circuitkit import circuit_files
from circuitkit.circuit import Circuit, Origin
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.graph import EdgeGraph, same_edges

DATA = Path(__file__).parent / "data" / "eap_ig_gpt2"
TINY = EdgeGraph(2, 3, 3)
GROUPED = EdgeGraph(2, 4, 2)


def reference(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def eap() -> Circuit:
    """EAP's scores of the reference model, in this package's sign."""
    scores = reference("scores.json")["EAP"]
    return Circuit.from_scores(TINY, -torch.tensor([scores[name] for name in TINY.names]), origin=Origin.ESTIMATED)


def random_circuit(graph: EdgeGraph, seed: int = 0, density: float = 0.5) -> Circuit:
    """Float scores that differ, members and origins at random."""
    random = torch.Generator().manual_seed(seed)
    return Circuit(
        graph,
        torch.randn(len(graph), generator=random),
        torch.rand(len(graph), generator=random) < density,
        torch.randint(len(Origin), (len(graph),), generator=random, dtype=torch.int8),
        "at random",
    )


@st.composite
def circuits(draw: st.DrawFn, graph: st.SearchStrategy[EdgeGraph] | None = None, spread: int = 3) -> Circuit:
    """Circuits with few different scores, so that most cuts fall inside a tie."""
    built = draw(graphs(largest=2) if graph is None else graph)
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]))
    return Circuit(
        built,
        torch.randint(-spread, spread + 1, (len(built),), generator=random).double(),
        torch.rand(len(built), generator=random) < density,
        torch.randint(len(Origin), (len(built),), generator=random, dtype=torch.int8),
        draw(st.sampled_from(["all edges", "found", "größer → «x»\n"])),
        draw(st.booleans()),
    )


def members(circuit: Circuit) -> set[int]:
    return set(circuit.kept.nonzero()[:, 0].tolist())


def one_line(error: BaseException) -> bool:
    return len(str(error).splitlines()) == 1


# Construction


def test_from_scores_keeps_every_edge() -> None:
    circuit = Circuit.from_scores(TINY, torch.arange(75.0), origin=Origin.TESTED)
    assert len(circuit) == 75
    assert circuit.fraction == 1
    assert circuit.selection == "all edges"
    assert set(circuit.origin.tolist()) == {Origin.TESTED}
    assert circuit.names() == TINY.names
    assert circuit.to_dict()["m1->logits"] == 74
    assert repr(circuit) == "Circuit(75 of 75 edges: all edges)"


def test_from_names_keeps_those() -> None:
    names = ["m1->logits", "input->a0.h2<k>"]
    circuit = Circuit.from_names(TINY, names)
    assert sorted(circuit.names()) == sorted(names)
    assert {name for name, score in circuit.to_dict().items() if score} == set(names)
    with pytest.raises(UsageError, match="'m7'"):
        Circuit.from_names(TINY, ["m7->logits"])


def test_an_empty_circuit_is_still_a_circuit() -> None:
    assert Circuit.from_names(TINY, [])
    assert len(Circuit.from_names(TINY, [])) == 0


def test_a_circuit_does_not_change() -> None:
    scores, kept = torch.zeros(75, requires_grad=True), torch.ones(75, dtype=torch.bool)
    circuit = Circuit(TINY, scores, kept, torch.zeros(75, dtype=torch.int8))
    with torch.no_grad():
        scores += 1
    kept[:] = False
    assert circuit.scores.sum() == 0
    assert not circuit.scores.requires_grad
    assert len(circuit) == 75
    with pytest.raises(FrozenInstanceError):
        circuit.kept = kept  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"scores": torch.zeros(74)}, r"scores is torch\.float32 \[74\]"),
        ({"scores": torch.zeros(75, dtype=torch.long)}, "scores is torch.int64"),
        ({"scores": [0.0] * 75}, r"scores is \[0\.0"),
        ({"kept": torch.ones(75)}, "kept is torch.float32"),
        ({"kept": torch.ones(1, 75, dtype=torch.bool)}, r"kept is torch\.bool \[1, 75\]"),
        ({"origin": torch.zeros(75, dtype=torch.long)}, "origin is torch.int64"),
        ({"origin": torch.full((75,), 5, dtype=torch.int8)}, "origin 5"),
        ({"origin": torch.full((75,), -1, dtype=torch.int8)}, "origin -1"),
        ({"scores": torch.tensor([0.0] * 73 + [torch.nan] * 2)}, r"'a1.h2->logits' is NaN \(2 of 75 are\)"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused(change: dict[str, Any], quoted: str) -> None:
    with pytest.raises(UsageError, match=quoted) as raised:
        replace(Circuit.from_scores(TINY, torch.zeros(75)), **change)
    assert one_line(raised.value)


# Selections


def keys(circuit: Circuit, absolute: bool) -> list[tuple[bool, float]]:
    """What the ranking goes by: the smaller, the better."""
    scores = circuit.scores.tolist()
    return [(not kept, -abs(s) if absolute else -s) for kept, s in zip(circuit.kept.tolist(), scores, strict=True)]


@settings(deadline=None)
@given(circuits(), st.booleans())
def test_ranking_puts_kept_edges_first_then_scores_then_numbers(circuit: Circuit, absolute: bool) -> None:
    by = keys(circuit, absolute)
    assert circuit.ranking(absolute).tolist() == sorted(range(len(by)), key=lambda edge: (by[edge], edge))


@settings(deadline=None)
@given(circuits(), st.booleans(), st.data())
def test_top_is_the_head_of_the_ranking_and_says_when_it_cuts_a_tie(
    circuit: Circuit, absolute: bool, data: st.DataObject
) -> None:
    n = data.draw(st.integers(0, len(circuit.graph)))
    top, by = circuit.top(n, absolute), keys(circuit, absolute)
    inside = members(top)
    assert inside == set(circuit.ranking(absolute)[:n].tolist())
    outside = set(range(len(by))) - inside
    assert top.tie == (bool(inside) and bool(outside) and max(by[e] for e in inside) == min(by[e] for e in outside))
    assert members(top.top(n, absolute)) == inside
    assert torch.equal(top.scores, circuit.scores)


def test_a_cut_between_kept_and_not_kept_is_no_tie() -> None:
    circuit = replace(Circuit.from_names(TINY, TINY.names[:5]), scores=torch.ones(75))
    assert [circuit.top(n).tie for n in (0, 4, 5, 6, 75)] == [False, True, False, True, False]


def test_signed_and_absolute_rankings_differ_and_say_so() -> None:
    scores = torch.zeros(75)
    scores[[3, 5, 7]] = torch.tensor([1.0, -2.0, 0.5])
    circuit = Circuit.from_scores(TINY, scores)
    assert members(circuit.top(2)) == {3, 5}
    assert members(circuit.top(2, absolute=False)) == {3, 7}
    assert circuit.top(2).selection == "top 2 by |score|"
    assert circuit.top(2, absolute=False).selection == "top 2 by score"
    assert circuit.top(2).top(3).selection == "top 3 by |score|, kept edges first"
    assert members(circuit.threshold(0.5)) == {3, 5, 7}
    assert members(circuit.threshold(0.5, absolute=False)) == {3, 7}
    assert circuit.threshold(0.5).selection == "|score| >= 0.5"
    assert circuit.threshold(0.5, absolute=False).selection == "score >= 0.5"
    assert circuit.greedy(2).selection == "greedy 2 by |score|"
    assert circuit.top(2).prune().prune().selection == "top 2 by |score|, pruned"


def test_threshold_looks_at_scores_alone() -> None:
    circuit = random_circuit(TINY)
    assert torch.equal(circuit.threshold(0.3).kept, circuit.scores.abs() >= 0.3)
    with pytest.raises(UsageError, match="NaN"):
        circuit.threshold(float("nan"))


@pytest.mark.parametrize("n", [-1, 76])
def test_sizes_that_do_not_exist_are_refused(n: int) -> None:
    for method in (eap().top, eap().greedy):
        with pytest.raises(UsageError, match=f"of {n} edges"):
            method(n)


def grow(circuit: Circuit, n: int, absolute: bool) -> set[frozenset[int]]:
    """Every circuit that greedy growth could give, whichever way ties fall."""
    graph, by = circuit.graph, keys(circuit, absolute)
    found: set[frozenset[int]] = set()
    seen: set[frozenset[int]] = set()
    pending = [frozenset[int]()]
    while pending:
        chosen = pending.pop()
        if chosen in seen:
            continue
        seen.add(chosen)
        if len(chosen) == n:
            found.add(chosen)
            continue
        nodes = {int(graph.writer_of[edge]) for edge in chosen}
        open_edges = [
            edge
            for edge in range(len(graph))
            if edge not in chosen
            and ((reader := int(graph.reader_of[edge])) == graph.logits or nodes & set(graph.owners(reader)))
        ]
        best = min(by[edge] for edge in open_edges)
        pending += [chosen | {edge} for edge in open_edges if by[edge] == best]
    return found


SMALL = st.builds(
    EdgeGraph,
    layers=st.just(2),
    heads=st.just(2),
    kv_heads=st.sampled_from([1, 2]),
    parallel=st.booleans(),
    mlps=st.booleans(),
    kv=st.sampled_from(["group", "head"]),
)


@settings(max_examples=150, deadline=None)
@given(circuits(SMALL, spread=12), st.booleans(), st.integers(0, 9))
def test_greedy_is_one_of_the_growths_and_says_when_there_are_others(circuit: Circuit, absolute: bool, n: int) -> None:
    n = min(n, len(circuit.graph))
    greedy, possible = circuit.greedy(n, absolute), grow(circuit, n, absolute)
    assert frozenset(members(greedy)) in possible
    assert greedy.tie == (len(possible) > 1)


@settings(deadline=None)
@given(circuits(), st.data())
def test_every_greedy_edge_has_a_path_to_the_logits(circuit: Circuit, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, len(circuit.graph)))
    greedy = circuit.greedy(n)
    assert len(greedy) == n
    live = greedy.graph.live_readers(greedy.graph.live_writers(greedy.kept))
    assert live[greedy.graph.reader_of[greedy.kept]].all()


@settings(deadline=None)
@given(circuits())
def test_prune_leaves_the_edges_on_whole_paths(circuit: Circuit) -> None:
    joined = paths(circuit.graph, circuit.kept)
    reached = nx.descendants(joined, ("writer", "input")) | {("writer", "input")}
    live = nx.ancestors(joined, ("reader", "logits")) | {("reader", "logits")}
    expected = {
        name
        for name in circuit.names()
        if ("writer", name.split("->")[0]) in reached and ("reader", name.split("->")[1]) in live
    }
    pruned = circuit.prune()
    assert set(pruned.names()) == expected
    assert torch.equal(pruned.prune().kept, pruned.kept)


@pytest.mark.parametrize("n", ["0", "5", "20", "50", "75"])
def test_top_and_greedy_are_those_of_eap_ig(n: str) -> None:
    circuit = eap()
    top, greedy = circuit.top(int(n)).prune(), circuit.greedy(int(n)).prune()
    expected = {"top": reference("circuits.json")[n], "greedy": reference("extras.json")["circuits_greedy"][n]}
    assert set(top.names()) == set(expected["top"]["edges"])
    assert set(greedy.names()) == set(expected["greedy"]["edges"])
    nodes = {end.split("<")[0] for name in top.names() for end in name.split("->")}
    assert nodes | {"logits"} == set(expected["top"]["nodes"])


# Two circuits


@settings(deadline=None)
@given(graphs(largest=2), st.data())
def test_circuits_combine_as_sets_do(graph: EdgeGraph, data: st.DataObject) -> None:
    a, b, c = (data.draw(circuits(st.just(graph))) for _ in range(3))
    assert members(a & b) == members(a) & members(b)
    assert members(a | b) == members(a) | members(b)
    assert members(a - b) == members(a) - members(b)
    assert members(a & (b | c)) == members((a & b) | (a & c))
    assert members(a - (b & c)) == members((a - b) | (a - c))
    for combined in (a & b, a | b, a - b):
        assert torch.equal(combined.scores, a.scores)
        assert torch.equal(combined.origin, a.origin)
    either = members(a) | members(b)
    assert a.jaccard(b) == b.jaccard(a) == (len(members(a) & members(b)) / len(either) if either else 1)
    assert a.jaccard(a) == 1


def test_a_combination_names_both_rules() -> None:
    circuit = eap()
    combined = circuit.top(9) - circuit.greedy(9)
    assert combined.selection == "(top 9 by |score|) without (greedy 9 by |score|)"


def test_circuits_of_different_graphs_do_not_combine() -> None:
    one, other = random_circuit(GROUPED), random_circuit(replace(GROUPED, kv="head"))
    for combine in (Circuit.__and__, Circuit.__or__, Circuit.__sub__, Circuit.jaccard):
        with pytest.raises(UsageError, match="expand_kv") as raised:
            combine(one, other)
        assert one_line(raised.value)
    assert one.expand_kv().jaccard(other) <= 1  # what the message advises


def test_kv_divides_nothing_without_groups() -> None:
    one, other = random_circuit(TINY), random_circuit(EdgeGraph(2, 3, 3, kv="head"))
    assert same_edges(one.graph, other.graph)
    assert one.jaccard(other) == 1
    assert not same_edges(TINY, EdgeGraph(2, 3, 3, parallel=True))


def test_equality_sees_every_field() -> None:
    circuit = random_circuit(TINY)
    assert circuit == replace(circuit)
    for change in (
        {"scores": circuit.scores + 1},
        {"scores": circuit.scores.double()},
        {"kept": ~circuit.kept},
        {"origin": (circuit.origin + 1) % 5},
        {"selection": "another"},
        {"tie": True},
        {"graph": EdgeGraph(2, 3, 3, kv="head")},
    ):
        assert circuit != replace(circuit, **change)
    assert circuit != "circuit"


# Keys and values


@settings(deadline=None)
@given(circuits())
def test_expanded_groups_have_an_edge_a_head_and_the_same_sums(circuit: Circuit) -> None:
    expanded, graph = circuit.expand_kv(), circuit.graph
    share = graph.heads // graph.kv_heads
    assert expanded.graph == replace(graph, kv="head")
    scores, kept, sums = circuit.to_dict(), set(circuit.names()), dict.fromkeys(graph.names, 0.0)
    for name, score in expanded.to_dict().items():
        writer, reader = name.split("->")
        parts = 1
        if reader[-3:] in ("<k>", "<v>") and graph.kv == "group" and share > 1:
            layer, head = reader[:-3].split(".h")
            reader, parts = f"{layer}.kv{int(head) // share}{reader[-3:]}", share
        source = f"{writer}->{reader}"
        assert score == scores[source] / parts
        assert (name in set(expanded.names())) == (source in kept)
        assert expanded.origin[expanded.graph.parse(name)] == circuit.origin[graph.parse(source)]
        sums[source] += score
    assert sums == pytest.approx(scores)


@settings(deadline=None)
@given(circuits())
def test_expanded_groups_collapse_to_themselves(circuit: Circuit) -> None:
    circuit = replace(circuit, graph=replace(circuit.graph, kv="group")) if circuit.graph.kv_readers == (
        circuit.graph.kv_heads
    ) else circuit.collapse_kv()  # fmt: skip
    back = circuit.expand_kv().collapse_kv()
    assert torch.allclose(back.scores, circuit.scores)
    assert back == replace(circuit, scores=back.scores)


def test_a_group_is_kept_for_one_head_of_it() -> None:
    by_head = replace(GROUPED, kv="head")
    names = ["input->a0.h1<k>", "input->a0.h1<q>", "m0->a1.h2<v>", "m0->a1.h3<v>"]
    origin = [Origin.DEAD if ".h3<" in name else Origin.TESTED for name in by_head.names]
    circuit = replace(Circuit.from_names(by_head, names), origin=torch.tensor(origin, dtype=torch.int8))
    collapsed = circuit.collapse_kv()
    assert set(collapsed.names()) == {"input->a0.kv0<k>", "input->a0.h1<q>", "m0->a1.kv1<v>"}
    assert collapsed.to_dict()["m0->a1.kv1<v>"] == 2
    origins = {name: Origin(int(collapsed.origin[GROUPED.parse(name)])) for name in GROUPED.names}
    assert origins["m0->a1.kv1<v>"] == Origin.GIVEN  # of two heads that differ
    assert origins["m0->a1.kv0<v>"] == Origin.TESTED
    assert origins["m0->a1.h3<q>"] == Origin.DEAD


# networkx


@settings(deadline=None)
@given(circuits())
def test_networkx_has_the_circuits_edges_and_paths(circuit: Circuit) -> None:
    result = circuit.to_networkx()
    scored = {f"{a}->{b}": data for a, b, data in result.edges(data=True) if "score" in data}
    assert set(scored) == set(circuit.names())
    for name, data in scored.items():
        edge = circuit.graph.parse(name)
        assert data["score"] == circuit.scores[edge]
        assert data["origin"] == Origin(int(circuit.origin[edge])).name.lower()
    assert nx.is_directed_acyclic_graph(result)
    pruned = circuit.prune()
    whole = "input" in result and "logits" in result and nx.has_path(result, "input", "logits")
    assert whole == (len(pruned) > 0)


def test_networkx_nodes_say_what_they_are() -> None:
    nodes = Circuit.from_names(GROUPED, ["input->a1.kv1<k>", "a1.h3->m1", "m1->logits"]).to_networkx().nodes
    assert {name: (node["kind"], node["layer"]) for name, node in nodes.items()} == {
        "input": ("input", 0),
        "a1.kv1<k>": ("k", 1),
        "a1.h2": ("head", 1),
        "a1.h3": ("head", 1),
        "m1": ("mlp", 1),
        "logits": ("logits", 2),
    }


# Files


@settings(max_examples=40, deadline=None)
@given(circuits())
def test_saved_circuits_load_as_they_were(circuit: Circuit) -> None:
    with tempfile.TemporaryDirectory() as folder:
        circuit.save(Path(folder) / "deep" / "folder")
        assert Circuit.load(Path(folder) / "deep" / "folder") == circuit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_keep_their_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    scores = torch.randn(75, dtype=torch.float64).to(dtype)
    scores[:2] = torch.tensor([torch.inf, -0.0])
    circuit = Circuit.from_scores(TINY, scores)
    circuit.save(tmp_path, "setting_0.1")
    assert Circuit.load(str(tmp_path), "setting_0.1") == circuit
    assert {path.name for path in tmp_path.iterdir()} == {"setting_0.1.safetensors", "setting_0.1.json"}


@pytest.mark.parametrize("name", ["../circuit", "a/b", "", "..", "/tmp/x"])
def test_names_do_not_leave_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        eap().save(tmp_path / "run", name)
    with pytest.raises(UsageError):
        Circuit.load(tmp_path / "run", name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = eap()
    old.save(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(circuit_files.os, "fsync", full)
    with pytest.raises(CircuitKitError, match="No space left") as raised:
        old.top(3).save(tmp_path)
    assert one_line(raised.value)
    assert Circuit.load(tmp_path) == old
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitKitError, match="cannot be written"):
        eap().save(tmp_path / "file")
    with pytest.raises(CircuitKitError, match="file"):
        Circuit.load(tmp_path / "file")


def refuse(tmp_path: Path, match: str | None = None) -> None:
    with pytest.raises(CircuitKitError, match=match) as raised:
        Circuit.load(tmp_path)
    assert one_line(raised.value)
    assert raised.value.exit_code == 1


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    eap().save(tmp_path)
    for path in (tmp_path / "circuit.safetensors", tmp_path / "circuit.json"):
        whole = path.read_bytes()
        for length in range(0, len(whole) - 2, 7):
            path.write_bytes(whole[:length])
            refuse(tmp_path, path.name)
        path.unlink()
        refuse(tmp_path, f"no file .*{path.name}")
        path.write_bytes(whole)
    assert Circuit.load(tmp_path) == eap()


def test_files_of_two_circuits_are_not_mixed(tmp_path: Path) -> None:
    eap().save(tmp_path)
    described = (tmp_path / "circuit.json").read_bytes()
    eap().top(5).save(tmp_path)
    (tmp_path / "circuit.json").write_bytes(described)
    refuse(tmp_path, "another circuit")


def rewrite(folder: Path, tensors: dict[str, Tensor] | bytes | None = None, **changes: Any) -> None:
    """Give a saved circuit other tensors, with the right hash, or other entries; None takes an entry away."""
    path = folder / "circuit.json"
    described = json.loads(path.read_text())
    if tensors is not None:
        data = tensors if isinstance(tensors, bytes) else safetensors.torch.save(tensors)
        (folder / "circuit.safetensors").write_bytes(data)
        described["sha256"] = circuit_files.hashlib.sha256(data).hexdigest()
    described |= changes
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))


GOOD = {"layers": 2, "heads": 3, "kv_heads": 3, "parallel": False, "mlps": True, "kv": "group"}


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"version": True}, "version True"),
        ({"extra": 1}, "'extra'"),
        ({"selection": None}, "lacks the entry 'selection'"),
        ({"selection": 3}, "3 as 'selection'"),
        ({"tie": 0}, "0 as 'tie'"),
        ({"graph": []}, "as 'graph'"),
        ({"graph": GOOD | {"width": 3}}, "'width'"),
        ({"graph": {"layers": 2}}, "lacks"),
        ({"graph": GOOD | {"layers": 10**12}}, "'layers' 1000000000000"),
        ({"graph": GOOD | {"heads": -3}}, "'heads' -3"),
        ({"graph": GOOD | {"heads": True}}, "'heads' True"),
        ({"graph": GOOD | {"heads": "3"}}, "'heads' '3'"),
        ({"graph": GOOD | {"kv_heads": 2}}, "2 key-value"),
        ({"graph": GOOD | {"kv": "none"}}, "'none'"),
        ({"graph": GOOD | {"layers": 3}}, "75 edges"),
        ({"graph": GOOD | {"parallel": 0}}, "'parallel' 0"),
    ],
)
def test_a_description_that_is_not_ours_is_refused(change: dict[str, Any], quoted: str, tmp_path: Path) -> None:
    eap().save(tmp_path)
    rewrite(tmp_path, **change)
    refuse(tmp_path, quoted)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x80", "[" * 100_000, '{"version": 1' + "0" * 5000 + "}"])
def test_json_that_is_not_a_circuits_is_refused(text: str, tmp_path: Path) -> None:
    eap().save(tmp_path)
    (tmp_path / "circuit.json").write_bytes(text.encode("latin-1"))
    refuse(tmp_path)


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"scores": torch.zeros(74)}, "74|75"),
        ({"kept": torch.ones(74, dtype=torch.bool)}, "'kept' of 74 edges"),
        ({"kept": torch.ones(75)}, "torch.float32"),
        ({"origin": torch.zeros(75, 1, dtype=torch.int8)}, r"\[75, 1\]"),
        ({"origin": torch.full((75,), 9, dtype=torch.int8)}, "origin 9"),
        ({"scores": torch.full((75,), torch.nan)}, "NaN"),
        ({"scores": torch.zeros(75, dtype=torch.long)}, "torch.int64"),
        ({"more": torch.zeros(75)}, "'more'"),
        ({"origin": None}, "lacks the entry 'origin'"),
    ],
)
def test_tensors_that_are_not_a_circuits_are_refused(change: dict[str, Any], quoted: str, tmp_path: Path) -> None:
    circuit = eap()
    circuit.save(tmp_path)
    tensors = {"scores": circuit.scores, "kept": circuit.kept, "origin": circuit.origin} | change
    rewrite(tmp_path, {key: tensor for key, tensor in tensors.items() if tensor is not None})
    refuse(tmp_path, quoted)


def test_tensors_of_another_format_are_refused(tmp_path: Path) -> None:
    eap().save(tmp_path)
    rewrite(tmp_path, pickle.dumps({"scores": [1.0]}))
    refuse(tmp_path, "not a safetensors file")


# EAP-IG's files


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_eap_igs_files_are_read(ending: str) -> None:
    circuit = Circuit.from_eap_ig(DATA / f"eap_top20.{ending}")
    assert circuit.graph == TINY
    assert torch.equal(circuit.scores, eap().scores)  # helps: negative there, positive here
    assert circuit.to_dict()["m0->logits"] == pytest.approx(0.7542, abs=1e-4)
    assert set(circuit.names()) == set(reference("circuits.json")["20"]["edges"])
    assert set(circuit.origin.tolist()) == {Origin.GIVEN}
    assert f"eap_top20.{ending}" in circuit.selection


def test_eap_igs_json_is_written_to_the_byte(tmp_path: Path) -> None:
    Circuit.from_eap_ig(DATA / "eap_top20.pt").to_eap_ig(tmp_path / "out.json", d_model=24)
    assert (tmp_path / "out.json").read_bytes() == (DATA / "eap_top20.json").read_bytes()
    eap().top(20).prune().to_eap_ig(tmp_path / "out.json", d_model=24)
    assert (tmp_path / "out.json").read_bytes() == (DATA / "eap_top20.json").read_bytes()


def test_eap_igs_pt_is_written_with_all_it_holds(tmp_path: Path) -> None:
    Circuit.from_eap_ig(DATA / "eap_top20.json").to_eap_ig(tmp_path / "out.pt", d_model=24)
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    expected = torch.load(DATA / "eap_top20.pt", weights_only=True)
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
def test_what_is_written_for_eap_ig_reads_back(ending: str, data: st.DataObject) -> None:
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
def test_edges_are_written_in_eap_igs_order(parallel: bool, tmp_path: Path) -> None:
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


def test_nodes_are_in_the_graph_when_edges_lead_in_and_out(tmp_path: Path) -> None:
    names = ["input->a0.h0<k>", "a0.h0->m1", "m0->m1", "input->a1.h2<q>", "input->logits"]
    circuit = Circuit.from_names(TINY, names)
    circuit.to_eap_ig(tmp_path / "out.json", d_model=24)
    nodes = json.loads((tmp_path / "out.json").read_text())["nodes"]
    assert {name for name, node in nodes.items() if node["in_graph"]} == {"input", "a0.h0", "logits"}
    circuit.to_eap_ig(tmp_path / "out.pt", d_model=24)
    found = torch.load(tmp_path / "out.pt", weights_only=True)["nodes_in_graph"]
    assert found.tolist() == [name in ("input", "a0.h0") for name in TINY.writer_names]


def test_zeros_stay_without_a_sign(tmp_path: Path) -> None:
    Circuit.from_scores(TINY, torch.zeros(75)).to_eap_ig(tmp_path / "out.json", d_model=24)
    assert "-0" not in (tmp_path / "out.json").read_text()
    assert not Circuit.from_eap_ig(tmp_path / "out.json").scores.signbit().any()


def test_a_file_is_read_for_the_graph_given() -> None:
    graph = EdgeGraph(2, 3, 3, kv="head")
    assert Circuit.from_eap_ig(DATA / "eap_top20.json", graph).graph == graph
    grouped = Circuit.from_eap_ig(DATA / "eap_top20.json", EdgeGraph(2, 3, 1))
    scores = eap().to_dict()
    summed = sum(scores[f"input->a0.h{head}<k>"] for head in range(3))
    assert grouped.to_dict()["input->a0.kv0<k>"] == pytest.approx(summed)
    for other in (EdgeGraph(3, 3, 3), EdgeGraph(2, 3, 3, parallel=True), EdgeGraph(2, 3, 3, mlps=False), GROUPED):
        with pytest.raises(UsageError, match="same model"):
            Circuit.from_eap_ig(DATA / "eap_top20.pt", other)


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


def refuse_eap_ig(path: Path, match: str | None = None) -> None:
    with pytest.raises(CircuitKitError, match=match) as raised:
        Circuit.from_eap_ig(path)
    assert one_line(raised.value)


def edited(edit: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    found = reference("eap_top20.json")
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
def test_broken_json_of_eap_igs_is_refused(edit: Callable[[Any], object], quoted: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(edited(edit)))
    refuse_eap_ig(path, quoted)


def test_what_more_a_file_of_eap_igs_holds_does_no_harm(tmp_path: Path) -> None:
    def more(found: dict[str, Any]) -> None:
        found["cfg"]["model_name"] = "gpt2"
        found["nodes"]["m0"] |= {"score": 0.5, "neurons": [True] * 24}
        found["nodes"]["m1"] = False  # as early versions wrote nodes

    path = tmp_path / "more.json"
    path.write_text(json.dumps(edited(more)))
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
        ({"neurons_in_graph": torch.zeros(9, 24)}, "neurons"),
    ],
)
def test_broken_pt_of_eap_igs_is_refused(change: dict[str, Any], quoted: str, tmp_path: Path) -> None:
    found = torch.load(DATA / "eap_top20.pt", weights_only=True) | change
    torch.save({key: value for key, value in found.items() if value is not None}, tmp_path / "broken.pt")
    refuse_eap_ig(tmp_path / "broken.pt", quoted)


def test_pairs_that_are_no_edges_are_passed_over(tmp_path: Path) -> None:
    found = torch.load(DATA / "eap_top20.pt", weights_only=True)
    found["edges_in_graph"][:, 0] = True  # as EAP-IG does when it keeps whole nodes; only `input` feeds this reader
    found["edges_scores"][8, 0] = torch.nan
    torch.save(found, tmp_path / "nodes.pt")
    assert Circuit.from_eap_ig(tmp_path / "nodes.pt") == replace(
        Circuit.from_eap_ig(DATA / "eap_top20.pt"), selection="as kept in nodes.pt"
    )


class Trap:
    """Unpickling this leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    found = torch.load(DATA / "eap_top20.pt", weights_only=True) | {"extra": Trap(trace)}
    torch.save(found, tmp_path / "trap.pt")
    refuse_eap_ig(tmp_path / "trap.pt", "tensors alone")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(trace), protocol=2))
    refuse_eap_ig(tmp_path / "plain.pt", "tensors alone")
    assert not trace.exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert trace.exists()  # the trap works


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_truncated_files_of_eap_igs_are_refused(ending: str, tmp_path: Path) -> None:
    whole = (DATA / f"eap_top20.{ending}").read_bytes()
    path = tmp_path / f"broken.{ending}"
    refuse_eap_ig(path, "no file")
    for length in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        refuse_eap_ig(path, "broken")
    path.write_bytes(b"\x80\x02garbage")
    refuse_eap_ig(path, "damaged")
    path.write_bytes(b"")
    refuse_eap_ig(path, "damaged")


def test_a_tensor_alone_is_no_circuit(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    refuse_eap_ig(tmp_path / "tensor.pt", "dictionary")
