"""How charts look: the configuration for light and dark pages, axes, and the channels that tell methods apart."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from circuitkit.page.chart_tables import Item, Panel, round_figure

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_DASHES = ([1, 0], [8, 3], [3, 3], [10, 3, 2, 3])
_FILLS = {"filled": 0.9, "hollow": 0.0, "half-filled": 0.45, "pale": 0.2}
"""Of precisions: dashes of lines, and opacities of the inside of marks."""
_LEGEND: Spec = {"title": None, "symbolOpacity": 1, "columns": 3}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_DECADES = 9
LIMITS = -0.5, 1.5
"""Of axes of faithfulness."""


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        id: for the page; the same for the same content.
        title: what it is about.
        caption: what to look at, and what the chart does not show.
        alternative: one sentence with its main fact, for those who cannot see it.
        spec: Vega-Lite 6, with its data. `chart_config` has the colors of axes and text.
        about_search: whether it shows how circuits were found, not what they are.
    """

    id: str
    title: str
    caption: str
    alternative: str
    spec: Spec
    about_search: bool = False


def chart_config(dark: bool) -> Spec:
    """Return the Vega-Lite configuration of all charts: fonts, and colors that do not stand for a method.

    Args:
        dark: for light marks on dark ground.
    """
    ink, faint, grid = ("#e6e6e6", "#a9adb3", "#3a3f46") if dark else ("#1f2328", "#57606a", "#e3e6ea")
    text = {"labelColor": faint, "titleColor": ink, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": None},
        "axis": text
        | {"gridColor": grid, "domainColor": faint, "tickColor": faint, "titleFontWeight": "normal"}
        | {"labelOverlap": True},
        "legend": text | {"labelColor": ink, "titleFontWeight": "normal", "orient": "bottom", "labelLimit": 240},
        "style": {
            "reference": {"color": faint, "strokeWidth": 1},
            "raised": {"stroke": "#0d1117" if dark else "#ffffff", "strokeWidth": 1.2},
        },
    }


def frame_spec(alternative: str, height: int, layers: Sequence[Spec], **data: Sequence[Any]) -> Spec:
    """Return a chart as wide as its place in the page, with its data.

    Args:
        alternative: for screen readers.
        height: of the plot, in pixels.
        layers: what is drawn; each names its data, or uses the first.
        data: by name.
    """
    return {
        "$schema": SCHEMA,
        "description": alternative,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "datasets": {name: list(items) for name, items in {**data, "one": [{}]}.items()},
        "data": {"name": next(iter(data))},
        "layer": list(layers),
    }


def reference_line(value: float, field: str = "y") -> Spec:
    """Return a line at a value."""
    return {
        "data": {"name": "one"},
        "mark": {"type": "rule", "style": "reference"},
        "encoding": {field: {"datum": value, "type": "quantitative"}},
    }


def shape_channels(panel: Panel, searched: bool = False) -> Spec:
    """Return the encodings of strategies by color and shape, the same in every chart; they share one legend.

    Args:
        panel: of the chart.
        searched: without the controls.
    """
    looks = {name: look for name, look in panel.strategies.items() if not searched or name not in panel.controls}
    channel = {"field": "strategy", "type": "nominal", "legend": _LEGEND}
    return {
        "color": channel | {"scale": {"domain": list(looks), "range": [look.color for look in looks.values()]}},
        "shape": channel | {"scale": {"domain": list(looks), "range": [look.shape for look in looks.values()]}},
    }


def dash_channel(panel: Panel) -> Spec:
    """Return the encoding of precisions by the dash of lines, with a legend if there are several."""
    if len(panel.precisions) < 2:
        return {}
    legend = _LEGEND | {"title": "precision", "symbolType": "stroke", "symbolStrokeColor": "#808080"}
    return {"strokeDash": _precision_channel(panel, _DASHES, legend)}


