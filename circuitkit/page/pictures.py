"""The charts of methods as pictures for papers: SVG, whose text stays text, and PNG, by matplotlib."""

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from circuitkit.page.chart_tables import Item, Panel, cost_items, curve_items, own_items, pareto_front
from circuitkit.page.chart_theme import LIMITS, log_ticks, size_ticks
from circuitkit.page.charts import make_panels_of
from circuitkit.page.content import Content
from circuitkit.page.method_charts import COSTS, cost_chart, curves_chart

WIDE, NARROW = 7.0, 3.3
"""Inches: the width of a page of a paper, and of a column."""
_MOST = 4
"""Panels that are drawn; the page has more."""
_DPI = 200
_INK, _FAINT, _GRID = "#1b1f24", "#59636e", "#e3e6ea"
_MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "diamond": "D",
    "triangle-down": "v",
    "triangle-right": ">",
    "triangle-left": "<",
    "cross": "P",
}
_Dash = Literal["-", ""] | tuple[float, Sequence[float]]
_DASHES: tuple[_Dash, ...] = ("-", (0, (5, 2)), (0, (2, 2)), (0, (6, 2, 1, 2)))
_OF_CONTROL: _Dash = (0, (4, 3))
_FILLS: tuple[Literal["full", "none", "left", "bottom"], ...] = ("full", "none", "left", "bottom")
_LEGEND_COLUMNS = {True: 6, False: 3}
_LONGEST = 32
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "circuitkit",
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.3,
}


@dataclass(frozen=True)
class Picture:
    """A picture in several formats.

    Attributes:
        name: for file names.
        title: what it is about.
        alternative: one sentence with its main fact, for those who cannot see it.
        svg, png: 7 inches wide.
        column: SVG, 3.3 inches wide.
    """

    name: str
    title: str
    alternative: str
    svg: bytes
    png: bytes
    column: bytes


def draw_pictures(content: Content) -> list[Picture]:
    """Draw faithfulness over size, and against time and memory; equal content gives equal bytes.

    Args:
        content: of a folder. Of many models, tasks and objectives, only the first are drawn.
    """
    found = []
    for number, panel in enumerate(make_panels_of(content)[:_MOST], 1):
        chart = curves_chart("", panel)
        found.append(_make_picture(f"curves-{number}", chart.title, chart.alternative, partial(draw_curves, panel)))
    for number, panel in enumerate(make_panels_of(content, split=False)[:_MOST], 1):
        made = (cost_chart("", panel, cost) for cost in COSTS)
        if said := " ".join(one.alternative for one in made if one is not None):
            found.append(_make_picture(f"cost-{number}", f"Cost: {panel.title}", said, partial(draw_costs, panel)))
    return found


def _make_picture(name: str, title: str, alternative: str, draw: Callable[[float], Figure]) -> Picture:
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # from names in other scripts
        wide, narrow = draw(WIDE), draw(NARROW)
        return Picture(name, title, alternative, _save(wide, "svg"), _save(wide, "png"), _save(narrow, "svg"))


