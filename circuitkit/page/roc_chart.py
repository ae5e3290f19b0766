"""The chart of how well methods find the edges of a reference circuit, such as one that was published."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from circuitkit.evaluation.agreement import compute_roc_curve
from circuitkit.evaluation.reference import compute_agreement, load_reference
from circuitkit.page.chart_tables import Item, Panel, round_figure
from circuitkit.page.chart_theme import Chart, Spec, dash_channel, frame_spec, shape_channels, tooltip
from circuitkit.page.run_charts import Run, narrow_panel, pick_runs

_SAMPLES = 80
"""Points of one line, at most."""


def roc_chart(name: str, panel: Panel, runs: Sequence[Run], reference: str | Path) -> Chart | None:
    """Make the chart of the ROC curves of runs; None if there are no runs.

    Args:
        name: its identifier.
        panel: of the same model, task and objective.
        runs: of it.
        reference: see `load_reference`.

    Raises:
        UsageError: the reference cannot be used with the runs' graph.
        CircuitKitError: the reference is damaged.
    """
    shown = pick_runs(runs)
    if not shown:
        return None
    circuit = load_reference(reference, shown[0].result.circuit.graph, shown[0].result.config.get("model"))
    found = {run.method: compute_agreement(run.result.circuit, circuit) for run in shown}
    areas = {method: one.roc_auc for method, one in found.items()}
    items = [item for run in shown for item in _items(run, *compute_roc_curve(run.result.circuit, circuit))]
    best = max(areas, key=lambda method: areas[method])
    of = f"Of {len(areas)} methods, " if len(areas) > 1 else ""
    alternative = f"{of}{best} finds the reference's edges best: area under the ROC curve {areas[best]:.3f}."
    order = sorted(found.items(), key=lambda item: -item[1].roc_auc)
    said = "; ".join(f"{method} {one.roc_auc:.3f}, {one.at_size:.0%}" for method, one in order)
    caption = (
        f"How many of the {len(circuit):,} edges of the reference {Path(reference).name!r} a ranking finds, over how "
        f"many other edges it takes; on the dashed line, by chance. Area, and how many of the first {len(circuit):,} "
        f"edges are the reference's: {said}. Edges that a search kept rank first. "
        "The reference need not be right: faithful circuits can have other edges."
    )
    narrow = narrow_panel(panel, shown)
    spec = frame_spec(
        alternative, 320, _layers(narrow), curves=items, chance=[{"false": end, "true": end} for end in (0, 1)]
    )
    return Chart(name, f"Edges of a reference circuit: {panel.title}", caption, alternative, spec)


def _items(run: Run, false: np.ndarray, true: np.ndarray) -> list[Item]:
    """List the points of a curve; of very many, those at even distances along it."""
    along = np.cumsum(np.hypot(np.diff(false, prepend=0), np.diff(true, prepend=0)))
    places = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _SAMPLES)).clip(max=len(along) - 1))
    label = {"method": run.method, "strategy": run.strategy, "precision": run.precision}
    return [label | {"false": round_figure(float(false[at])), "true": round_figure(float(true[at]))} for at in places]


def _layers(panel: Panel) -> list[Spec]:
    titles = {"false": "other edges taken (fraction)", "true": "edges of the reference found (fraction)"}
    x, y = (
        {"field": field, "type": "quantitative", "title": title, "scale": {"domain": [0, 1]}, "axis": {"tickCount": 6}}
        for field, title in titles.items()
    )
    color = {"color": shape_channels(panel)["color"], "detail": {"field": "method"}}
    hover = tooltip(method="method", **titles)
    return [
        {
            "data": {"name": "chance"},
            "mark": {"type": "line", "style": "reference", "strokeDash": [4, 3]},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "line", "strokeWidth": 2},
            "encoding": {"x": x, "y": y, "order": {"field": "false", "type": "quantitative"}}
            | color
            | dash_channel(panel),
        },
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0},
            "encoding": {"x": x, "y": y, "color": color["color"]} | hover,
        },
    ]
