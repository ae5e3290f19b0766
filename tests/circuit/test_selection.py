"""Selections (top, greedy, threshold, prune) against plain readings of their definitions and against EAP-IG's own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.graphs import TINY, circuits, eap, members, on_one_line, paths, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError


def sort_keys(circuit: Circuit, absolute: bool) -> list[tuple[bool, float]]:
    """List what the edges are ranked by; the smallest is the best."""
    scores = circuit.scores.tolist()
    return [(not kept, -abs(s) if absolute else -s) for kept, s in zip(circuit.kept.tolist(), scores, strict=True)]


@settings(deadline=None)
@given(circuits(), st.booleans())
def test_ranking_puts_kept_edges_first_then_scores_then_numbers(circuit: Circuit, absolute: bool) -> None:
    by = sort_keys(circuit, absolute)
    assert circuit.ranking(absolute).tolist() == sorted(range(len(by)), key=lambda edge: (by[edge], edge))


@settings(deadline=None)
@given(circuits(), st.booleans(), st.data())
def test_top_takes_the_first_of_the_ranking_and_reports_a_tie_at_the_cut(
    circuit: Circuit, absolute: bool, data: st.DataObject
) -> None:
    n = data.draw(st.integers(0, len(circuit.graph)))
    top, by = circuit.top(n, absolute), sort_keys(circuit, absolute)
    inside = members(top)
    assert inside == set(circuit.ranking(absolute)[:n].tolist())
    outside = set(range(len(by))) - inside
    assert top.tie == (bool(inside) and bool(outside) and max(by[e] for e in inside) == min(by[e] for e in outside))
    assert members(top.top(n, absolute)) == inside
    assert torch.equal(top.scores, circuit.scores)


def test_a_cut_between_kept_and_removed_edges_is_no_tie() -> None:
    circuit = replace(Circuit.from_names(TINY, TINY.names[:5]), scores=torch.ones(75))
    assert [circuit.top(n).tie for n in (0, 4, 5, 6, 75)] == [False, True, False, True, False]


def test_signed_and_absolute_selections_differ_and_are_named() -> None:
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


def test_threshold_ignores_membership() -> None:
    circuit = random_circuit(TINY)
    assert torch.equal(circuit.threshold(0.3).kept, circuit.scores.abs() >= 0.3)
    with pytest.raises(UsageError, match="nan is no number"):
        circuit.threshold(float("nan"))


@pytest.mark.parametrize("n", [-1, 76])
def test_sizes_outside_the_graph_are_refused(n: int) -> None:
    for method in (eap().top, eap().greedy):
        with pytest.raises(UsageError, match=f"of {n} edges"):
            method(n)


def all_growths(circuit: Circuit, n: int, absolute: bool) -> set[frozenset[int]]:
    """List every circuit that greedy growth can give, over all ways to break ties."""
    graph, by = circuit.graph, sort_keys(circuit, absolute)
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
            and (
                (reader := int(graph.reader_of[edge])) == graph.logits or nodes & set(graph.writers_changed_by(reader))
            )
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
def test_greedy_is_a_possible_growth_and_reports_a_tie_when_there_are_others(
    circuit: Circuit, absolute: bool, n: int
) -> None:
    n = min(n, len(circuit.graph))
    greedy, possible = circuit.greedy(n, absolute), all_growths(circuit, n, absolute)
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
def test_prune_keeps_the_edges_on_paths_from_input_to_logits(circuit: Circuit) -> None:
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
def test_top_and_greedy_match_eap_ig(n: str) -> None:
    circuit = eap()
    top, greedy = circuit.top(int(n)).prune(), circuit.greedy(int(n)).prune()
    expected = {
        "top": reference.read("circuits.json")[n],
        "greedy": reference.read("extras.json")["circuits_greedy"][n],
    }
    assert set(top.names()) == set(expected["top"]["edges"])
    assert set(greedy.names()) == set(expected["greedy"]["edges"])
    nodes = {end.split("<")[0] for name in top.names() for end in name.split("->")}
    assert nodes | {"logits"} == set(expected["top"]["nodes"])


@pytest.mark.parametrize("select", [Circuit.top, Circuit.greedy])
def test_a_size_is_a_whole_number(select: Callable[[Circuit, Any], Circuit]) -> None:
    circuit = eap()
    for size in (0.5, 2.0, True, "9", None):
        with pytest.raises(UsageError, match="is not a number of edges") as raised:
            select(circuit, size)
        assert on_one_line(raised.value)
    with pytest.raises(
        UsageError, match=r"0\.1 is not a number .* fraction of the edges 8, that is round\(0\.1 \* 75\)"
    ):
        select(circuit, 0.1)
    assert len(select(circuit, np.int64(9))) == 9
