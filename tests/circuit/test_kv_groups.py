"""Keys and values of grouped-query attention: read once per group, or once per query head."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from support.graphs import GROUPED, circuits

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource


def of_all_edges(circuit: Circuit) -> dict[str, float]:
    """Return the scores by name, of kept edges and others."""
    return dict(zip(circuit.graph.names, circuit.scores.tolist(), strict=True))


@settings(deadline=None)
@given(circuits())
def test_expanding_makes_one_edge_per_head_with_the_same_sum_of_scores(circuit: Circuit) -> None:
    expanded, graph = circuit.expand_kv(), circuit.graph
    share = graph.heads // graph.kv_heads
    assert expanded.graph == replace(graph, kv="head")
    scores, kept, sums = of_all_edges(circuit), set(circuit.names()), dict.fromkeys(graph.names, 0.0)
    for name, score in of_all_edges(expanded).items():
        writer, reader = name.split("->")
        parts = 1
        if reader[-3:] in ("<k>", "<v>") and graph.kv == "group" and share > 1:
            layer, head = reader[:-3].split(".h")
            reader, parts = f"{layer}.kv{int(head) // share}{reader[-3:]}", share
        source = f"{writer}->{reader}"
        assert score == scores[source] / parts
        assert (name in set(expanded.names())) == (source in kept)
        assert expanded.score_sources[expanded.graph.parse(name)] == circuit.score_sources[graph.parse(source)]
        sums[source] += score
    assert sums == pytest.approx(scores)


@settings(deadline=None)
@given(circuits())
def test_collapsing_inverts_expanding(circuit: Circuit) -> None:
    circuit = replace(circuit, graph=replace(circuit.graph, kv="group")) if circuit.graph.kv_readers == (
        circuit.graph.kv_heads
    ) else circuit.collapse_kv()  # fmt: skip
    back = circuit.expand_kv().collapse_kv()
    assert torch.allclose(back.scores, circuit.scores)
    assert back == replace(circuit, scores=back.scores)


def test_a_group_is_kept_if_one_of_its_heads_is() -> None:
    by_head = replace(GROUPED, kv="head")
    names = ["input->a0.h1<k>", "input->a0.h1<q>", "m0->a1.h2<v>", "m0->a1.h3<v>"]
    score_sources = [ScoreSource.DEAD if ".h3<" in name else ScoreSource.TESTED for name in by_head.names]
    circuit = replace(Circuit.from_names(by_head, names), score_sources=torch.tensor(score_sources, dtype=torch.int8))
    collapsed = circuit.collapse_kv()
    assert set(collapsed.names()) == {"input->a0.kv0<k>", "input->a0.h1<q>", "m0->a1.kv1<v>"}
    assert collapsed.to_dict()["m0->a1.kv1<v>"] == 2
    sources = {name: ScoreSource(int(collapsed.score_sources[GROUPED.parse(name)])) for name in GROUPED.names}
    assert sources["m0->a1.kv1<v>"] == ScoreSource.GIVEN  # of two heads that differ
    assert sources["m0->a1.kv0<v>"] == ScoreSource.TESTED
    assert sources["m0->a1.h3<q>"] == ScoreSource.DEAD
