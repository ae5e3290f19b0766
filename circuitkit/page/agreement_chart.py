"""The chart of how far methods choose the same edges."""

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from circuitkit.page.chart_tables import group_rows, name_methods, round_figure
from circuitkit.page.chart_theme import SCHEMA, Chart, Spec, tooltip
from circuitkit.page.content import to_records

if TYPE_CHECKING:
    from pandas import DataFrame

Array = npt.NDArray[np.float64]
Row = dict[str, Any]
Method = tuple[str, str]
"""A strategy and a precision."""

_MOST = 24
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


def mean_jaccard(rows: Sequence[Row]) -> tuple[list[Method], Array]:
    """Average the Jaccard index of each two methods over seeds.

    Two methods are compared on equal seeds, if they have any; a method with itself on different ones.

    Args:
        rows: of one model, task and objective.

    Returns:
        The methods, and the symmetric `[methods, methods]`; NaN where nothing is known.
    """
    found: dict[tuple[Method, Method], dict[bool, list[float]]] = {}
    methods: dict[Method, None] = {}
    for row in rows:
        pair = tuple((str(row[f"strategy_{which}"]), str(row[f"precision_{which}"])) for which in "ab")
        methods |= dict.fromkeys(pair)
        if row["jaccard"] is not None:
            same = row["seed_a"] == row["seed_b"]
            for one, other in {pair, pair[::-1]}:
                found.setdefault((one, other), {}).setdefault(same, []).append(row["jaccard"])
    places = {method: place for place, method in enumerate(methods)}
    similarity = np.full((len(methods), len(methods)), np.nan, dtype=np.float64)
    for (one, other), by_seed in found.items():
        similarity[places[one], places[other]] = np.mean(by_seed.get(True) or by_seed[False])
    return list(methods), similarity


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


def _agreement_chart(name: str, title: str, methods: list[Method], similarity: Array, rows: Sequence[Row]) -> Chart:
    omitted = len(methods) - _MOST
    methods, similarity = methods[:_MOST], similarity[:_MOST, :_MOST]
    order, names = order_by_similarity(similarity), list(name_methods(methods).values())
    items = [
        {"one": names[row], "other": names[column], "jaccard": round_figure(float(similarity[row, column]))}
        for row in order
        for column in order
        if np.isfinite(similarity[row, column])
    ]
    edges = max(row["edges"] for row in rows)
    chance = next((row["jaccard_chance"] for row in rows if row["jaccard_chance"] is not None), None)
    said = [f"The Jaccard index of the first {edges:,} edges by |score|: shared by both / in either, from 0 to 1."]
    said += [] if chance is None else [f"Two random choices share {chance:.2g}."]
    if np.isfinite(np.diag(similarity)).any():
        said.append("Means over seeds; on the diagonal, of one method between different seeds.")
    said.append(
        "Similar methods are neighbors. Agreement does not say which circuit is right: two faithful circuits can share "
        "few edges."
    )
    said += [f"{omitted} more methods are in agreement.csv."] if omitted > 0 else []
    alternative = _say_extremes(methods, names, similarity)
    spec = _heat_map(alternative, [names[index] for index in order], items)
    return Chart(name, title, " ".join(said), alternative, spec)


def _say_extremes(methods: Sequence[Method], names: Sequence[str], similarity: Array) -> str:
    """Say which methods agree most and least: of different strategies, if there are any."""
    pairs = [pair for pair in combinations(range(len(methods)), 2) if np.isfinite(similarity[pair])]
    pairs = [(one, other) for one, other in pairs if methods[one][0] != methods[other][0]] or pairs
    if not pairs:
        return "No two methods were compared."
    most, least = (choose(pairs, key=lambda pair: similarity[pair]) for choose in (max, min))
    said = f"{names[most[0]]} and {names[most[1]]} share the most edges (Jaccard index {similarity[most]:.2f})"
    if len(pairs) > 1:
        said += f", {names[least[0]]} and {names[least[1]]} the fewest ({similarity[least]:.2f})"
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
