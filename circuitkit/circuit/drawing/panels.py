"""Two small charts beside the picture of a large circuit: its strongest nodes, and which layers they join."""

from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes

from circuitkit.circuit.drawing.shown import Shown
from circuitkit.circuit.graph import EdgeGraph

_NODES = 20
_PARTS = {
    "q": ("into query", "#332288"),
    "k": ("into key", "#88ccee"),
    "v": ("into value", "#44aa99"),
    "mlp": ("into MLP", "#ddcc77"),
    "out": ("out of it", "#d3d8de"),
}
_TEXT = "#1b1f24"


def draw_strongest(axes: Axes, graph: EdgeGraph, shown: Shown, scores: list[float]) -> None:
    """Draw a bar for each of the strongest heads and MLPs: the sum of |score| of its edges, by where they end.

    Args:
        axes: where to draw.
        graph: the graph.
        shown: the edges.
        scores: |score| of each of these edges.
    """
    sums = defaultdict[int, dict[str, float]](lambda: dict.fromkeys(_PARTS, 0.0))
    for edge, score in zip(shown.edges, scores, strict=True):
        writer, reader = int(graph.writer_of[edge]), int(graph.reader_of[edge])
        if writer >= graph.inputs:
            sums[writer]["out"] += score
        fed = graph.writers_fed_by(reader)
        for one in fed:  # the key or value of a group serves each of its heads
            sums[one][graph.reader(reader).kind] += score / len(fed)
    best = sorted(sums, key=lambda writer: -sum(sums[writer].values()))[:_NODES][::-1]
    left = np.zeros(len(best))
    for part, (label, color) in _PARTS.items():
        values = np.array([sums[writer][part] for writer in best])
        if values.any():
            axes.barh(range(len(best)), values, 0.7, left, color=color, label=label)
        left += values
    axes.set_yticks(range(len(best)), [graph.writer_names[writer] for writer in best])
    axes.set_ylim(-0.6, len(best) - 0.4)
    axes.legend(fontsize=6, frameon=False, loc="lower right", labelcolor=_TEXT)
    _dress(axes, "Strongest heads and MLPs:\nsum of |score| of their edges")
    axes.spines[["top", "right"]].set_visible(False)


def draw_layers(axes: Axes, graph: EdgeGraph, shown: Shown, scores: list[float]) -> None:
    """Draw a map of which layer writes to which: the sum of |score| of the edges between them.

    Args:
        axes: where to draw.
        graph: the graph.
        shown: the edges.
        scores: |score| of each of these edges.
    """
    sums = np.zeros((graph.layers + 1, graph.layers + 1))  # [reader, writer]
    for edge, score in zip(shown.edges, scores, strict=True):
        writer = int(graph.writer_of[edge])
        column = 1 + graph.place_of(writer)[0]
        sums[graph.reader(int(graph.reader_of[edge])).layer, column] += score
    axes.imshow(np.ma.masked_equal(np.sqrt(sums), 0), origin="lower", cmap="YlGnBu", interpolation="nearest")
    step = max(1, graph.layers // 10)
    layers = range(0, graph.layers, step)
    axes.set_xticks(
        [0, *(layer + 1 for layer in layers if layer)], ["input", *(str(layer) for layer in layers if layer)]
    )
    axes.set_yticks([*layers, graph.layers], [*map(str, layers), "logits"])
    axes.set_xlabel("from layer", fontsize=7, color=_TEXT)
    axes.set_ylabel("to layer", fontsize=7, color=_TEXT)
    _dress(axes, "Which layer writes to which:\nthe darker, the larger the sum of |score|")


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8, color=_TEXT, loc="left")
    axes.tick_params(labelsize=6.5, colors=_TEXT, length=2)
