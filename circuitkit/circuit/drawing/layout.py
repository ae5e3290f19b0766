"""Where the nodes and edges of a graph are drawn.

A layer is a row, with `input` below the first and the logits above the last, so that every edge leads upwards. Heads
are in the order of their numbers from left to right, MLPs in a column of their own to the right of them. `input` and
the logits are bars as wide as the picture. `positions`, if position embeddings are a writer, is to the left of `input`.

A query edge ends at its head. Keys and values have ports below the head, or below the heads of the group that shares
them: the key's to the left of the middle, the value's to the right.

Lengths are in columns (x) and rows (y).
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from circuitkit.circuit.graph import EdgeGraph

PORT = 0.3
"""The distance of the port of a key or value from the middle of its heads, in columns."""
PORT_DROP = 0.34
"""How far the ports of keys and values are below the heads, in rows."""
MLP_RISE = 0.4
"""How far an MLP is above the heads of its layer, which it reads, in rows; 0 in a parallel block."""
HALF_HEIGHT = 0.17
"""Half of the height of a node, in rows."""
_SPREAD = 0.12
"""By how much the arc between two MLPs is wider per row that it rises, in columns."""
_STRAIGHT = 2.0
"""At most how far an edge leads straight up from its writer and into its reader, in rows."""


class Point(NamedTuple):
    """A place in the picture."""

    x: float
    y: float


class Layout(NamedTuple):
    """The places of writers and readers, by number.

    A head or MLP has one place, whether it writes or reads; a key or value has the place of its port.
    """

    writers: list[Point]
    readers: list[Point]
    left: float
    """The left end of the bars of `input` and the logits."""
    right: float
    """The right end of the bars. Arcs between MLPs reach further, to `edge_of_arcs`."""
    edge_of_arcs: float
    top: float
    """The logits' row; `input` is in row 0."""


def node_positions(graph: EdgeGraph, heights: Sequence[float] | None = None) -> Layout:
    """Place the nodes of a graph.

    Args:
        graph: the graph.
        heights: the height of each layer; 1 by default. A layer without nodes to show may be lower.
    """
    bottoms = [1.0, *(1.0 + height for height in accumulate(heights or [1.0] * graph.layers))]
    mlp_column = graph.heads + 0.6
    right = mlp_column + 0.5 if graph.mlps else graph.heads - 0.5
    left, top = -0.5, bottoms[-1]
    middle = (left + right) / 2
    writers = [Point(middle, 0.0), Point(left - 0.7, 0.0)][: graph.inputs]
    for layer in range(graph.layers):
        writers += [Point(float(head), bottoms[layer]) for head in range(graph.heads)]
        if graph.mlps:
            writers.append(Point(mlp_column, bottoms[layer] + (0.0 if graph.parallel else MLP_RISE)))
    readers = [_reader(graph, index, writers, Point(middle, top)) for index in range(graph.n_readers)]
    arcs = right + _SPREAD * (top - 2) * graph.mlps
    return Layout(writers, readers, left, right, arcs, top)


def _reader(graph: EdgeGraph, index: int, writers: list[Point], logits: Point) -> Point:
    kind = graph.reader(index).kind
    if kind == "logits":
        return logits
    fed = graph.writers_fed_by(index)
    first, last = writers[fed.start], writers[fed.stop - 1]
    if kind not in ("k", "v"):
        return first
    return Point((first.x + last.x) / 2 + (PORT if kind == "v" else -PORT), first.y - PORT_DROP)


class Route(NamedTuple):
    """The curve of an edge: from `start` towards `first`, then `second`, to `end`.

    It is made of two quadratic Bézier curves that meet half-way between the two control points.
    """

    start: Point
    first: Point
    second: Point
    end: Point


def route_edge(graph: EdgeGraph, layout: Layout, writer: int, reader: int) -> Route:
    """Lay an edge.

    Edges from `input` run up between two columns to their reader, and edges to the logits run up beside their writer.
    An edge between two layers of one column bends around the nodes between them, and arcs between MLPs are the wider,
    the more layers they skip.
    """
    kind = graph.reader(reader).kind
    start, end = layout.writers[writer], layout.readers[reader]
    layer, place = graph.place_of(writer)
    is_mlp = layer >= 0 and place == graph.heads
    start = Point(start.x, start.y + HALF_HEIGHT)
    end = Point(end.x, end.y - (0.06 if kind in ("k", "v") else HALF_HEIGHT))
    if writer == 0:
        start = Point(end.x + {"q": -0.5, "k": -0.2, "v": 0.2, "mlp": -0.65, "logits": 0.0}[kind], start.y)
        bend = min(1.0, end.y - start.y)
        return Route(start, Point(start.x, end.y - 0.4 * bend), Point(end.x, end.y - 0.4 * bend), end)
    if kind == "logits":
        end = Point(start.x + (-0.45 if is_mlp else 0.5), end.y)
        bend = min(1.0, end.y - start.y)
        return Route(start, Point(start.x, start.y + 0.4 * bend), Point(end.x, start.y + 0.4 * bend), end)
    height = end.y - start.y
    if is_mlp and kind == "mlp":
        far = start.x + 0.5 + _SPREAD * height
        return Route(start, Point(far, start.y + 0.25 * height), Point(far, end.y - 0.25 * height), end)
    if abs(end.x - start.x) < 0.5 and height > 1:
        beside = start.x + (0.7 if kind == "v" else -0.7)
        return Route(start, Point(beside, start.y + 0.3 * height), Point(beside, end.y - 0.3 * height), end)
    bend = min(0.4 * height, _STRAIGHT)
    return Route(start, Point(start.x, start.y + bend), Point(end.x, end.y - bend), end)
