"""A comparison's tables for the terminal, from the rows of `results.csv`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from circuitkit.evaluation.intervals import Figure
from circuitkit.report.figures import format_figure, format_interval, format_seconds
from circuitkit.report.over_seeds import SeedAverage, average_over_seeds

Row = Mapping[str, Any]

_COLUMNS = 4
"""Maximum number of circuit sizes in a table; `results.csv` has all."""
_WIDTH, _OTHERS = 13, 45
"""Characters of a column of figures, and of the columns of names, areas (as single numbers) and costs together."""
_WIDE = 100
"""Characters of a terminal that has room for the intervals of areas."""
_FEWEST = 5
"""Minimum number of edges of a circuit size in a table."""
_NARROWEST = 18
"""Minimum width of the column of names, in characters; names may wrap, figures may not."""
NOTES = " | "
"""Separates the notes of a row."""
_OF_PRECISION = (
    "precision",
    "edges_tested",
    "forward_equivalents",
    "wall_s",
    "evaluation_s",
    "peak_mb",
    "notes",
    "folder",
)
"""Columns that differ between precisions even where these change no figure."""
CONTROL = "random control"
"""The strategy's label in the rows of a random control."""
LEGEND = """\
Faithfulness is 1 for the full model and 0 for the ablated one. Figures are means over the prompts of the test split,
with 95% intervals over prompts in brackets and, after ±, the standard deviation over seeds.
x%, n: the first n edges: those that the method kept, then the others, each by |score|.
CPR: area under the curve over all sizes, with signed instead of absolute score (1 is good).
CMD: area between the curve and 1, with absolute score (0 is good). Time and peak MB: of the discovery.
"""


def comparison_tables(rows: Sequence[Row], width: int = 140) -> list[Group]:
    """Make the tables of each model, task and objective: faithfulness by size, and the circuits that methods chose.

    There is a line per strategy, precision and operating point, averaged over seeds; precisions with the same figures
    share a line. Below are notes, and a line per failed cell with its reason. `LEGEND` explains the figures.

    Args:
        rows: of `results.csv`.
        width: of the terminal, in characters; a narrow one gets fewer sizes.
    """

    def place(row: Row) -> tuple[str, str, str]:
        return row["model"], row["task"], row["objective"]

    order = list(dict.fromkeys(map(place, rows)))
    grouped = groupby(sorted(rows, key=lambda row: order.index(place(row))), place)
    return [
        _tables(f"{task} in {model}, {objective}", list(group), width) for (model, task, objective), group in grouped
    ]


