"""The interactive viewer: its data, its script and style, and a web page that has nothing else.

The viewer is Cytoscape.js with the places of `layout`, and controls around it. Pages that show more than a circuit call
`circuitkitViewer.mount(element, circuits)` with the data of `viewer_data`.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from circuitkit.circuit.drawing.layout import node_positions
from circuitkit.circuit.drawing.subject import Subject
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource

_SCRIPTS = ("cytoscape.min.js", "model.js", "drawing.js", "controls.js", "viewer.js")
_Kind = Literal["uint8", "uint16", "uint32", "float32"]
_SECURITY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


class Interval(TypedDict):
    """A figure with the ends of its 95% interval, None where there is no interval."""

    value: float
    low: float | None
    high: float | None


class MeasuredSize(TypedDict):
    """A size of the circuit, in edges chosen from its ranking, at which its faithfulness was measured."""

    edges: int
    faithfulness: Interval | None
    split: str


class Assets(NamedTuple):
    """What a page needs for the viewer: the text of a `<script>` (Cytoscape.js included), and of a `<style>`."""

    js: str
    css: str


def viewer_data(
    circuit: Subject,
    name: str = "",
    sizes: Sequence[MeasuredSize] = (),
    absolute: bool = True,
    most: int | None = None,
) -> dict[str, Any]:
    """Describe a circuit for the viewer, as a dict for JSON.

    Edges are in the order of the ranking, kept ones first. Their arrays are base64 of little-endian numbers, 9 bytes
    per edge in all: enough for a page of a graph of 70,651 edges, but not for dozens of them (see `most`).

    Args:
        circuit: a `Circuit`.
        name: what the viewer calls it, such as the name of the method.
        sizes: the sizes at which faithfulness is known.
        absolute: rank by |score|, as for `Circuit.top`; otherwise by score.
        most: the number of edges to describe, the best of the ranking; all by default, and always all kept edges of a
            circuit whose edges were chosen. The viewer says how many it does not know.
    """
    graph = circuit.graph
    order = circuit.ranking(absolute)
    chosen = None if circuit.is_ranking else int(circuit.kept.sum())
    if most is not None:
        order = order[: max(most, chosen or 0)]
    scores = circuit.scores[order].float().numpy()
    numbers: _Kind = "uint32" if graph.n_readers > 0xFFFF else "uint16"
    return {
        "name": name,
        "selection": circuit.selection,
        "ranked_by": "|score|" if absolute else "score",
        "graph": _graph(graph),
        "edges": {
            "total": len(graph),
            "kept": chosen,
            "writer": _pack(graph.writer_of[order].numpy(), numbers),
            "reader": _pack(graph.reader_of[order].numpy(), numbers),
            "score": _pack(scores, "float32"),
            "source": _pack(circuit.score_sources[order].numpy(), "uint8"),
        },
        "sources": [source.name.lower() for source in ScoreSource],
        "sizes": [dict(size) for size in sorted(sizes, key=lambda size: size["edges"])],
    }


def _pack(values: "np.ndarray[Any, Any]", kind: _Kind) -> dict[str, str]:
    data = values.astype(np.dtype(kind).newbyteorder("<")).tobytes()
    return {"type": kind, "base64": base64.b64encode(data).decode()}


def _graph(graph: EdgeGraph) -> dict[str, Any]:
    layout = node_positions(graph)
    readers = [graph.reader(index) for index in range(graph.n_readers)]
    fed, changed = (
        [[writers.start, writers.stop] for writers in map(find, range(graph.n_readers))]
        for find in (graph.writers_fed_by, graph.writers_changed_by)
    )
    return {
        "layers": graph.layers,
        "inputs": graph.inputs,
        "heads": graph.heads,
        "parallel": graph.parallel,
        "mlps": graph.mlps,
        "left": layout.left,
        "right": layout.right,
        "edge_of_arcs": layout.edge_of_arcs,
        "top": layout.top,
        "writers": {
            "name": graph.writer_names,
            "x": [round(point.x, 3) for point in layout.writers],
            "y": [round(point.y, 3) for point in layout.writers],
        },
        "readers": {
            "name": graph.reader_names,
            "x": [round(point.x, 3) for point in layout.readers],
            "y": [round(point.y, 3) for point in layout.readers],
            "kind": [reader.kind for reader in readers],
            "layer": [reader.layer for reader in readers],
            "feeds": fed,
            **({"changes": changed} if graph.coupled else {}),
        },
    }


def viewer_assets() -> Assets:
    """Read the viewer's script and style."""
    folder = resources.files("circuitkit.circuit.drawing") / "assets"
    js = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return Assets(js, (folder / "viewer.css").read_text(encoding="utf-8"))


def viewer_html(circuits: Sequence[Mapping[str, Any]], title: str = "Circuit") -> str:
    """Make a self-contained web page that shows circuits in the viewer.

    Args:
        circuits: what `viewer_data` returned, one per circuit.
        title: the page's title and heading.
    """
    assets = viewer_assets()
    # `<` could end the script element, or begin a comment in it
    data = json.dumps(list(circuits), allow_nan=False, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{assets.css}</style>
</head>
<body class="circuitkit-page">
<main>
<h1>{escape(title)}</h1>
<div id="circuit"></div>
</main>
<script type="application/json" id="circuit-data">{data}</script>
<script>{assets.js}</script>
<script>
const viewer = circuitkitViewer.mount(
  document.getElementById("circuit"), JSON.parse(document.getElementById("circuit-data").textContent)
);
</script>
</body>
</html>
"""
