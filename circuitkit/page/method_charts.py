"""Charts of methods: faithfulness over size, and against what a method costs."""

from collections.abc import Collection, Sequence

from circuitkit.evaluation.intervals import Figure
from circuitkit.page.chart_tables import (
    Item,
    Panel,
    cost_items,
    curve_items,
    group_rows,
    is_faithful,
    own_items,
    pareto_front,
    say_same,
)
from circuitkit.page.chart_theme import (
    Chart,
    Spec,
    cost_axis,
    dash_channel,
    faithfulness_axis,
    fill_channel,
    frame_spec,
    reference_line,
    say_beyond,
    say_fills,
    shape_channels,
    size_axis,
    tooltip,
)
from circuitkit.report.figures import GOOD, format_interval, format_seconds

TESTED = {"test": "held-out faithfulness", "low": "95% from", "high": "95% to", "train": "found-on faithfulness"}
COSTS = {"wall_s": ("time", "seconds of the discovery"), "peak_mb": ("memory", "peak memory of the discovery (MB)")}
"""By column: its name, and the title of the axis."""
_RANGE = f"{GOOD} to {2 - GOOD}"
_VISIBLE = 0.01
"""Curves closer than this hide each other."""
_FADED: Spec = {"opacity": {"condition": {"param": "legend", "value": 1}, "value": 0.1}}


def curves_chart(name: str, panel: Panel) -> Chart:
    """Make the chart of faithfulness over size, held-out beside found-on.

    Args:
        name: its identifier.
        panel: whose curves.
    """
    curves, own = curve_items(panel), own_items(panel)
    known = [item[split] for item in curves + own for split in ("test", "train") if item[split] is not None]
    x = size_axis(max(item["edges"] for item in curves + own), "edges in the circuit")
    y = faithfulness_axis(known)
    alternative = _say_smallest([item for item in curves if not item["control"] and not item["all"]] + own)
    layers = [reference_line(1), *_curve_layers(panel, x, y), *(_own_layers(panel, x, y) if own else [])]
    spec = frame_spec(alternative, 340, layers, curves=curves, own=own)
    return Chart(name, f"Faithfulness over size: {panel.title}", _caption_curves(panel, curves, own), alternative, spec)


def cost_chart(name: str, panel: Panel, cost: str) -> Chart | None:
    """Make the chart of faithfulness against a cost; None if no cost is known.

    Args:
        name: its identifier.
        panel: whose circuits.
        cost: `wall_s` or `peak_mb`.
    """
    items = [item for item in cost_items(panel) if item[cost]]
    if not items:
        return None
    word, axis_title = COSTS[cost]
    front, methods = pareto_front(items, cost), len({item["method"] for item in items})
    x, y = cost_axis([item[cost] for item in items], cost, axis_title), faithfulness_axis([i["test"] for i in items])
    alternative = _say_front(front, methods, cost)
    most = max(item["edges"] for item in items)
    spec = frame_spec(alternative, 300, _cost_layers(panel, x, y, most), items=items, front=front)
    return Chart(name, f"Faithfulness against {word}: {panel.title}", _caption_cost(panel, items), alternative, spec)


def _curve_layers(panel: Panel, x: Spec, y: Spec) -> list[Spec]:
    shape, dash = shape_channels(panel), dash_channel(panel)
    lines = {"x": x, "color": shape["color"], "detail": {"field": "method"}}
    gray, colored = ([{"filter": f"{no}datum.control"}] for no in ("", "!"))
    hover = tooltip(method="method", edges="edges in the circuit", asked="edges asked for", **TESTED)
    return [
        {
            "mark": {"type": "area", "opacity": 0.13, "clip": True},
            "transform": [{"filter": {"param": "legend"}}],
            "encoding": lines | {"y": y | {"field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "line", "strokeWidth": 1, "strokeDash": [1, 3], "clip": True},
            "encoding": lines | {"y": y | {"field": "train"}} | _FADED,
        },
        {
            "mark": {"type": "line", "strokeWidth": 2, "strokeDash": [7, 5], "clip": True},
            "transform": gray,
            "encoding": lines | {"y": y} | _FADED,
        },
        {
            "mark": {"type": "line", "strokeWidth": 2, "clip": True},
            "params": [{"name": "legend", "select": {"type": "point", "fields": ["strategy"]}, "bind": "legend"}],
            "transform": colored,
            "encoding": lines | {"y": y} | dash | _FADED,
        },
        {
            "mark": {"type": "point", "filled": True, "size": 40, "clip": True},
            "encoding": {"x": x, "y": y} | shape | _FADED | hover,
        },
    ]


def _own_layers(panel: Panel, x: Spec, y: Spec) -> list[Spec]:
    shape = shape_channels(panel)
    hover = tooltip(method="method", point="own circuit", edges="edges", **TESTED)
    ends = {"y": y | {"field": "low"}, "y2": {"field": "high"}}
    return [
        {
            "data": {"name": "own"},
            "mark": {"type": "rule", "strokeWidth": 1.5, "clip": True},
            "encoding": {"x": x, "color": shape["color"]} | ends | _FADED,
        },
        {
            "data": {"name": "own"},
            "mark": {"type": "point", "filled": True, "size": 150, "style": "raised", "clip": True},
            "encoding": {"x": x, "y": y} | shape | _FADED | hover,
        },
    ]


def _cost_layers(panel: Panel, x: Spec, y: Spec, most: float) -> list[Spec]:
    shape = shape_channels(panel, searched=True)
    scale = {"type": "sqrt", "domain": [0, most], "range": [50, 450]}
    size = {"size": {"field": "edges", "type": "quantitative", "scale": scale, "legend": None}}
    hover = tooltip(method="method", point="circuit", edges="edges", **TESTED, wall_s="seconds", peak_mb="peak MB")
    cost = x["field"]
    return [
        reference_line(1),
        {
            "data": {"name": "front"},
            "mark": {"type": "line", "style": "reference", "strokeDash": [4, 3], "clip": True},
            "encoding": {"x": x, "y": y, "order": {"field": cost, "type": "quantitative"}},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.6, "clip": True},
            "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": shape["color"]},
        },
        {
            "mark": {"type": "point", "strokeWidth": 2, "opacity": 1, "clip": True},
            "encoding": {"x": x, "y": y, "stroke": shape["color"], "fill": shape["color"], "shape": shape["shape"]}
            | size
            | fill_channel(panel)
            | hover,
        },
    ]


