"""The circuits of a page, for the viewer."""

import json
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.drawing.viewer import viewer_data
from circuitkit.page.content import Content, PageCell
from circuitkit.report.result_view import measured_sizes
from circuitkit.run.result import Result

_MOST_EDGES, _MOST_OF_LARGE = 80_000, 30_000
"""Edges that a page, and one of a large grid, describes in all, at 12 bytes each; the weakest are left out."""
_LARGE = 200
"""Cells of a large grid, whose tables need the room."""
_FEWEST = 1_000
"""Edges of each circuit that are described at least; kept ones always are."""


def describe_circuits(content: Content) -> tuple[dict[str, Any], int]:
    """Describe the circuits of all loaded results, the best methods first.

    Returns:
        `graphs` and `circuits`, where a circuit's `graph` is the number of one of the graphs, since many circuits share
        one; and how many circuits are left out because the page would become too large.
    """
    found = [
        (name, result, number) for name, result in content.results.items() for number in range(len(result.circuits))
    ]
    left = _MOST_OF_LARGE if len(content.cells) > _LARGE else _MOST_EDGES
    most = max(left // max(len(found), 1), _FEWEST)
    graphs: dict[str, int] = {}
    circuits: list[dict[str, Any]] = []
    for folder, result, number in found:
        circuit, test = result.circuits[number], result.evaluations.get("test", ())
        needed = max(min(most, len(circuit.graph)), 0 if circuit.is_ranking else len(circuit))
        if circuits and needed > left:
            continue
        left -= needed
        name = name_circuit(content, content.cell_of(folder), result, circuit)
        data = viewer_data(circuit, name, measured_sizes(test[number]) if test else (), most=most)
        graph = json.dumps(data.pop("graph"))
        circuits.append(data | {"graph": graphs.setdefault(graph, len(graphs))})
    return {"graphs": [json.loads(graph) for graph in graphs], "circuits": circuits}, len(found) - len(circuits)


def name_circuit(content: Content, cell: PageCell, result: Result, circuit: Circuit) -> str:
    """Return what tells a circuit from the others of a page."""
    labels = cell.labels
    several = {name for name in ("model", "task", "objective") if content.frame[name].nunique() > 1}
    parts = [
        f"{labels['strategy']} ({labels['precision']})",
        *(str(labels[name]) for name in labels if name in several),
    ]
    return ", ".join([*parts, circuit.selection] if len(result.circuits) > 1 else parts)
