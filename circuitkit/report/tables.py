"""Tables for the terminal, from the rows of `results.csv` and from evaluations."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.report.figures import format_figure, format_interval, format_seconds

Row = Mapping[str, Any]

_COLUMNS = 4
"""Maximum number of circuit sizes in a table; `results.csv` has all."""
_FEWEST = 5
"""Minimum number of edges of a circuit size in a table."""
_NARROWEST = 18
"""Minimum width of the column of names, in characters; names may wrap, figures may not."""
NOTES = " | "
"""Separates the notes of a row."""
CONTROL = "random control"
"""The strategy's label in the rows of a random control."""
_CAPTION = """\
1 is the full model, 0 the ablated one. Own: the edges that the method chose itself.
x%, n: the top n edges by |score|. Time and peak MB are those of the discovery.
CPR: area under the curve over all sizes, ranked by signed score (1 is good).
CMD: area between the curve and 1, ranked by absolute score (0 is good).
"""


def comparison_tables(rows: Sequence[Row]) -> list[Group]:
    """Make one table per model, task and objective.

    It has one line per strategy, precision and operating point, averaged over seeds.
    """

    def place(row: Row) -> tuple[str, str, str]:
        return row["model"], row["task"], row["objective"]

    done = [row for row in rows if not row["error"]]
    order = list(dict.fromkeys(map(place, done)))
    grouped = groupby(sorted(done, key=lambda row: order.index(place(row))), place)
    several = len({row["objective"] for row in done}) > 1
    named = {place: f"{place[1]} in {place[0]}{f', {place[2]}' if several else ''}" for place in order}
    return [_comparison_table(named[place], list(group)) for place, group in grouped]


def _comparison_table(name: str, rows: Sequence[Row]) -> Group:
    several = len({row["precision"] for row in rows if not _is_control([row])}) > 1
    sizes = _shown_sizes(rows, _COLUMNS - several)
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("strategy", min_width=_NARROWEST)
    if several:
        table.add_column("precision")
    heads = [f"{100 * size:.4g}%\n{edges:,}" for size, edges in sizes.items()]
    for head in ("own\nedges", "own\nvalue", *heads, "CPR", "CMD", "time", "peak\nMB"):
        table.add_column(head, justify="right", no_wrap=True)
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        lines.setdefault((row["strategy"], row["precision"], row["operating_point"]), []).append(row)
    costed: set[tuple[str, str]] = set()
    # The control comes last; `sorted` is stable, so the others keep their order
    for (strategy, precision, operating_point), line in sorted(lines.items(), key=lambda item: _is_control(item[1])):
        own = [row for row in line if row["ranking"] == "own"]
        label = escape(f"{strategy}, {operating_point}" if own else strategy)
        cells = _cells(line, own, sizes)
        if (strategy, precision) in costed:  # one search, several operating points: cost on the first line
            cells[-2:] = ["", ""]
        costed.add((strategy, precision))
        table.add_row(label, *([escape(precision)] if several else []), *cells)
    seeds, prompts = len({row["seed"] for row in rows}), rows[0]["prompts"]
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    title = f"[bold]{escape(name)}: faithfulness on {prompts} test prompts{over}[/]"
    return Group(title, table, _CAPTION, *map(escape, _notes(rows)))


def _notes(rows: Sequence[Row]) -> list[str]:
    """List every note once, with the strategies that it is about unless it is about all."""
    about: dict[str, set[str]] = {}
    for row in rows:
        for note in filter(None, row["notes"].split(NOTES)):
            about.setdefault(note, set()).add(row["strategy"])
    strategies = {row["strategy"] for row in rows}
    return [
        f"Note: {note}" if found == strategies else f"Note ({', '.join(sorted(found))}): {note}"
        for note, found in about.items()
    ]


def _is_control(line: Sequence[Row]) -> bool:
    return bool(line[0]["strategy"] == CONTROL)


def _cells(line: Sequence[Row], own: Sequence[Row], sizes: Iterable[float]) -> list[str]:
    curve = [row for row in line if row["ranking"] == "absolute"]
    at_size = [_mean(row["faithfulness_test"] for row in curve if row["fraction"] == size) for size in sizes]
    edges, faithful = _mean(row["edges"] for row in own), _mean(row["faithfulness_test"] for row in own)
    wall, peak = (_mean(row[name] for row in line) for name in ("wall_s", "peak_mb"))
    return [
        "" if edges is None else f"{edges:,.0f}",
        format_figure(faithful),
        *map(format_figure, at_size),
        format_figure(_mean(row["cpr"] for row in line)),
        format_figure(_mean(row["cmd"] for row in line)),
        "" if wall is None else format_seconds(wall),
        "" if peak is None else f"{peak:,.0f}",
    ]


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
    own = [
        f"{what}: {format_interval(point.searched.faithfulness)}"
        for ranking, what in (("own", "The circuit's own edges"), ("complement", "All others"))
        for point in evaluation.points
        if point.ranking == ranking
    ]
    return [
        escape(head),
        *([escape(". ".join(own))] if own else []),
        *([table] if rankings else []),
        _areas(evaluation),
    ]


def _areas(evaluation: Evaluation) -> str:
    if not evaluation.areas:
        return "No CPR and CMD: they are areas over all of MIB's sizes, where faithfulness is defined."
    lines = [
        f"{ranking}: CPR {format_interval(areas.cpr)}, CMD {format_interval(areas.cmd)}"
        for ranking, areas in evaluation.areas.items()
    ]
    return escape("Areas by ranking (MIB's: CPR signed, CMD absolute): " + "; ".join(lines))


def _shown_sizes(rows: Sequence[Row], count: int) -> dict[float, int]:
    """Choose evenly spread fractions, with their number of edges, except the full model and near-empty circuits."""
    asked = {row["fraction"]: row["edges_asked"] for row in rows if row["ranking"] == "absolute"}
    sizes = sorted(size for size, edges in asked.items() if edges >= _FEWEST and size < 1)
    sizes = sizes or sorted(size for size, edges in asked.items() if edges)
    if len(sizes) > count:
        sizes = [sizes[round(index * (len(sizes) - 1) / (count - 1))] for index in range(count)]
    return {size: asked[size] for size in sizes}


def _mean(values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    return mean(numbers) if numbers else None