def _save(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    buffer = io.BytesIO()
    # No date and no version, so that the bytes depend on the content alone
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def draw_curves(panel: Panel, width: float) -> Figure:
    """Draw faithfulness over size; a wide figure has held-out prompts beside those on which circuits were found.

    Args:
        panel: whose curves.
        width: in inches.
    """
    curves, own = curve_items(panel), own_items(panel)
    wide = width > (WIDE + NARROW) / 2
    figure, axes = _start(panel.title, width, 2 if wide else 1, legend_rows=_legend_rows(panel, wide))
    for ax, split in zip(axes, ("test", "train"), strict=False):
        _set_faithfulness(ax, [item[split] for item in curves + own if item[split] is not None])
        for method in dict.fromkeys(item["method"] for item in curves):
            _draw_curve(ax, panel, [item for item in curves if item["method"] == method], split)
        for item in own:
            _draw_mark(ax, panel, item, "edges", split, size=6.5)
        _set_sizes(ax, max(item["edges"] for item in curves + own))
        ax.set_xlabel("edges in the circuit")
        if wide:
            ax.set_title("held-out prompts" if split == "test" else "prompts on which it was found", fontsize=7.5)
    _name_faithfulness(axes[0], [item["test"] for item in curves + own], held_out=not wide)
    _add_legend(figure, panel, wide, line=True)
    return figure


def draw_costs(panel: Panel, width: float) -> Figure:
    """Draw faithfulness against time and, in a wide figure, against memory.

    Args:
        panel: whose circuits; the cost of at least one is known.
        width: in inches.
    """
    wide = width > (WIDE + NARROW) / 2
    items = cost_items(panel)
    costs = [cost for cost in COSTS if any(item[cost] for item in items)]
    figure, axes = _start(panel.title, width, len(costs) if wide else 1, legend_rows=_legend_rows(panel, wide))
    for ax, cost in zip(axes, costs, strict=False):
        known = [item for item in items if item[cost]]
        front = pareto_front(known, cost)
        _set_faithfulness(ax, [item["test"] for item in known])
        ax.plot([i[cost] for i in front], [_within(i["test"]) for i in front], "--", color=_FAINT, linewidth=0.8)
        most = max(item["edges"] for item in known) or 1
        for item in known:
            _draw_mark(ax, panel, item, cost, "test", size=4 + 6 * math.sqrt(item["edges"] / most))
        _set_cost(ax, [item[cost] for item in known])
        ax.set_xlabel(COSTS[cost][1])
    _name_faithfulness(axes[0], [item["test"] for item in items], held_out=True)
    _add_legend(figure, panel, wide, line=False)
    return figure


def _start(title: str, width: float, columns: int, legend_rows: int) -> tuple[Figure, Sequence[Axes]]:
    below, height = 0.5 + 0.17 * legend_rows, 2.9 + 0.17 * legend_rows
    figure = Figure((width, height))
    lines = textwrap.wrap(_clean(title), int(13 * width))[:2]
    figure.suptitle("\n".join(lines), fontsize=8.5, y=1 - 0.06 / height, va="top", parse_math=False)
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(0.5 / width, below / height, 1 - 0.1 / width, 1 - 0.5 / height, wspace=0.06)
    return figure, list(axes)


def _draw_curve(ax: Axes, panel: Panel, items: Sequence[Item], split: str) -> None:
    look, control = panel.strategies[items[0]["strategy"]], items[0]["control"]
    known = [item for item in items if item[split] is not None]
    x = [item["edges"] for item in known]
    dash = _OF_CONTROL if control else _DASHES[_precision(panel, items[0]) % len(_DASHES)]
    y = [_within(item[split]) for item in known]
    ax.plot(x, y, color=look.color, linestyle=dash, marker=_MARKERS[look.shape], markersize=2.6)
    banded = [item for item in known if item["low"] is not None] if split == "test" else []
    low, high = ([_within(item[end]) for item in banded] for end in ("low", "high"))
    ax.fill_between([item["edges"] for item in banded], low, high, color=look.color, alpha=0.15, linewidth=0)


def _draw_mark(ax: Axes, panel: Panel, item: Item, x: str, split: str, size: float) -> None:
    if item[split] is None:
        return
    look = panel.strategies[item["strategy"]]
    fill = _FILLS[_precision(panel, item) % len(_FILLS)]
    if split == "test" and item["low"] is not None:
        ax.plot([item[x]] * 2, [_within(item["low"]), _within(item["high"])], color=look.color, linewidth=0.9)
    ax.plot(
        [item[x]], [_within(item[split])], color=look.color, marker=_MARKERS[look.shape], markersize=size,
        fillstyle=fill, markerfacecoloralt="white", markeredgecolor="white" if fill == "full" else look.color,
        markeredgewidth=0.6 if fill == "full" else 1.1, zorder=3,
    )  # fmt: skip


def _precision(panel: Panel, item: Item) -> int:
    return list(panel.precisions).index(item["precision"]) if item["precision"] in panel.precisions else 0


def _within(value: float) -> float:
    """Draw what lies beyond the axis at its edge."""
    return min(max(value, LIMITS[0]), LIMITS[1])


def _set_faithfulness(ax: Axes, values: Sequence[float]) -> None:
    low, high = (_within(choose([bound, *values])) for choose, bound in ((min, -0.05), (max, 1.1)))
    ax.set_ylim(low - 0.04, high + 0.04)
    ax.axhline(1, color=_FAINT, linewidth=0.7)
    ax.grid(axis="y", color=_GRID, linewidth=0.5)
    ax.set_axisbelow(True)


def _name_faithfulness(ax: Axes, values: Sequence[float], held_out: bool) -> None:
    cut = any(not LIMITS[0] <= value <= LIMITS[1] for value in values)
    ends = f" (cut at {LIMITS[0]:g} and {LIMITS[1]:g})" if cut else ""
    ax.set_ylabel(f"{'held-out ' * held_out}faithfulness{ends}")


def _set_sizes(ax: Axes, most: float) -> None:
    """Make a logarithmic axis that has a place for 0."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.3)
    ax.set_xlim(0, max(most, 1) * 1.05)
    ticks = size_ticks(most)
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()


def _set_cost(ax: Axes, values: Sequence[float]) -> None:
    low, high = min(values) / 1.4, max(values) * 1.4
    if max(values) < 5 * min(values):
        ax.set_xlim(0, 1.08 * max(values))
        return
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ticks = log_ticks(low, high)
    ax.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    ax.minorticks_off()


def _legend_rows(panel: Panel, wide: bool) -> int:
    count = len(panel.strategies) + len(panel.precisions)
    return math.ceil(count / _LEGEND_COLUMNS[wide])


def _add_legend(figure: Figure, panel: Panel, wide: bool, line: bool) -> None:
    shown: list[tuple[str, Line2D]] = []
    for strategy, look in panel.strategies.items():
        control = strategy in panel.controls
        if line or not control:
            dash = (_OF_CONTROL if control else "-") if line else ""
            mark = Line2D([], [], color=look.color, linestyle=dash, marker=_MARKERS[look.shape], markersize=4)
            shown.append((strategy, mark))
    for number, precision in enumerate(panel.precisions):
        dash, fill = _DASHES[number % len(_DASHES)] if line else "", _FILLS[number % len(_FILLS)]
        marker = None if line else "o"
        mark = Line2D([], [], color=_FAINT, linestyle=dash, marker=marker, fillstyle=fill, markerfacecoloralt="white")
        shown.append((precision, mark))
    columns, handles = min(_LEGEND_COLUMNS[wide], len(shown)), [mark for _, mark in shown]
    # A label that begins with an underscore would be left out, and dollars would begin a formula
    legend = figure.legend(handles, ["x"] * len(shown), loc="lower center", ncols=columns, frameon=False)
    for text, (label, _) in zip(legend.get_texts(), shown, strict=True):
        text.set_parse_math(False)
        name = _clean(label)
        text.set_text(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…")


def _clean(text: str) -> str:
    """Leave out what XML cannot hold."""
    return "".join(one if one.isprintable() else " " for one in text)
