"""Static pictures of a circuit: SVG and PNG, by matplotlib."""

import io
import textwrap
import warnings
from collections import defaultdict
from typing import Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.path import Path
from PIL import Image
from PIL.Image import Dither, Quantize

from circuitkit.circuit.drawing.layout import HALF_HEIGHT, Layout, Point, Route, node_positions, route_edge
from circuitkit.circuit.drawing.panels import draw_layers, draw_strongest
from circuitkit.circuit.drawing.shown import Shown, choose_shown, crowding
from circuitkit.circuit.drawing.subject import Subject
from circuitkit.circuit.graph import EdgeGraph

POSITIVE, NEGATIVE = "#0072b2", "#d55e00"
"""The colors of edges that help and that hurt; colour-blind people can tell them apart."""
_TEXT, _MUTED, _FAINT = "#1b1f24", "#59636e", "#c3cad2"
_COLUMN_INCHES, _ROW_INCHES = 0.54, 0.36
_ROOMY_ROW_INCHES = 0.56  # for models of few layers
_LABELS = 0.9  # the width of the layers' names, in columns
_TITLE_INCHES, _LEGEND_INCHES, _PANEL_INCHES = 0.4, 0.4, 3.6
_CROWDED = 100  # from so many edges on, two charts sum them up
_EMPTY_ROW = 0.3  # the height of a layer without nodes of the circuit, in rows
_HALF_WIDTH = 0.4  # of a head or MLP, in columns
_DASHES: dict[str, tuple[float, tuple[float, ...]]] = {"k": (0, (3.5, 1.5)), "v": (0, (1, 1))}
_DPI = 200
# Text stays text, so that it can be searched and edited; no hash depends on the moment
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "circuitkit", "font.family": "DejaVu Sans"}


def render_picture(circuit: Subject, kind: Literal["svg", "png"]) -> bytes:
    """Draw the kept edges of a circuit; the same circuit always gives the same bytes.

    An edge's color is the sign of its score and its width and opacity are by |score|. Query, key and value edges differ
    in their dashes, and in the port where they end (see `layout`). A node is the darker, the larger the sum of |score|
    of its edges.
    """
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # from names in other scripts
        figure = _draw(circuit)
        buffer = io.BytesIO()
        if kind == "svg":
            # No date and no version, so that the bytes depend on the circuit alone
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
        else:
            figure.set_dpi(_DPI)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            # 256 colors are enough, if rare ones are among them, and the file is a fifth of the size
            picture = (
                Image.fromarray(np.asarray(canvas.buffer_rgba()))
                .convert("RGB")
                .quantize(256, Quantize.MAXCOVERAGE, dither=Dither.NONE)
            )
            picture.save(buffer, "png", optimize=True, dpi=(_DPI, _DPI))
    return buffer.getvalue()


def _draw(circuit: Subject) -> Figure:
    graph, shown = circuit.graph, choose_shown(circuit)
    importance = _sum_strengths(circuit, shown)
    used_layers = {graph.place_of(writer)[0] for writer in importance}
    used_layers |= {graph.reader(int(graph.reader_of[edge])).layer for edge in shown.edges}
    layout = node_positions(graph, [1.0 if layer in used_layers else _EMPTY_ROW for layer in range(graph.layers)])
    routes = [route_edge(graph, layout, *_ends(graph, edge)) for edge in shown.edges]
    left = min([layout.left, *((route.first.x + route.second.x) / 2 for route in routes)]) - 0.2
    right = max([layout.right, *((route.first.x + route.second.x) / 2 for route in routes)]) + 0.2
    columns = max(right - left + _LABELS, 7.0)
    row = max(_ROW_INCHES, min(_ROOMY_ROW_INCHES, 4.5 / layout.top))
    width, height = columns * _COLUMN_INCHES, (layout.top + 0.8) * row
    with_panels = len(shown.edges) >= _CROWDED
    figure = Figure((width + _PANEL_INCHES * with_panels, height + _TITLE_INCHES + _LEGEND_INCHES))
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((0.0, _LEGEND_INCHES / total_height, width / total_width, height / total_height))
    axes.set_axis_off()
    axes.set_xlim(left - _LABELS, left - _LABELS + columns)
    axes.set_ylim(-0.4, layout.top + 0.4)
    _add_edges(axes, circuit, shown, routes)
    _add_nodes(axes, graph, layout, importance)
    _add_ports(axes, graph, layout, {int(graph.reader_of[edge]) for edge in shown.edges}, set(importance))
    title = "\n".join(textwrap.wrap(shown.title, int(total_width * 14))[:2])
    figure.text(0.5, 1 - 0.08 / total_height, title, ha="center", va="top", fontsize=8, color=_TEXT, parse_math=False)
    _add_legend(figure, width)
    if with_panels:
        _add_panels(figure, circuit, shown, width)
    return figure