def fill_channel(panel: Panel) -> Spec:
    """Return the encoding of precisions by the opacity of the inside of marks; Vega has no legend for it."""
    if len(panel.precisions) < 2:
        return {"fillOpacity": {"value": _FILLS["filled"]}}
    return {"fillOpacity": _precision_channel(panel, list(_FILLS.values()), None)}


def say_fills(panel: Panel) -> list[str]:
    """Say in words what `fill_channel` shows."""
    if len(panel.precisions) < 2:
        return []
    kinds = list(_FILLS)
    said = (f"{kinds[number % len(kinds)]}: {name}" for number, name in enumerate(panel.precisions))
    return [f"Marks by precision: {', '.join(said)}."]


def _precision_channel(panel: Panel, kinds: Sequence[Any], legend: Spec | None) -> Spec:
    chosen = [kinds[number % len(kinds)] for number in range(len(panel.precisions))]
    scale = {"domain": list(panel.precisions), "range": chosen}
    return {"field": "precision", "type": "ordinal", "scale": scale, "legend": legend}


def size_axis(most: float, title: str, field: str = "edges") -> Spec:
    """Return the encoding of a number on a logarithmic axis that has a place for 0.

    Args:
        most: the largest number.
        title: of the axis.
        field: that holds the number.
    """
    ticks = size_ticks(most)
    scale = {"type": "symlog", "constant": 1, "domain": [0, most], "nice": False}
    axis = {"values": ticks, "format": ",d", "grid": False}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def size_ticks(most: float) -> list[int]:
    """Return 0 and the powers of 10 up to a number."""
    return [0] + [10**power for power in range(_DECADES) if 10**power <= most]


def cost_axis(values: Sequence[float], field: str, title: str) -> Spec:
    """Return the encoding of a positive number: logarithmic if the values differ by a factor of 5 or more."""
    low, high = min(values) / 1.4, max(values) * 1.4
    if max(values) < 5 * min(values):
        scale, ticks = {"domain": [0, round(1.08 * max(values), 3)], "nice": False}, {}
    else:
        scale = {"type": "log", "domain": [round_figure(low), round_figure(high)], "nice": False}
        ticks = {"values": log_ticks(low, high)}
    axis = {"format": ",~r", "grid": False, "tickCount": 5, **ticks}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of 10 between two positive numbers or, if these are few, 2 and 5 times them too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [[float(f"{step}e{power}") for power in powers for step in steps] for steps in ((1,), (1, 2, 5))]
    inside = [[tick for tick in ticks if low <= tick <= high] for ticks in found]
    return inside[0] if len(inside[0]) > 2 else inside[1]


def faithfulness_axis(values: Sequence[float], title: str = "held-out faithfulness") -> Spec:
    """Return the encoding of a faithfulness: from 0 to 1, and as far beyond as the values go, within `LIMITS`.

    What lies beyond is drawn at the edge.
    """
    low, high = max(min([-0.05, *values]), LIMITS[0]), min(max([1.1, *values]), LIMITS[1])
    scale = {"domain": [round(low - 0.05, 2), round(high + 0.05, 2)], "nice": False, "clamp": True}
    axis = {"tickCount": 6, "format": ".1f"}
    return {"field": "test", "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def say_beyond(items: Iterable[Item]) -> list[str]:
    """Name the methods that have a mark beyond the axis of faithfulness, with the farthest figure."""
    far: dict[str, float] = {}
    for item in items:
        if not LIMITS[0] <= item["test"] <= LIMITS[1]:
            far[item["method"]] = max(item["test"], far.get(item["method"], item["test"]), key=abs)
    said = ", ".join(f"{method} (up to {value:.2f})" for method, value in far.items())
    return [f"Beyond the axis, drawn at its edge: {said}."] if far else []


def tooltip(**titles: str) -> Spec:
    """Return what is shown on hovering: fields with their titles; numbers as they are in the data."""
    return {
        "tooltip": [{"field": field, "title": title, "type": "nominal"} for field, title in titles.items()],
    }