def shown_sizes(rows: Sequence[Row], count: int = _COLUMNS) -> dict[float, int]:
    """Choose evenly spread fractions, with their number of edges, except the full model and near-empty circuits.

    Args:
        rows: of one model.
        count: the maximum.
    """
    asked = {row["fraction"]: row["edges_asked"] for row in rows if row["ranking"] == "absolute"}
    sizes = sorted(size for size, edges in asked.items() if edges >= _FEWEST and size < 1)
    sizes = sizes or sorted(size for size, edges in asked.items() if edges)
    if len(sizes) > count:
        step = (len(sizes) - 1) / max(count - 1, 1)
        sizes = [sizes[round(index * step)] for index in range(count)] if count > 1 else [sizes[len(sizes) // 2]]
    return {size: asked[size] for size in sizes}


def _tables(name: str, all_rows: Sequence[Row], width: int) -> Group:
    rows, failures = [row for row in all_rows if not row["error"]], map(escape, _failures(all_rows))
    if not rows:
        return Group(f"[bold]{escape(name)}: no cell is finished[/]", *failures)
    seeds, numbers = _count_seeds(rows), [row["prompts_test"] for row in rows]
    prompts = _join_ends(f"{end}" for end in (min(numbers), max(numbers)))
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    title = f"[bold]{escape(name)}: faithfulness on {prompts} test prompts{over}[/]"
    several = len({row["precision"] for row in rows if not _is_control(row)}) > 1
    own = [row for row in rows if row["ranking"] == "own"]
    chosen = [_own_table(own, several, width)] if own else []
    return Group(
        title, _model_line(rows), _size_table(rows, several, width), *chosen, *map(escape, _notes(rows)), *failures
    )


def _model_line(rows: Sequence[Row]) -> str:
    """Say how well the full model itself does the task."""
    parts = []
    if accuracy := _of_model(rows, "accuracy_model", percent=True):
        parts.append(f"right on {accuracy} of the answers")
    if difference := _of_model(rows, "logit_difference_model"):
        parts.append(f"logit difference {difference}")
    if not parts:
        return "The full model's accuracy is not defined."
    where = "" if _share_prompts(rows) else ", on the different test prompts of the rows"
    return escape(f"The full model{where}: {', '.join(parts)}")


def _of_model(rows: Sequence[Row], name: str, percent: bool = False) -> str:
    """Format a figure of the full model, as a range where the rows' test prompts differ; empty if there is none."""
    if not _share_prompts(rows):
        values = [row[name] for row in rows if row[name] is not None]
        ends = (min(values), max(values)) if values else ()
        return _join_ends(format_interval(Figure(end, None, None), percent) for end in ends)
    figure = average_over_seeds(rows, name)
    if percent and figure.value is not None:
        return format_interval(Figure(*figure[:3]), percent=True)
    return _one_line(figure)


def _share_prompts(rows: Sequence[Row]) -> bool:
    """Tell whether all rows of a seed were measured on the same test prompts."""
    return len({(row["seed"], row["prompts_test_hash"]) for row in rows}) == _count_seeds(rows)


def _join_ends(ends: Iterable[str]) -> str:
    """Join the ends of a range, which may be equal."""
    return " to ".join(dict.fromkeys(ends))


def _size_table(rows: Sequence[Row], several: bool, width: int) -> Table:
    fitting = (width - _OTHERS - 2 * (_WIDTH - 5) * (width >= _WIDE)) // _WIDTH - several
    sizes = shown_sizes(rows, min(max(fitting, 1), _COLUMNS))
    heads = [f"{100 * size:.4g}%\n{edges:,}" for size, edges in sizes.items()]
    table = _start_table(several, *heads, "CPR", "CMD", "time", "peak\nMB")
    for strategy, lines in _group_methods(rows):
        of_points = _group(next(iter(lines.values())), "operating_point")
        for number, ((point,), found) in enumerate(of_points):
            signed, absolute = ([row for row in found if row["ranking"] == name] for name in ("signed", "absolute"))
            curve = ([row for row in absolute if row["fraction"] == size] for size in sizes)
            cells = [_two_lines(average_over_seeds(of_size, "faithfulness_test")) for of_size in curve]
            areas = [average_over_seeds(signed, "cpr"), average_over_seeds(absolute, "cmd")]
            cells += [_two_lines(one) if width >= _WIDE else format_figure(one.value) for one in areas]
            # One search, several operating points: its cost is on the first line
            costs = zip(*map(_cost, lines.values()), strict=True)
            cells += map("\n".join, costs) if number == 0 else ["", ""]
            label = (f"{strategy}, {point}" if len(of_points) > 1 else strategy) + _fewer_seeds(found, rows)
            table.add_row(escape(label), *([escape("\n".join(lines))] if several else []), *cells)
    return table


def _own_table(rows: Sequence[Row], several: bool, width: int) -> Table:
    names = {
        "train": "faithfulness_train",
        "test": "faithfulness_test",
        "logit\ndifference": "logit_difference_faithfulness_test",
        "KL": "kl_faithfulness_test",
        "accuracy": "accuracy_circuit",
    }
    fitting = max((width - _OTHERS) // _WIDTH + 1 - several, 2)
    known = [head for head, name in names.items() if any(row[name] is not None for row in rows)]
    names = {head: names[head] for head in known[:fitting]}
    table = _start_table(several, "own\nedges", *names)
    for strategy, lines in _group_methods(rows):
        for (point,), line in _group(next(iter(lines.values())), "operating_point"):
            edges = f"{mean(row['edges'] for row in line):,.0f}"
            cells = [_two_lines(average_over_seeds(line, name)) for name in names.values()]
            label = escape(f"{strategy}, {point}{_fewer_seeds(line, rows)}")
            table.add_row(label, *([escape("\n".join(lines))] if several else []), edges, *cells)
    return table


def _start_table(several: bool, *heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("strategy", min_width=_NARROWEST)
    if several:
        table.add_column("precision")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _group(rows: Sequence[Row], *names: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Group rows by some columns, in the order of their first appearance; the control comes last."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return sorted(groups.items(), key=lambda item: _is_control(item[1][0]))


def _group_methods(rows: Sequence[Row]) -> list[tuple[str, dict[str, list[Row]]]]:
    """Group rows by strategy, then by precision; precisions that change no figure, as of random edges, are together."""
    found: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for (strategy, precision), line in _group(rows, "strategy", "precision"):
        figures = tuple(row[name] for row in line for name in row if name not in _OF_PRECISION)
        found.setdefault((strategy, figures), {})[precision] = line
    return [(strategy, lines) for (strategy, _), lines in found.items()]


def _count_seeds(rows: Sequence[Row]) -> int:
    return len({row["seed"] for row in rows})


def _fewer_seeds(line: Sequence[Row], rows: Sequence[Row]) -> str:
    """Say in a line's name that it is of fewer seeds than its table."""
    seeds, of_table = _count_seeds(line), _count_seeds(rows)
    return "" if seeds == of_table else f", {seeds} of {of_table} seeds"


def _one_line(figure: SeedAverage) -> str:
    return _two_lines(figure).replace("\n", " ")


def _two_lines(figure: SeedAverage) -> str:
    if figure.value is None:
        return ""
    shown = format_figure(figure.value) + ("" if figure.spread is None else f" ±{figure.spread:.2f}")
    if figure.low is None or figure.high is None:
        return escape(shown)
    return escape(f"{shown}\n[{format_figure(figure.low)}, {format_figure(figure.high)}]")


def _cost(rows: Sequence[Row]) -> list[str]:
    walls, peaks = ([row[name] for row in rows if row[name] is not None] for name in ("wall_s", "peak_mb"))
    return [format_seconds(mean(walls)) if walls else "", f"{mean(peaks):,.0f}" if peaks else ""]


def _failures(rows: Sequence[Row]) -> list[str]:
    """List the failed cells with their reasons."""
    failed = [row for row in rows if row["error"]]
    names = (row["strategy"] if _is_control(row) else f"{row['strategy']} ({row['precision']})" for row in failed)
    return [f"Failed: {name}, seed {row['seed']}: {row['error']}" for name, row in zip(names, failed, strict=True)]


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


def _is_control(row: Row) -> bool:
    return bool(row["strategy"] == CONTROL)
