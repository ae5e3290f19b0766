"""Circuits: how they are made, what they refuse, when two are equal."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from support.graphs import TINY, on_one_line, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import UsageError


def test_from_scores_keeps_every_edge() -> None:
    circuit = Circuit.from_scores(TINY, torch.arange(75.0), score_sources=ScoreSource.TESTED)
    assert len(circuit) == 75
    assert circuit.fraction == 1
    assert circuit.selection == "all edges"
    assert set(circuit.score_sources.tolist()) == {ScoreSource.TESTED}
    assert circuit.names() == TINY.names
    assert circuit.to_dict()["m1->logits"] == 74
    assert repr(circuit) == "Circuit(75 of 75 edges: all edges)"


def test_from_names_keeps_the_named_edges() -> None:
    names = ["m1->logits", "input->a0.h2<k>"]
    circuit = Circuit.from_names(TINY, names)
    assert sorted(circuit.names()) == sorted(names)
    assert circuit.to_dict() == dict.fromkeys(sorted(names, key=circuit.graph.parse), 1.0)
    with pytest.raises(UsageError, match="'m7'"):
        Circuit.from_names(TINY, ["m7->logits"])


def test_an_empty_circuit_is_true() -> None:
    assert Circuit.from_names(TINY, [])
    assert len(Circuit.from_names(TINY, [])) == 0


def test_a_circuit_is_immutable() -> None:
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
        ({"score_sources": torch.zeros(75, dtype=torch.long)}, "score_sources is torch.int64"),
        ({"score_sources": torch.full((75,), 5, dtype=torch.int8)}, "no score source 5"),
        ({"score_sources": torch.full((75,), -1, dtype=torch.int8)}, "no score source -1"),
        ({"scores": torch.tensor([0.0] * 73 + [torch.nan] * 2)}, r"'a1.h2->logits' is NaN \(2 of 75 are\)"),
    ],
)
def test_tensors_that_do_not_fit_the_graph_are_refused(change: dict[str, Any], quoted: str) -> None:
    with pytest.raises(UsageError, match=quoted) as raised:
        replace(Circuit.from_scores(TINY, torch.zeros(75)), **change)
    assert on_one_line(raised.value)


def test_equality_compares_every_field() -> None:
    circuit = random_circuit(TINY)
    assert circuit == replace(circuit)
    for change in (
        {"scores": circuit.scores + 1},
        {"scores": circuit.scores.double()},
        {"kept": ~circuit.kept},
        {"score_sources": (circuit.score_sources + 1) % 5},
        {"selection": "another"},
        {"tie": True},
        {"graph": EdgeGraph(2, 3, 3, kv="head")},
    ):
        assert circuit != replace(circuit, **change)
    assert circuit != "circuit"
