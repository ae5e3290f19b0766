"""What the viewer is told, and the page around it."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import numpy as np
import pytest
import torch
from support.graphs import GROUPED, TINY, eap, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.drawing.layout import node_positions
from circuitkit.circuit.drawing.viewer import viewer_assets, viewer_data, viewer_html
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=alert(1)>[red]'\"&"


def unpack(packed: dict[str, str]) -> list[Any]:
    return np.frombuffer(base64.b64decode(packed["base64"]), np.dtype(packed["type"]).newbyteorder("<")).tolist()


def edges_of(data: dict[str, Any]) -> list[tuple[str, float, str]]:
    graph, edges = data["graph"], data["edges"]
    columns = [unpack(edges[name]) for name in ("writer", "reader", "score", "source")]
    return [
        (f"{graph['writers']['name'][writer]}->{graph['readers']['name'][reader]}", score, data["sources"][source])
        for writer, reader, score, source in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("circuit", [random_circuit(GROUPED), random_circuit(TINY, 1, 0.1)], ids=["gqa", "tiny"])
def test_the_data_hold_every_edge_in_the_order_of_the_ranking(circuit: Circuit, absolute: bool) -> None:
    data = json.loads(json.dumps(viewer_data(circuit, absolute=absolute), allow_nan=False))
    wanted = [
        (
            circuit.graph.names[edge],
            float(circuit.scores[edge]),
            ScoreSource(int(circuit.score_sources[edge])).name.lower(),
        )
        for edge in circuit.ranking(absolute).tolist()
    ]
    assert edges_of(data) == wanted
    assert data["edges"]["kept"] == len(circuit)
    assert data["ranked_by"] == ("|score|" if absolute else "score")


def test_nodes_are_where_the_static_picture_has_them() -> None:
    layout = node_positions(GROUPED)
    graph = viewer_data(random_circuit(GROUPED))["graph"]
    for key, places in (("writers", layout.writers), ("readers", layout.readers)):
        found = list(zip(graph[key]["x"], graph[key]["y"], strict=True))
        assert found == [pytest.approx(tuple(place), abs=1e-3) for place in places]
    assert graph["readers"]["feeds"] == [
        [fed.start, fed.stop] for fed in map(GROUPED.writers_fed_by, range(GROUPED.n_readers))
    ]


@pytest.mark.parametrize(("most", "known"), [(None, 75), (5, 20), (30, 30), (1000, 75), (0, 20)])
def test_data_may_be_cut_but_not_below_the_circuit(most: int | None, known: int) -> None:
    circuit = eap().top(20)
    data = viewer_data(circuit, most=most)
    assert [name for name, _, _ in edges_of(data)] == [TINY.names[edge] for edge in circuit.ranking()[:known].tolist()]
    assert data["edges"]["total"] == 75


def test_a_ranking_has_no_size_of_its_own() -> None:
    assert viewer_data(eap())["edges"]["kept"] is None
    assert viewer_data(eap().top(0))["edges"]["kept"] == 0
    assert len(edges_of(viewer_data(eap(), most=7))) == 7


def test_sizes_are_in_order() -> None:
    sizes = [{"edges": size, "faithfulness": None, "split": "test"} for size in (40, 10, 20)]
    assert [size["edges"] for size in viewer_data(eap(), sizes=sizes)["sizes"]] == [10, 20, 40]


def test_infinite_scores_are_strict_json() -> None:
    circuit = Circuit.from_scores(TINY, torch.full((75,), float("inf")))
    assert {score for _, score, _ in edges_of(json.loads(json.dumps(viewer_data(circuit), allow_nan=False)))} == {
        float("inf")
    }


def test_a_graph_of_70651_edges_is_small_enough_for_a_page() -> None:
    graph = EdgeGraph(30, 9, 3)
    assert len(graph) == 70651
    data = json.dumps(viewer_data(random_circuit(graph)))
    assert len(base64.b64encode(gzip.compress(data.encode()))) < 800_000
    assert len(viewer_html([viewer_data(random_circuit(graph))])) < 1_500_000


def test_the_library_is_there_with_its_licence() -> None:
    folder = resources.files("circuitkit.circuit.drawing") / "assets"
    licence = (folder / "cytoscape.LICENSE.txt").read_text(encoding="utf-8")
    assert "Permission is hereby granted, free of charge" in licence
    assert "The Cytoscape Consortium" in viewer_assets().js


def test_a_script_element_may_hold_the_assets() -> None:
    assets = viewer_assets()
    assert "</script" not in assets.js.lower()
    assert "</style" not in assets.css.lower()
    own = assets.js[assets.js.rindex("circuitkitViewer = {}") :]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", own)


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def test_names_of_others_add_no_element() -> None:
    plain, hostile = _Elements(), _Elements()
    plain.feed(viewer_html([viewer_data(eap(), "name")], "title"))
    circuit = Circuit(TINY, eap().scores, eap().kept, eap().score_sources, HOSTILE)
    page = viewer_html([viewer_data(circuit, HOSTILE)], HOSTILE)
    hostile.feed(page)
    assert hostile.found == plain.found
    [data] = re.findall(r'<script type="application/json" id="circuit-data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)[0]["name"] == json.loads(data)[0]["selection"] == HOSTILE
