"""Tables of one circuit's evaluation: faithfulness by size and ranking, and what else it tells of the circuit."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.report.figures import (
    describe_completeness,
    describe_control,
    describe_minimality,
    describe_templates,
    format_interval,
)


def evaluation_tables(evaluations: Sequence[Evaluation], title: str) -> Group:
    """Make a table per split of one circuit's evaluation: one line per size, one column per ranking."""
    parts: list[Any] = [f"[bold]{escape(title)}[/]"]
    for evaluation in evaluations:
        parts += _evaluation_table(evaluation)
    notes = dict.fromkeys(note for evaluation in evaluations for note in evaluation.notes)
    return Group(*parts, *(escape(f"Note: {note}") for note in notes))


def _evaluation_table(evaluation: Evaluation) -> list[Any]:
    curves: dict[float, dict[str, Point]] = {}
    for point in evaluation.points:
        if point.ranking not in ("own", "complement"):
            curves.setdefault(point.fraction, {})[point.ranking] = point
    rankings = list(dict.fromkeys(ranking for points in curves.values() for ranking in points))
    table = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("edges", "of all", *rankings):
        table.add_column(name, justify="right")
    for fraction, points in curves.items():
        asked = points[rankings[0]].edges_asked
        if asked:
            cells = (format_interval(points[ranking].searched.faithfulness) for ranking in rankings)
            table.add_row(f"{asked:,}", f"{100 * fraction:.4g}%", *cells)
    on = f"{evaluation.prompts} prompts ({evaluation.split})"
    head = f"Faithfulness in {evaluation.objective} on {on}, with 95% intervals over prompts"
    own = [f"The circuit's own edges: {format_interval(one.searched.faithfulness)}." for one in evaluation.curve("own")]
    said = [*own, describe_completeness(evaluation), describe_minimality(evaluation), describe_templates(evaluation)]
    return [
        escape(head),
        *(escape(line) for line in said if line),
        *([table] if rankings else []),
        _areas(evaluation),
        *([escape(control)] if (control := describe_control(evaluation)) else []),
    ]


def _areas(evaluation: Evaluation) -> str:
    if not evaluation.areas:
        return "No CPR and CMD: they are areas over all of MIB's sizes."
    lines = [
        f"{ranking}: CPR {format_interval(areas.cpr)}, CMD {format_interval(areas.cmd)}"
        for ranking, areas in evaluation.areas.items()
    ]
    return escape("Areas by ranking (MIB's: CPR signed, CMD absolute): " + "; ".join(lines))
