"""The charts of the page, as Vega-Lite specifications: plain values, for which nothing but a browser is needed.

Read `make_charts` first, then `method_charts`, `agreement_chart` and `run_charts`, which make the kinds of charts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from circuitkit.page.agreement_chart import agreement_charts
from circuitkit.page.chart_tables import (
    Look,
    Panel,
    choose_looks,
    group_rows,
    make_panels,
    name_methods,
    several_precisions,
)
from circuitkit.page.chart_theme import Chart as Chart
from circuitkit.page.chart_theme import chart_config as chart_config
from circuitkit.page.content import Content
from circuitkit.page.method_charts import COSTS, cost_chart, curves_chart
from circuitkit.page.roc_chart import roc_chart
from circuitkit.page.run_charts import Run, history_charts, template_chart

_MOST = 12
"""Charts of one kind."""
_PLACE = ("model", "task", "objective")


def make_charts(content: Content, reference: str | Path | None = None) -> list[Chart]:
    """Make all charts for which a comparison or a run has data.

    Args:
        content: of a folder.
        reference: a circuit whose edges are the right ones, as in `load_reference`. By default there is no chart of how
            well methods find them, since a folder does not tell which edges are right.

    Raises:
        UsageError: the reference cannot be used with a run's graph.
        CircuitKitError: the reference is damaged.
    """
    panels, places = make_panels_of(content), make_panels_of(content, split=False)
    charts = _limit(curves_chart(f"curves-{number}", panel) for number, panel in enumerate(panels, 1))
    for cost, (name, _) in COSTS.items():
        charts += _limit(cost_chart(f"{name}-{number}", panel, cost) for number, panel in enumerate(places, 1))
    charts += _limit(agreement_charts(content.agreement, content.controls))
    return charts + _charts_of_runs(content, reference)


def make_panels_of(content: Content, split: bool = True) -> list[Panel]:
    """Divide what a folder holds into charts; see `make_panels`."""
    return make_panels(content.frame, find_looks(content), content.controls, split)


def _limit(charts: Iterable[Chart | None]) -> list[Chart]:
    """Leave out charts of one kind when there are too many, and say so below the last."""
    found = [chart for chart in charts if chart is not None]
    kept, left = found[:_MOST], len(found) - _MOST
    if left > 0:
        said = f"{kept[-1].caption} {left} more charts of this kind are left out; results.csv has the figures."
        kept[-1] = replace(kept[-1], caption=said)
    return kept


def _charts_of_runs(content: Content, reference: str | Path | None) -> list[Chart]:
    looks = find_looks(content)
    found = [(content.cell_of(folder).labels, result) for folder, result in content.results.items()]
    charts: list[Chart] = []
    for number, (place, group) in enumerate(group_rows([dict(labels) for labels, _ in found], *_PLACE), 1):
        names = name_methods((labels["strategy"], labels["precision"]) for labels in group)
        runs = [
            Run(names[labels["strategy"], labels["precision"]], labels["strategy"], labels["precision"], result)
            for labels, result in found
            if labels in group and labels["strategy"] not in content.controls
        ]
        model, task, objective = place
        panel = Panel(
            title=f"{task} in {model}, {objective}",
            rows=[],
            strategies={strategy: looks[strategy] for strategy in dict.fromkeys(run.strategy for run in runs)},
            controls=[],
            precisions=several_precisions((run.strategy, run.precision) for run in runs),
        )
        charts += history_charts(number, panel, runs)
        if reference is not None:
            charts += _limit([roc_chart(f"roc-{number}", panel, runs, reference)])
        evaluated = [run for run in runs if run.result.evaluations]
        charts += _limit([template_chart(f"templates-{number}", panel, evaluated)])
    return charts


def find_looks(content: Content) -> Mapping[str, Look]:
    """Return how each strategy of the grid looks, finished or not."""
    strategies = [str(cell.labels["strategy"]) for cell in content.cells if cell.labels]
    return choose_looks(list(dict.fromkeys(strategies)), content.controls)