def _say_front(front: Sequence[Item], methods: int, cost: str) -> str:
    if not front:
        return "No circuit is closer to the full model than the ablated model is."
    of = f"Of {methods} methods, " if methods > 1 else ""
    cheapest = f"; the cheapest is that of {_say_cost(front[0], cost)}" if len(front) > 1 else ""
    return f"{of}the circuit of {_say_cost(front[-1], cost)} is closest to the full model{cheapest}."


def _say_cost(item: Item, cost: str) -> str:
    amount = format_seconds(item[cost]) if cost == "wall_s" else f"{item[cost]:,.0f} MB"
    return f"{item['method']} ({_format_item(item)}, {amount})"


def _format_item(item: Item) -> str:
    return format_interval(Figure(item["test"], item["low"], item["high"]))


def _say_smallest(items: Collection[Item]) -> str:
    """Say which method needs the fewest edges, or which is closest to the full model."""
    if not items:
        return "Only random circuits, or only the full model, were measured."
    faithful = [item for item in items if is_faithful(item)]
    if faithful:
        best = min(faithful, key=lambda item: item["edges"])
        what = f"needs the fewest edges for a held-out faithfulness from {_RANGE}"
    else:
        best = min(items, key=lambda item: abs(1 - item["test"]))
        what = f"is closest to the full model, though not from {_RANGE}"
    methods = len({item["method"] for item in items})
    of = f"Of {methods} methods, " if methods > 1 else ""
    return f"{of}{best['method']} {what}: {_format_item(best)} with {best['edges']:,} edges."


def _caption_curves(panel: Panel, curves: Collection[Item], own: Collection[Item]) -> str:
    said = [
        "Higher at the same size is better; 1 is the full model. Solid: held-out prompts, with 95% intervals as bands. "
        "Dotted: the prompts on which the circuits were found; a gap is overfitting."
    ]
    said += ["Dashed gray: random edges."] if panel.controls else []
    said += ["Large marks: circuits that a search chose itself; curves: the first edges by |score|."] if own else []
    said += say_beyond([*curves, *own]) + say_same([*curves, *own], "edges", "test", _VISIBLE)
    seeds = len({row["seed"] for row in panel.rows})
    said.append(f"Means over {seeds} seeds; their spread is not shown." if seeds > 1 else "One seed.")
    if max(len({row["operating_point"] for row in rows}) for _, rows in group_rows(panel.rows, "method")) > 1:
        said.append("Of a method's operating points, the one with the smallest CMD has the curve.")
    return " ".join(said + _say_omitted(panel))


def _caption_cost(panel: Panel, items: Collection[Item]) -> str:
    said = [
        "Near 1 and to the left is better: no circuit beats those on the dashed line in both. Larger marks have more "
        "edges; bars are 95% intervals. A method that only ranks edges has its smallest circuit with a "
        f"faithfulness from {_RANGE} on the prompts on which it was found, or else its best. All circuits of one "
        "search have its whole cost. Costs have no intervals, and leave out loading and evaluation."
    ]
    return " ".join(said + say_fills(panel) + say_beyond(items) + _say_omitted(panel))


def _say_omitted(panel: Panel) -> list[str]:
    return [f"{panel.omitted} more methods, with larger CMD, are in results.csv."] if panel.omitted else []
