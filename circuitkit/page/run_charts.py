"""Charts of single runs: how a search or a training went, and how faithful its circuit is per template."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.page.chart_tables import Item, Panel, pick_size, round_figure, say_same
from circuitkit.page.chart_theme import (
    Chart,
    Spec,
    dash_channel,
    faithfulness_axis,
    frame_spec,
    reference_line,
    say_beyond,
    shape_channels,
    tooltip,
)
from circuitkit.page.evidence import join_names
from circuitkit.run.result import Result

_MOST = 8
"""Runs in one chart: one of each strategy."""
_SAMPLES = 60
"""Points of one line."""
_TEMPLATES = 24
"""Templates in one chart."""


@dataclass(frozen=True)
class Run:
    """A result with the name of its method, as in the other charts."""

    method: str
    strategy: str
    precision: str
    result: Result


@dataclass(frozen=True)
class _History:
    """What a chart shows of `metrics.csv`: two columns, and words for them."""

    x: str
    y: str
    title: str
    x_title: str
    y_title: str
    caption: str


_HISTORIES = {
    "search": _History(
        "tested",
        "kept",
        "How searches went",
        "edges tested",
        "edges kept so far",
        "A search goes from the logits down to the input: a rise shows where edges matter, a flat part where all were "
        "removed. One line per threshold. The objective during the search is not recorded.",
    ),
    "objective": _History(
        "steps",
        "objective",
        "How training went",
        "steps",
        "objective on the batch",
        "The objective of the masked model on the training batch of each step, lower is better. Not shown: held-out "
        "prompts.",
    ),
    "sparsity": _History(
        "steps",
        "sparsity",
        "How edges closed in training",
        "steps",
        "expected fraction of edges removed",
        "The expected fraction of edges that the masks remove. A strategy with a target "
        "rounds the circuit to its size after the last step.",
    ),
}


def history_charts(number: int, panel: Panel, runs: Sequence[Run]) -> list[Chart]:
    """Make the charts of how searches and trainings went.

    Args:
        number: at the end of the charts' identifiers.
        panel: of the same model, task and objective.
        runs: of it.
    """
    charts = []
    for kind, about in _HISTORIES.items():
        found = [run for run in runs if read_history(run.result.history, about.x, about.y)]
        if found:
            shown = pick_runs(found)
            charts.append(_history_chart(f"{kind}-{number}", narrow_panel(panel, shown), shown, about, len(found)))
    return charts


def read_history(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> list[list[tuple[float, float]]]:
    """Read two columns of `metrics.csv`, whose values may be text: a list of points per search.

    The rows of several thresholds or targets follow each other: a search begins where `x` falls.

    Args:
        rows: of the file.
        x, y: names of columns; rows without a number in both are left out.
    """
    searches: list[list[tuple[float, float]]] = []
    for row in rows:
        point = _number(row.get(x)), _number(row.get(y))
        if not all(map(math.isfinite, point)):
            continue
        if not searches or point[0] < searches[-1][-1][0]:
            searches.append([])
        searches[-1].append(point)
    return searches


def _number(value: Any) -> float:
    """Return the number of a cell of `metrics.csv`; NaN for an empty one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def pick_runs(runs: Sequence[Run]) -> list[Run]:
    """Return the first run of each strategy, which is its best one."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.strategy, run)
    return list(first.values())[:_MOST]


def narrow_panel(panel: Panel, runs: Sequence[Run]) -> Panel:
    """Leave out the strategies and precisions that no run has."""
    strategies = {run.strategy for run in runs}
    looks = {strategy: look for strategy, look in panel.strategies.items() if strategy in strategies}
    precisions = list(dict.fromkeys(run.precision for run in runs)) if panel.precisions else []
    return replace(panel, strategies=looks, precisions=precisions)


def _history_chart(name: str, panel: Panel, runs: Sequence[Run], about: _History, found: int) -> Chart:
    items: list[Item] = []
    for run in runs:
        searches = read_history(run.result.history, about.x, about.y)
        circuits = run.result.circuits
        for number, points in enumerate(searches):
            point = circuits[number].selection if len(searches) == len(circuits) else f"search {number + 1}"
            label = {"method": run.method, "strategy": run.strategy, "precision": run.precision, "point": point}
            items += [
                label | {"line": f"{run.method} {number}", about.x: round_figure(one), about.y: round_figure(other)}
                for one, other in _thin(points)
            ]
    x: Spec = {
        "field": about.x,
        "type": "quantitative",
        "title": about.x_title,
        "axis": {"grid": False, "tickCount": 6},
    }
    y: Spec = {"field": about.y, "type": "quantitative", "title": about.y_title, "axis": {"tickCount": 6}}
    ends = [min(0.0, *(item[about.y] for item in items)), max(0.0, *(item[about.y] for item in items))]
    y["scale"] = {"domain": [round_figure(1.05 * end) for end in ends], "nice": False}
    channels = {"color": shape_channels(panel, searched=True)["color"]} | dash_channel(panel)
    hover = tooltip(method="method", point="circuit", **{about.x: about.x_title, about.y: about.y_title})
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"x": x, "y": y, "detail": {"field": "line"}} | channels,
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0},
            "encoding": {"x": x, "y": y, "color": channels["color"]} | hover,
        },
    ]
    last = items[-1] if len(runs) == 1 else max(items, key=lambda item: item[about.x])
    alternative = (
        f"The {'search' if about.x == 'tested' else 'training'} of {last['method']} ends after "
        f"{last[about.x]:,.0f} {about.x_title}; {about.y_title}: {last[about.y]:,.4g}."
    )
    said = [about.caption, *_say_penalty(runs, about), *say_same(items, about.x, about.y, slack=0)]
    if found > len(runs):
        said.append(f"One run per strategy: the best precision, the first seed; {found - len(runs)} are left out.")
    caption = " ".join(said)
    title = f"{about.title}: {panel.title}"
    return Chart(
        name, title, caption, alternative, frame_spec(alternative, 260, layers, history=items), about_search=True
    )


def _say_penalty(runs: Sequence[Run], about: _History) -> list[str]:
    """Say what sampled masks and a penalty do to the objective, and of which runs if not of all."""
    found = [run.method for run in runs if any(read_history(run.result.history, about.x, "penalty"))]
    if about.y != "objective" or not found:
        return []
    of = "" if len(found) == len(runs) else f" of {join_names(found, _MOST)}"
    return [f"The line{of} is noisy, since masks are sampled, and rises as the penalty, not shown, closes edges."]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points evenly; the first and the last stay."""
    if len(points) <= _SAMPLES:
        return list(points)
    return [points[round(index * (len(points) - 1) / (_SAMPLES - 1))] for index in range(_SAMPLES)]


