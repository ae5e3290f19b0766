"""The chart of how far methods choose the same edges."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from circuitkit.page.chart_tables import group_rows, round_figure
from circuitkit.page.chart_theme import SCHEMA, Chart, Spec, tooltip
from circuitkit.page.content import to_records

if TYPE_CHECKING:
    from pandas import DataFrame

Array = npt.NDArray[np.float64]
Row = dict[str, Any]

_MOST = 30
"""Methods in one chart."""
_STEP, _TEXT_STEP = 26, 30
"""Pixels of a row, and of a column that has room for a number."""


def agreement_charts(frame: "DataFrame", controls: Collection[str]) -> list[Chart]:
    """Make a heat map for each model, task and objective with at least two methods.

    Args:
        frame: with the columns of `agreement.csv`.
        controls: the strategies that choose edges at random, which are left out.
    """
    searched = frame[~(frame["strategy_a"].isin(controls) | frame["strategy_b"].isin(controls))]
    charts: list[Chart] = []
    for (model, task, objective), rows in group_rows(to_records(searched), "model", "task", "objective"):
        methods, similarity = mean_jaccard(rows)
        if len(methods) > 1:
            title = f"Shared edges: {task} in {model}, {objective}"
            charts.append(_agreement_chart(f"agreement-{len(charts) + 1}", title, methods, similarity, rows))
    return charts


def mean_jaccard(rows: Sequence[Row]) -> tuple[list[str], Array]:
    """Average the Jaccard index of each two methods over seeds.

    Two methods are compared on equal seeds, if they have any; a method with itself on different ones.

    Args:
        rows: of one model, task and objective.

    Returns:
        The methods, and the symmetric `[methods, methods]`; NaN where nothing is known.
    """
    found: dict[tuple[str, str], dict[bool, list[float]]] = {}
    names: dict[str, int] = {}
    several = len({row[f"precision_{which}"] for row in rows for which in "ab"}) > 1
    for row in rows:
        pair = tuple(
            f"{row[f'strategy_{which}']} ({row[f'precision_{which}']})" if several else str(row[f"strategy_{which}"])
            for which in "ab"
        )
        names |= {name: len(names) + index for index, name in enumerate(pair) if name not in names}
        if row["jaccard"] is not None:
            same = row["seed_a"] == row["seed_b"]
            for one, other in {pair, pair[::-1]}:
                found.setdefault((one, other), {}).setdefault(same, []).append(row["jaccard"])
    methods = list(names)
    similarity = np.full((len(methods), len(methods)), np.nan, dtype=np.float64)
    for (one, other), by_seed in found.items():
        values = by_seed.get(True) or by_seed[False]
        similarity[methods.index(one), methods.index(other)] = np.mean(values)
    return methods, similarity


def order_by_similarity(similarity: Array) -> list[int]:
    """Order methods so that similar ones are neighbors (average linkage, optimal leaf order).

    Args:
        similarity: symmetric `[methods, methods]`, at most 1; NaN counts as 0.
    """
    if len(similarity) < 3:
        return list(range(len(similarity)))
    distance = 1 - np.nan_to_num(similarity)
    np.fill_diagonal(distance, 0.0)
    return [int(index) for index in leaves_list(linkage(squareform(distance), "average", optimal_ordering=True))]


def _agreement_chart(name: str, title: str, methods: list[str], similarity: Array, rows: Sequence[Row]) -> Chart:
    omitted = len(methods) - _MOST
    methods, similarity = methods[:_MOST], similarity[:_MOST, :_MOST]
    order = order_by_similarity(similarity)
    names = [methods[index] for index in order]
    items = [
        {"one": methods[row], "other": methods[column], "jaccard": round_figure(float(similarity[row, column]))}
        for row in order
        for column in order
        if np.isfinite(similarity[row, column])
    ]
    edges = max(row["edges"] for row in rows)
    chance = next((row["jaccard_chance"] for row in rows if row["jaccard_chance"] is not None), None)
    known = "" if chance is None else f" Two random choices share {chance:.2g}."
    caption = (
        f"The Jaccard index of the first {edges:,} edges by |score|: shared by both / in either, from 0 to 1.{known} "
        "Means over seeds; on the diagonal, of one method between different seeds. Similar methods are neighbors. "
        "Agreement does not say which circuit is right: two faithful circuits can share few edges."
    )
    if omitted > 0:
        caption += f" {omitted} more methods are in agreement.csv."
    alternative = _say_extremes(names, items)
    return Chart(name, title, caption, alternative, _heat_map(alternative, names, items))


def _say_extremes(names: Sequence[str], items: Sequence[Row]) -> str:
    rank = {name: index for index, name in enumerate(names)}
    pairs = [item for item in items if rank[item["one"]] < rank[item["other"]]]
    if not pairs:
        return "No two methods were compared."
    most, least = (choose(pairs, key=lambda item: item["jaccard"]) for choose in (max, min))
    said = f"{most['one']} and {most['other']} share the most edges (Jaccard index {most['jaccard']:.2f})"
    if len(pairs) > 1:
        said += f", {least['one']} and {least['other']} the fewest ({least['jaccard']:.2f})"
    return f"{said}."


def _heat_map(alternative: str, names: Sequence[str], items: Sequence[Row]) -> Spec:
    axis = {"title": None, "domain": False, "ticks": False, "grid": False, "labelOverlap": False, "labelLimit": 130}
    x = {"field": "other", "type": "nominal", "sort": list(names), "axis": axis | {"labelAngle": -50}}
    y = {"field": "one", "type": "nominal", "sort": list(names), "axis": axis}
    scale = {"scheme": "viridis", "domain": [0, 1]}
    legend = {"title": "Jaccard index", "direction": "horizontal", "gradientLength": 160, "tickCount": 3}
    color = {"field": "jaccard", "type": "quantitative", "scale": scale, "legend": legend}
    fits = f"bandwidth('x') >= {_TEXT_STEP} ? 1 : 0"
    return {
        "$schema": SCHEMA,
        "description": alternative,
        "width": "container",
        "height": _STEP * len(names),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "datasets": {"pairs": list(items)},
        "data": {"name": "pairs"},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "mark": {"type": "rect"},
                "encoding": {"color": color} | tooltip(one="method", other="and", jaccard="Jaccard index"),
            },
            {
                "mark": {"type": "text", "fontSize": 11, "opacity": {"expr": fits}, "tooltip": None},
                "encoding": {
                    "text": {"field": "jaccard", "type": "quantitative", "format": ".2f"},
                    "color": {"condition": {"test": "datum.jaccard > 0.5", "value": "#000"}, "value": "#fff"},
                },
            },
        ],
    }
