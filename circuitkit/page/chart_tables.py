"""What charts and pictures show of a comparison's rows: means over seeds, as many as can be read."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from circuitkit.page.content import to_records
from circuitkit.report.figures import GOOD
from circuitkit.report.over_seeds import average_over_seeds
from circuitkit.report.palette import METHODS, color_methods

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]
Item = dict[str, Any]
"""What a chart draws as one mark: plain values, as in JSON."""

_TOGETHER = 8
"""With more methods than this, each precision has a chart of its own."""
_MOST, _MOST_COSTS = 12, 24
"""Methods in one chart, and in one of costs."""
_DIGITS = 4
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left")
_FIGURES = ("faithfulness_test", "faithfulness_train")
_COLUMNS = (
    *("model", "task", "objective", "strategy", "precision", "operating_point", "ranking", "seed", "fraction"),
    *("edges_asked", "edges", "cmd", "wall_s", "peak_mb", "prompts_test", "prompts_test_hash"),
    *(f"{name}{end}" for name in _FIGURES for end in ("", "_low", "_high")),
)


class Look(NamedTuple):
    """How a strategy looks in all charts: its color, and its shape as Vega names it, to tell it apart without color."""

    color: str
    shape: str


@dataclass(frozen=True)
class Panel:
    """The rows of one chart: of one model, task and objective and, if there are many methods, one precision.

    Attributes:
        title: names them.
        rows: of `results.csv`, without those of failed cells; each with the name of its method: the strategy and, where
            the chart has several, the precision.
        strategies: and how they look.
        controls: the strategies that choose edges at random.
        precisions: told apart in the chart; empty unless a strategy that is no control has several.
        omitted: how many methods are left out: those with the largest CMD.
    """

    title: str
    rows: Sequence[Row]
    strategies: Mapping[str, Look]
    controls: Collection[str]
    precisions: Sequence[str]
    omitted: int = 0


def round_figure(value: float | None) -> float | None:
    """Round to 4 significant digits; None for what is not finite, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}") + 0.0  # no negative zero


