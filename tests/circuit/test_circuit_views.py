"""A circuit as a table, as an iterable of names, and in a notebook."""

import base64
import re
from html import unescape

import pytest
import torch
from hypothesis import given, settings
from support.graphs import GROUPED, circuits, eap, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import UsageError


@given(circuits())
@settings(max_examples=30, deadline=None)
def test_iteration_and_membership_are_those_of_the_names(circuit: Circuit) -> None:
    assert list(circuit) == circuit.names()
    assert [name in circuit for name in circuit.graph.names] == circuit.kept.tolist()


@pytest.mark.parametrize("name", ["a9.h9->logits", "m0", "", 3, None])
def test_membership_of_what_is_no_edge_is_an_error(name: object) -> None:
    with pytest.raises(UsageError, match=r"not the name of an edge|no writer"):
        _ = name in eap()


@given(circuits())
@settings(max_examples=30, deadline=None)
def test_the_table_has_a_row_per_edge(circuit: Circuit) -> None:
    table = circuit.to_pandas()
    graph = circuit.graph
    wanted = "edge writer reader kind layer_from layer_to score score_source kept rank"
    assert " ".join(table.columns) == wanted
    assert table["edge"].tolist() == graph.names
    assert (table["writer"] + "->" + table["reader"]).tolist() == graph.names
    assert table["score"].tolist() == circuit.scores.tolist()
    assert table["kept"].tolist() == circuit.kept.tolist()
    assert table.sort_values("rank").index.tolist() == circuit.ranking().tolist()
    for row in table.sample(min(20, len(table)), random_state=0).itertuples():
        writer = re.match(r"[am](\d+)", row.writer)
        reader = re.match(r"[am](\d+)", row.reader)
        assert row.layer_from == (int(writer[1]) if writer else -1)
        assert row.layer_to == (int(reader[1]) if reader else graph.layers)
        assert row.kind == (re.search(r"<(.)>", row.reader) or [0, {"m": "mlp", "l": "logits"}.get(row.reader[0])])[1]
        assert row.score_source == ScoreSource(int(circuit.score_sources[row.Index])).name.lower()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_table_takes_any_dtype_and_shares_no_memory(dtype: torch.dtype) -> None:
    circuit = Circuit.from_scores(GROUPED, torch.ones(len(GROUPED), dtype=dtype))
    table = circuit.to_pandas()
    table.loc[0, "score"] = 5.0
    table.loc[0, "kept"] = False
    assert circuit.scores[0] == 1
    assert bool(circuit.kept[0])


def test_a_notebook_shows_a_picture() -> None:
    circuit = random_circuit(GROUPED)
    html = circuit._repr_html_()
    [(alternative, data)] = re.findall(r'^<img [^>]*alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]*)">$', html)
    assert unescape(alternative) == repr(circuit)
    assert base64.b64decode(data).startswith(b"<?xml")