def _add_panels(figure: Figure, circuit: Subject, shown: Shown, left: float) -> None:
    width, height = figure.get_size_inches()
    scores = circuit.scores[shown.edges].abs().double().nan_to_num(posinf=0.0).tolist()
    side = _PANEL_INCHES - 0.8
    x, share = (left + 0.6) / width, side / width
    top = 1 - (_TITLE_INCHES + 0.4) / height
    bars = min(3.2, 0.4 * height)
    draw_strongest(figure.add_axes((x, top - bars / height, share, bars / height)), circuit.graph, shown, scores)
    below = top - (bars + 0.9 + side) / height
    draw_layers(figure.add_axes((x, below, share, side / height)), circuit.graph, shown, scores)


def _ends(graph: EdgeGraph, edge: int) -> tuple[int, int]:
    return int(graph.writer_of[edge]), int(graph.reader_of[edge])


def _sum_strengths(circuit: Subject, shown: Shown) -> dict[int, float]:
    """Sum |score| over the shown edges of every writer that has any; relative, 1 for the largest head or MLP."""
    graph, sums = circuit.graph, defaultdict[int, float](float)
    for edge, strength in zip(shown.edges, shown.strengths, strict=True):
        sums[int(graph.writer_of[edge])] += strength**2
        fed = graph.writers_fed_by(int(graph.reader_of[edge]))
        for writer in fed:  # the key or value of a group serves each of its heads
            sums[writer] += strength**2 / len(fed)
    largest = max((value for writer, value in sums.items() if writer >= graph.inputs), default=0.0) or 1.0
    return {writer: min(1.0, value / largest) ** 0.5 for writer, value in sums.items()}


def _add_edges(axes: Axes, circuit: Subject, shown: Shown, routes: list[Route]) -> None:
    graph, crowd = circuit.graph, crowding(len(shown.edges))
    paths, colors, widths, dashes = [], [], [], []
    described = zip(shown.edges, routes, shown.strengths, shown.connected, strict=True)
    for edge, route, strength, connected in described:
        paths.append(_path(route))
        opacity = max(0.1, min(1.0, 1 - crowd * (0.9 - strength))) * (1.0 if connected else 0.3)
        colors.append((NEGATIVE if circuit.scores[edge] < 0 else POSITIVE, opacity))
        widths.append((0.5 + 2.3 * strength) * (1 - 0.5 * crowd))
        dashes.append(_DASHES.get(graph.reader(int(graph.reader_of[edge])).kind, "solid"))
    axes.add_collection(
        PathCollection(
            paths, facecolors="none", edgecolors=colors, linewidths=widths, linestyles=dashes, clip_on=False, zorder=1
        )
    )


def _path(route: Route) -> Path:
    start, first, second, end = route
    middle = Point((first.x + second.x) / 2, (first.y + second.y) / 2)
    return Path([start, first, middle, second, end], [Path.MOVETO, Path.CURVE3, Path.CURVE3, Path.CURVE3, Path.CURVE3])