def choose_looks(strategies: Sequence[str], controls: Collection[str]) -> dict[str, Look]:
    """Choose how each strategy looks in all charts.

    Args:
        strategies: in the order of the grid.
        controls: those that choose edges at random.
    """
    colors = color_methods(strategies, controls)
    searched = [strategy for strategy in strategies if strategy not in controls]
    shapes = {
        strategy: _SHAPES[(number + number // len(METHODS)) % len(_SHAPES)] for number, strategy in enumerate(searched)
    }
    return {strategy: Look(colors[strategy], shapes.get(strategy, "cross")) for strategy in strategies}


def make_panels(
    frame: "DataFrame", looks: Mapping[str, Look], controls: Collection[str], split: bool = True
) -> list[Panel]:
    """Divide a comparison's rows into charts.

    Args:
        frame: with the columns of `circuitkit.comparison.rows`.
        looks: of every strategy.
        controls: the strategies that choose edges at random.
        split: give each precision a chart of its own if there are many methods.
    """
    rows = to_records(frame.loc[(frame["error"] == "") & frame["faithfulness_test"].notna(), list(_COLUMNS)])
    panels = []
    for (model, task, objective), of_place in group_rows(rows, "model", "task", "objective"):
        title = f"{task} in {model}, {objective}"
        searched = [row for row in of_place if row["strategy"] not in controls]
        precisions = list(dict.fromkeys(row["precision"] for row in searched))
        if split and len(precisions) > 1 and len(list(group_rows(searched, "strategy", "precision"))) > _TOGETHER:
            for precision in precisions:
                of_one = [row for row in of_place if row["precision"] == precision or row["strategy"] in controls]
                panels.append(_make_panel(f"{title}, precision {precision}", of_one, controls, looks, _MOST))
        else:
            panels.append(_make_panel(title, of_place, controls, looks, _MOST if split else _MOST_COSTS))
    return panels


def curve_items(panel: Panel) -> list[Item]:
    """List the points of the curves over size: the first edges by |score|.

    A method with several operating points has the curve of the one with the smallest CMD.
    """
    found = []
    for (method,), of_method in group_rows(_ranked(panel.rows), "method"):
        points = [rows for _, rows in group_rows(of_method, "operating_point")]
        best = min(points, key=_mean_cmd)
        found += [_item(method, rows, panel) for _, rows in group_rows(best, "fraction")]
    return found


def own_items(panel: Panel) -> list[Item]:
    """List the circuits that methods chose themselves, one per operating point."""
    own = [row for row in panel.rows if row["ranking"] == "own"]
    groups = group_rows(own, "method", "operating_point")
    return [_item(method, rows, panel) | {"point": point} for (method, point), rows in groups]


def cost_items(panel: Panel) -> list[Item]:
    """List what each method's circuit costs and how faithful it is, one per method and operating point.

    A method that only ranks edges has the smallest of the evaluated sizes that is faithful on the prompts on which it
    was found; if none is, the most faithful one.
    """
    found = own_items(panel)
    chosen = {item["method"] for item in found}
    for (method, point), rows in group_rows(_ranked(panel.rows), "method", "operating_point"):
        if method not in chosen and rows[0]["strategy"] not in panel.controls:
            sizes = [_item(method, of_size, panel) for _, of_size in group_rows(rows, "fraction")]
            found += [sizes[index] | {"point": f"{point}, first by |score|"} for index in pick_size(sizes)]
    costs = {
        name: {method: _mean_of(rows, name) for (method,), rows in group_rows(panel.rows, "method")}
        for name in ("wall_s", "peak_mb")
    }
    return [item | {name: round_figure(of[item["method"]]) for name, of in costs.items()} for item in found]


def name_methods(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name methods: by the strategy, and by the precision too if any strategy has several.

    Args:
        pairs: of strategy and precision.
    """
    found = list(dict.fromkeys(pairs))
    several = several_precisions(found)
    return {pair: f"{pair[0]} ({pair[1]})" if several else pair[0] for pair in found}


def several_precisions(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return the precisions, if they must be told apart: if any strategy has several.

    Args:
        pairs: of strategy and precision.
    """
    found = list(dict.fromkeys(pairs))
    if len({strategy for strategy, _ in found}) == len(found):
        return []
    return list(dict.fromkeys(precision for _, precision in found))


def is_faithful(item: Mapping[str, Any], split: str = "test") -> bool:
    """Tell whether a faithfulness is close to 1: neither is behavior missing, nor is the circuit far beyond the model.

    Args:
        item: with the figures `test` and `train`.
        split: which of them.
    """
    return item[split] is not None and GOOD <= item[split] <= 2 - GOOD


def pick_size(items: Sequence[Mapping[str, Any]]) -> list[int]:
    """Choose a size of a ranking, without looking at held-out prompts.

    Args:
        items: with the figure `train`, sorted by size; the last is left out if it is the full model.

    Returns:
        The index of the first that is faithful or else of the one closest to 1; nothing if there is none.
    """
    known = [index for index, item in enumerate(items) if item["train"] is not None and not item["all"]]
    faithful = [index for index in known if is_faithful(items[index], "train")]
    return faithful[:1] or sorted(known, key=lambda index: abs(1 - items[index]["train"]))[:1]


def say_same(items: Iterable[Item], x: str, y: str, slack: float) -> list[str]:
    """Name the methods whose marks coincide, as one hides the other.

    Args:
        items: of all methods, in the order in which they are drawn.
        x, y: the figures that place a mark.
        slack: how far apart two y may be; two x may differ by 5%.
    """

    def coincide(one: Sequence[Item], other: Sequence[Item]) -> bool:
        return len(one) == len(other) and all(
            math.isclose(a[x], b[x], rel_tol=0.05, abs_tol=1) and abs(a[y] - b[y]) <= slack
            for a, b in zip(one, other, strict=True)
        )

    groups: list[list[tuple[str, list[Item]]]] = []
    for (method,), drawn in group_rows(items, "method"):
        group = next((group for group in groups if coincide(group[0][1], drawn)), None)
        if group is None:
            groups.append(group := [])
        group.append((method, drawn))
    names = [[method for method, _ in group] for group in groups if len(group) > 1]
    return [f"{', '.join(of_one[:-1])} and {of_one[-1]} coincide." for of_one in names]


def pareto_front(items: Iterable[Item], cost: str) -> list[Item]:
    """List those that no other beats: none is as cheap and closer to 1, nor as close to 1 and cheaper.

    Those that are no closer to the full model than the ablated model is are left out.

    Args:
        items: with the figure `test`.
        cost: the name of the figure that should be small.

    Returns:
        From the cheapest to the one closest to 1.
    """
    front: list[Item] = []
    near = (item for item in items if abs(1 - item["test"]) < 1)
    for item in sorted(near, key=lambda item: (item[cost], abs(1 - item["test"]))):
        if not front or abs(1 - item["test"]) < abs(1 - front[-1]["test"]):
            front.append(item)
    return front


def group_rows(rows: Iterable[Row], *names: str) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Group rows by some columns, in the order of their first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    yield from groups.items()


def _make_panel(
    title: str, rows: Sequence[Row], controls: Collection[str], looks: Mapping[str, Look], most: int
) -> Panel:
    searched = [row for row in rows if row["strategy"] not in controls]
    pairs = dict(group_rows(searched, "strategy", "precision"))
    of_methods = {name: pairs[pair] for pair, name in name_methods(pairs).items()}
    kept = sorted(of_methods, key=lambda method: _mean_cmd(_ranked(of_methods[method])))[:most]
    found = [row | {"method": method} for method in of_methods if method in kept for row in of_methods[method]]
    found += [row | {"method": row["strategy"]} for row in rows if row["strategy"] in controls]
    shown = dict.fromkeys(row["strategy"] for row in found)
    return Panel(
        title=title,
        rows=found,
        strategies={strategy: looks[strategy] for strategy in shown},
        controls=[strategy for strategy in shown if strategy in controls],
        precisions=several_precisions(pairs),
        omitted=len(of_methods) - len(kept),
    )


def _ranked(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["ranking"] == "absolute"]


def _mean_cmd(rows: Iterable[Row]) -> float:
    found = [row["cmd"] for row in rows if row["cmd"] is not None]
    return mean(found) if found else float("inf")


def _mean_of(rows: Iterable[Row], name: str) -> float | None:
    of_seeds = {row["seed"]: row[name] for row in rows if row[name] is not None}
    return mean(of_seeds.values()) if of_seeds else None


def _item(method: str, rows: Sequence[Row], panel: Panel) -> Item:
    test, train = (average_over_seeds(rows, name) for name in _FIGURES)
    edges = mean(row["edges"] for row in rows)
    return {
        "method": method,
        "strategy": rows[0]["strategy"],
        "precision": rows[0]["precision"],
        "control": rows[0]["strategy"] in panel.controls,
        "edges": int(edges) if edges == int(edges) else round(edges, 1),
        "asked": rows[0]["edges_asked"],
        "all": rows[0]["fraction"] == 1,
        **{
            name: round_figure(getattr(test, part))
            for name, part in (("test", "value"), ("low", "low"), ("high", "high"))
        },
        "train": round_figure(train.value),
    }
