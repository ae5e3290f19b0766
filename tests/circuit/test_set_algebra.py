"""Two circuits: intersection, union, difference, Jaccard similarity."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import GROUPED, TINY, circuits, eap, graphs, members, on_one_line, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.errors import UsageError


@settings(deadline=None)
@given(graphs(largest=2), st.data())
def test_circuits_combine_as_sets(graph: EdgeGraph, data: st.DataObject) -> None:
    a, b, c = (data.draw(circuits(st.just(graph))) for _ in range(3))
    assert members(a & b) == members(a) & members(b)
    assert members(a | b) == members(a) | members(b)
    assert members(a - b) == members(a) - members(b)
    assert members(a & (b | c)) == members((a & b) | (a & c))
    assert members(a - (b & c)) == members((a - b) | (a - c))
    for combined in (a & b, a | b, a - b):
        assert torch.equal(combined.scores, a.scores)
        assert torch.equal(combined.score_sources, a.score_sources)
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
        assert on_one_line(raised.value)


def test_circuits_of_groups_and_heads_compare_after_expanding() -> None:
    """What the message of the error advises."""
    by_group = Circuit.from_names(GROUPED, ["input->a0.kv0<k>"])
    by_head = Circuit.from_names(replace(GROUPED, kv="head"), ["input->a0.h0<k>", "m0->logits"])
    expanded = by_group.expand_kv()
    assert expanded.names() == ["input->a0.h0<k>", "input->a0.h1<k>"]
    assert expanded.jaccard(by_head) == by_head.jaccard(expanded) == pytest.approx(1 / 3)
    assert (expanded & by_head).names() == ["input->a0.h0<k>"]


def test_kv_makes_no_difference_without_groups() -> None:
    one, other = random_circuit(TINY), random_circuit(EdgeGraph(2, 3, 3, kv="head"))
    assert same_edges(one.graph, other.graph)
    assert one.jaccard(other) == 1
    assert not same_edges(TINY, EdgeGraph(2, 3, 3, parallel=True))


def test_a_ranking_has_no_edges_to_compare() -> None:
    """All its edges are kept because none was chosen: the index would be that of all edges."""
    ranking = eap()
    assert ranking.is_ranking
    for one, other in ((ranking, ranking.top(9)), (ranking.top(9), ranking.prune())):
        with pytest.raises(UsageError, match=r"is a ranking.*top\(100\)"):
            one.jaccard(other)
    assert ranking.top(75).jaccard(ranking.top(75)) == 1
