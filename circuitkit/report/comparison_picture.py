"""One picture of a comparison: held-out faithfulness over size, a panel per model, task and objective."""

import io
import warnings
from collections.abc import Mapping, Sequence
from math import ceil
from statistics import mean
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from circuitkit.circuit.drawing.shown import tidy
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.report.over_seeds import average_over_seeds
from circuitkit.report.palette import color_methods

Row = Mapping[str, Any]
_MOST_PANELS, _ACROSS = 4, 2
_MOST_METHODS = 6
"""More curves in one panel are hard to tell apart."""
_DASHES = ("solid", (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (1.5, 1)))
_PANEL = (6.0, 3.4)
"""Inches."""
_LOWEST, _HIGHEST = -0.5, 2.0
"""Ends of the axis at most: a method may be far outside, and would hide the others."""


def comparison_picture(rows: Sequence[Row]) -> bytes:
    """Draw the curves of a comparison's methods as a PNG; the same rows always give the same picture.

    Args:
        rows: of `results.csv`, at least one of them without an error.
    """
    buffer = io.BytesIO()
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # from labels in other scripts
        FigureCanvasAgg(draw_comparison(rows)).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def draw_comparison(rows: Sequence[Row]) -> Figure:
    """Draw the curves of a comparison's methods.

    A curve is the mean over seeds of the faithfulness of a method's first circuit, ranked by |score|, on test, with its
    95% interval over prompts. A dot is the circuit that the method chose itself. Of many methods, the best of
    each strategy are drawn (faithfulness closest to 1, on average over the sizes), and the random control.

    Args:
        rows: of `results.csv`, at least one of them without an error.
    """
    panels: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not row["error"]:
            panels.setdefault((row["task"], row["model"], row["objective"]), []).append(row)
    shown = list(panels.items())[:_MOST_PANELS]
    chosen = [_choose(found) for _, found in shown]
    drawn = {name for names, _ in chosen for name in names}
    controls = {_name(row) for row in rows if _is_control(row)}
    colors = color_methods((name for name in map(_name, rows) if name in drawn), controls)
    across = min(len(shown), _ACROSS)
    down = ceil(len(shown) / across)
    figure = Figure((_PANEL[0] * across, _PANEL[1] * down), dpi=200, layout="constrained")
    for number, ((task, model, objective), found) in enumerate(shown):
        axes = figure.add_subplot(down, across, number + 1)
        _draw_panel(axes, found, *chosen[number], colors)
        axes.set_title(tidy(f"{task} in {model}, {objective}"), fontsize=9, parse_math=False)
    if len(panels) > len(shown):
        figure.supxlabel(f"{len(shown)} of {len(panels)} combinations of task, model and objective", fontsize=8)
    return figure


def _draw_panel(
    axes: Axes, rows: Sequence[Row], drawn: Sequence[str], title: str | None, colors: Mapping[str, str]
) -> None:
    methods = _by_method(rows)
    for end in (0, 1):
        axes.axhline(end, color="#888888", linewidth=0.8, linestyle=":")
    highest = 1.1
    for number, name in enumerate(drawn):
        curve, color = _curve(methods[name], "absolute"), colors[name]
        known = [(x, low, high) for x, _, low, high in curve if low is not None and high is not None]
        dashes = _DASHES[number % len(_DASHES)]  # curves that coincide are all seen
        label = f" {tidy(name)}"  # a label that begins with `_` would be left out
        axes.plot([x for x, *_ in curve], [y for _, y, *_ in curve], linestyle=dashes, color=color, label=label)
        x, low, high = zip(*known, strict=True) if known else ((), (), ())
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
        own = _curve(methods[name], "own")
        axes.plot([x for x, *_ in own], [y for _, y, *_ in own], "o", color=color, markeredgecolor="white")
        highest = max([highest, *(y for _, y, *_ in [*curve, *own])])
    axes.set_xscale("log")
    axes.set_ylim(max(axes.get_ylim()[0], _LOWEST), min(axes.get_ylim()[1], _HIGHEST))
    axes.set_xlabel("edges", fontsize=8)
    cut = f" (cut off at {_HIGHEST:g})" if highest > _HIGHEST else ""
    axes.set_ylabel(f"faithfulness, held-out{cut}", fontsize=8)
    axes.tick_params(labelsize=7)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(fontsize=7, frameon=False, title=title, title_fontsize=7)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _choose(rows: Sequence[Row]) -> tuple[list[str], str | None]:
    """Choose the methods to draw, the best first: of too many, the best of each strategy; and say so."""
    methods = _by_method(rows)
    curves = {name: _curve(found, "absolute") for name, found in methods.items()}
    controls = [name for name, found in methods.items() if _is_control(found[0])]
    ranked = sorted(
        (name for name in methods if curves[name] and name not in controls), key=lambda name: _distance(curves[name])
    )
    if len(ranked) <= _MOST_METHODS:
        return [*ranked, *controls], None
    best = {methods[name][0]["strategy"]: name for name in reversed(ranked)}
    drawn = [name for name in ranked if name in best.values()][:_MOST_METHODS]
    return [*drawn, *controls], f"{len(drawn)} of {len(ranked)}: the best of each strategy"


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(_name(row), []).append(row)
    return methods


_Point = tuple[float, float, float | None, float | None]


def _curve(rows: Sequence[Row], ranking: str) -> list[_Point]:
    """Return edges, faithfulness and its interval at each size, of the first operating point, averaged over seeds."""
    first = rows[0]["operating_point"]
    sizes: dict[float, list[Row]] = {}
    for row in rows:
        if row["ranking"] == ranking and row["operating_point"] == first and row["edges_asked"]:
            size = 0.0 if ranking == "own" else row["fraction"]  # each seed has its own number of own edges
            sizes.setdefault(size, []).append(row)
    found = []
    for size in sorted(sizes):
        value, low, high, _ = average_over_seeds(sizes[size], "faithfulness_test")
        if value is not None:
            found.append((mean(row["edges_asked"] for row in sizes[size]), value, low, high))
    return found


def _distance(curve: Sequence[_Point]) -> float:
    return mean(abs(1 - value) for _, value, *_ in curve)


def _name(row: Row) -> str:
    return CONTROL if _is_control(row) else f"{row['strategy']} ({row['precision']})"


def _is_control(row: Row) -> bool:
    return bool(row["strategy"] == CONTROL)