def template_chart(name: str, panel: Panel, runs: Sequence[Run]) -> Chart | None:
    """Make the chart of held-out faithfulness per template; None if the prompts are of one template or of none.

    Args:
        name: its identifier.
        panel: of the same model, task and objective.
        runs: of it, evaluated, the best first.
    """
    shown = pick_runs(runs)
    panel = narrow_panel(panel, shown)
    items = [item for run in shown for item in template_items(run)]
    worst: dict[str, float] = {}
    for item in items:
        worst[item["template"]] = min(item["test"], worst.get(item["template"], item["test"]))
    if len(worst) < 2:
        return None
    kept = sorted(worst, key=lambda template: worst[template])[:_TEMPLATES]
    items = [item for item in items if item["template"] in kept]
    order = sorted(kept, key=_natural)
    channel: Spec = {"field": "template", "type": "nominal", "sort": order, "title": "template"}
    y = channel | {"axis": {"grid": True, "labelLimit": 120, "ticks": False}}
    x = faithfulness_axis([item["test"] for item in items])
    shape = shape_channels(panel, searched=True)
    offset = {"yOffset": {"field": "method", "type": "nominal", "sort": [run.method for run in shown]}}
    hover = tooltip(
        method="method",
        template="template",
        test="held-out faithfulness",
        low="95% from",
        high="95% to",
        prompts="prompts",
        edges="edges",
    )
    layers = [
        reference_line(1, "x"),
        {
            "mark": {"type": "rule", "strokeWidth": 1.2, "opacity": 0.6, "clip": True},
            "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "y": y, "color": shape["color"]} | offset,
        },
        {
            "mark": {"type": "point", "filled": True, "size": 55, "opacity": 0.9, "clip": True},
            "encoding": {"x": x, "y": y} | offset | shape | hover,
        },
    ]
    low = min(items, key=lambda item: item["test"])
    alternative = (
        f"The lowest held-out faithfulness on one template is {low['test']:.2f}: {low['method']} on template "
        f"{low['template']}, with {low['prompts']} prompts."
    )
    caption = (
        "Each row is a template of the prompts; 1 is the full model. The circuits are those of the cost charts, of "
        "each strategy's best precision and first seed. On a template far to the left the circuit fails. A template "
        "with fewer than 5 prompts has no interval."
    )
    caption = " ".join([caption, *say_beyond(items)])
    if len(worst) > len(kept):
        caption += f" {len(worst) - len(kept)} more templates, with higher faithfulness, are left out."
    height = len(order) * max(18, 7 * len(shown))
    spec = frame_spec(alternative, height, layers, templates=items)
    return Chart(name, f"Faithfulness per template: {panel.title}", caption, alternative, spec)


def template_items(run: Run) -> list[Item]:
    """List the held-out faithfulness of a run's first circuit on each template; of a ranking, at the size of its cost.

    Args:
        run: with evaluations.
    """
    if not {"train", "test"} <= run.result.evaluations.keys():
        return []
    train, test = (run.result.evaluations[split][0] for split in ("train", "test"))
    point = choose_point(train, test)
    if point is None:
        return []
    counts = {template: test.templates.count(template) for template in set(test.templates)}
    found = []
    for template, measured in test.by_template(point).items():
        if measured.faithfulness is not None and measured.faithfulness.value is not None:
            value, low, high = map(round_figure, measured.faithfulness)
            label = {"method": run.method, "strategy": run.strategy, "precision": run.precision, "edges": point.edges}
            figures = {"test": value, "low": low, "high": high, "prompts": counts[template]}
            found.append(label | {"template": template} | figures)
    return found


def choose_point(train: Evaluation, test: Evaluation) -> Point | None:
    """Choose the point of a circuit that charts show: its own or, of a ranking, the one that `pick_size` chooses."""
    if own := test.curve("own"):
        return own[0]
    items = [{"train": point.faithfulness, "all": point.fraction == 1} for point in train.curve("absolute")]
    return next((test.curve("absolute")[index] for index in pick_size(items)), None)


def _natural(template: str) -> tuple[int, int, str]:
    return (0, int(template), "") if template.isdecimal() else (1, 0, template)