def _add_nodes(axes: Axes, graph: EdgeGraph, layout: Layout, importance: dict[int, float]) -> None:
    unused = [layout.writers[writer] for writer in range(1, graph.n_writers) if writer not in importance]
    axes.plot([x for x, _ in unused], [y for _, y in unused], ".", color=_FAINT, markersize=2.5, zorder=0)
    for layer in range(graph.layers):
        y = layout.writers[graph.head(layer, 0)].y
        used = any(writer in importance for writer in range(graph.head(layer, 0), graph.head(layer + 1, 0)))
        text = f"layer {layer}" if used else f"{layer}"
        _write(axes, Point(layout.left - 0.15, y), text, 6.5 if used else 5, _MUTED, "right")
    for name, y in (("input", 0.0), ("logits", layout.top)):
        _add_box(axes, Point((layout.left + layout.right) / 2, y), (layout.right - layout.left) / 2, "white")
        _write(axes, Point((layout.left + layout.right) / 2, y), name, 7.5)
    for writer, value in importance.items():
        if writer:
            shade = 1 - 0.42 * value
            _add_box(axes, layout.writers[writer], _HALF_WIDTH, (shade, shade, min(1.0, shade + 0.02)))
            _write(axes, layout.writers[writer], graph.writer_names[writer], 6.5)


def _add_ports(axes: Axes, graph: EdgeGraph, layout: Layout, readers: set[int], used: set[int]) -> None:
    """Add the ports of keys and values, joined to the heads that they feed: those in the circuit, or else all."""
    lines = []
    for reader in sorted(readers):
        if graph.reader(reader).kind in ("k", "v"):
            port, fed = layout.readers[reader], graph.writers_fed_by(reader)
            for writer in [writer for writer in fed if writer in used] or list(fed):
                head = layout.writers[writer]
                aside = min(max(port.x - head.x, -0.3), 0.3) if writer in used else 0.0
                lines.append([port, (head.x + aside, head.y)])
            _add_box(axes, port, 0.09, "white", half_height=0.085, line=0.5)
            _write(axes, port, graph.reader(reader).kind, 4.5)
    axes.add_collection(LineCollection(lines, colors=_MUTED, linewidths=0.5, zorder=0.5))


def _add_box(
    axes: Axes,
    at: Point,
    half_width: float,
    color: str | tuple[float, float, float],
    half_height: float = HALF_HEIGHT,
    line: float = 0.7,
) -> None:
    corner = (at.x - half_width, at.y - half_height)
    axes.add_patch(
        FancyBboxPatch(
            corner, 2 * half_width, 2 * half_height, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=color, edgecolor=_TEXT, linewidth=line, zorder=2, clip_on=False,
        )
    )  # fmt: skip


def _write(
    axes: Axes, at: Point, text: str, size: float, color: str = _TEXT, align: Literal["center", "right"] = "center"
) -> None:
    axes.text(at.x, at.y, text, ha=align, va="center_baseline", fontsize=size, color=color, zorder=3, parse_math=False)


def _add_legend(figure: Figure, width: float) -> None:
    handles = [
        Line2D([], [], color=POSITIVE, linewidth=2, label="helps (score > 0)"),
        Line2D([], [], color=NEGATIVE, linewidth=2, label="hurts (score < 0)"),
        Line2D([], [], color=_MUTED, label="query, MLP, logits"),
        Line2D([], [], color=_MUTED, linestyle=_DASHES["k"], label="key"),
        Line2D([], [], color=_MUTED, linestyle=_DASHES["v"], label="value"),
    ]
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5 * width / figure.get_figwidth(), 0.0),
        ncols=5 if width > 5.8 else 3, fontsize=6.5, frameon=False, labelcolor=_TEXT, handlelength=2.4,
        columnspacing=1.4,
    )  # fmt: skip
