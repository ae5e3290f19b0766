"""What a comparison shows: which method is better at a size, and how far methods and seeds agree."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Self

import numpy as np

from circuitkit.circuit.circuit import Circuit
from circuitkit.comparison.grid import Cell
from circuitkit.config import registry
from circuitkit.evaluation.agreement import compute_jaccard, compute_rank_correlation
from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.intervals import (
    PerPrompt,
    compare_in_words,
    describe_difference,
    difference_figure,
    difference_figures,
)
from circuitkit.run.content import CONTENT
from circuitkit.run.result import Result
from circuitkit.storage.text import to_finite

AGREEMENT_COLUMNS = (
    *("model", "task", "objective"),
    *(f"{name}_{which}" for which in ("a", "b") for name in ("strategy", "precision", "seed")),
    *("edges", "jaccard", "jaccard_chance", "jaccard_own", "rank_correlation"),
)
"""Columns of `agreement.csv`, which has a row for each two cells of one model, task and objective.

- `jaccard`: the Jaccard index of the first `edges` edges of both rankings by |score|; `jaccard_chance`: that of two
  random choices of as many edges, on average.
- `jaccard_own`: of the edges that the two methods chose themselves; empty if one only ranks edges.
- `rank_correlation`: Spearman's, of all edges.
"""
_ENDS: tuple[Literal["full", "ablated"], ...] = ("full", "ablated")
_AGREED_FRACTION = 0.05
"""The fraction of the edges whose choice is compared."""

Measured = dict[str, list[tuple[Evaluation, Point]]]
"""A method's points of one size, by hash of the prompts; several of the same prompts differ by seed."""


@dataclass(frozen=True)
class Finished:
    """What of a finished cell is compared: its first circuit, with its evaluation on test.

    Attributes:
        cell: the cell.
        circuit: the first of its circuits.
        evaluation: of that on test.
        prompts: hash of the test prompts.
        circuits: how many the cell has.
    """

    cell: Cell
    circuit: Circuit
    evaluation: Evaluation
    prompts: str
    circuits: int

    @classmethod
    def of(cls, cell: Cell, result: Result) -> Self:
        """Take it from the cell's result, which has an evaluation on test."""
        prompts = str(result.config.get(CONTENT, {}).get("test", ""))
        return cls(cell, result.circuit, result.evaluations["test"][0], prompts, len(result.circuits))

    @property
    def is_random(self) -> bool:
        """Tell whether the cell is a control, one that the grid has added or a strategy of its own."""
        return bool(self.cell.config["strategy"]["class_path"] == registry.class_path("strategies", "random_edges"))

    @property
    def is_full(self) -> bool:
        """Tell whether the search ran in full precision."""
        return bool(self.cell.config["precision"]["class_path"] == registry.class_path("precision", "full"))


def conclude(cells: Iterable[Finished]) -> tuple[list[str], list[dict[str, Any]]]:
    """Compare the methods and seeds of each model, task and objective.

    Args:
        cells: the finished ones; controls that the grid has added are left out.

    Returns:
        Sentences on the best two strategies at each size and on low precision, and the rows of `agreement.csv`
        (`AGREEMENT_COLUMNS`).
    """
    groups: dict[tuple[str, str, str], list[Finished]] = {}
    for one in cells:
        if not one.cell.is_control:
            groups.setdefault((one.cell.model, one.cell.task, one.cell.objective), []).append(one)
    sentences: list[str] = []
    rows: list[dict[str, Any]] = []
    for (model, task, objective), found in groups.items():
        where = f"{task} in {model}, {objective}"
        first = " (of several operating points, the first)" if any(one.circuits > 1 for one in found) else ""
        for head, said in (
            (f"the best two strategies at each size, each in its best precision{first}", compare_strategies(found)),
            (f"low precision beside full precision{first}", compare_precisions(found)),
        ):
            if said:
                sentences += [f"{where}: {head}", *(f"  {one}" for one in said)]
        place = {"model": model, "task": task, "objective": objective}
        rows += [place | row for row in _compute_agreement(found)]
    return sentences, rows


def compare_strategies(found: Sequence[Finished]) -> list[str]:
    """Say for each size how the best two strategies of one model, task and objective compare.

    Faithfulness is compared on the same prompts, those of all seeds that both methods have finished; values of
    seeds with the same prompts are averaged. The best is the one whose faithfulness is closest to 1. Each sentence has
    its own 95% confidence: of many, some are wrong. Random edges take no part.
    """
    methods = [one for one in found if not one.is_random]
    sizes = _find_sizes(methods)
    return [said for fraction in sizes if (said := _compare_at(methods, fraction, sizes[fraction]))]


def compare_precisions(found: Sequence[Finished]) -> list[str]:
    """Say for each strategy and low precision whether its circuits differ from those found in full precision.

    There is a sentence where a strategy was run in both, on the prompts and at the sizes of both; see
    `compare_strategies`.
    """
    methods: dict[tuple[str, bool, str], list[Finished]] = {}
    for one in found:
        if not one.is_random:
            methods.setdefault((one.cell.strategy, one.is_full, one.cell.precision), []).append(one)
    full = {strategy: cells for (strategy, is_full, _), cells in reversed(methods.items()) if is_full}
    return [
        _compare_precision(cells, full[strategy])
        for (strategy, is_full, _), cells in methods.items()
        if not is_full and strategy in full
    ]


def _compute_agreement(found: Sequence[Finished]) -> Iterator[dict[str, Any]]:
    """Compute how far each two cells of one model agree."""
    if len(found) < 2:
        return
    circuits = [one.circuit for one in found]
    edges = len(circuits[0].graph)
    size = max(int(_AGREED_FRACTION * edges), 1)
    shared = size * size / edges  # of two random choices
    first = compute_jaccard([circuit.top(size) for circuit in circuits])
    chosen = [number for number, circuit in enumerate(circuits) if not circuit.is_ranking]
    own = np.full_like(first, np.nan)
    if chosen:
        own[np.ix_(chosen, chosen)] = compute_jaccard([circuits[number] for number in chosen])
    correlation = compute_rank_correlation(circuits)
    for pair in combinations(range(len(found)), 2):
        cells = {which: found[number].cell for which, number in zip("ab", pair, strict=True)}
        yield {
            **{
                f"{name}_{which}": getattr(cell, name)
                for which, cell in cells.items()
                for name in ("strategy", "precision", "seed")
            },
            "edges": size,
            "jaccard": float(first[pair]),
            "jaccard_chance": shared / (2 * size - shared),
            "jaccard_own": to_finite(float(own[pair])),
            "rank_correlation": to_finite(float(correlation[pair])),
        }


def _find_sizes(found: Sequence[Finished]) -> dict[float, int]:
    """Return the sizes of the curves in rising order, with their numbers of edges, except no edges and all edges."""
    points = (point for one in found for point in one.evaluation.curve("absolute"))
    return dict(
        sorted({one.fraction: one.edges_asked for one in points if one.edges_asked and one.fraction < 1}.items())
    )


def _measure(found: Iterable[Finished], fraction: float) -> Measured:
    """Collect the points of one size."""
    measured: Measured = {}
    for one in found:
        for point in one.evaluation.curve("absolute"):
            if point.fraction == fraction and point.faithfulness is not None:
                measured.setdefault(one.prompts, []).append((one.evaluation, point))
    return measured


def _compare_at(found: Sequence[Finished], fraction: float, edges: int) -> str:
    """Compare the best two strategies at one size; empty where there are no two."""
    methods: dict[tuple[str, str], Measured] = {}
    for strategy, precision in dict.fromkeys((one.cell.strategy, one.cell.precision) for one in found):
        of_method = (one for one in found if (one.cell.strategy, one.cell.precision) == (strategy, precision))
        if measured := _measure(of_method, fraction):
            methods[strategy, precision] = measured
    scaled = {method: _mean_faithfulness(_pool(list(of.values()))) for method, of in methods.items()}
    order = sorted((one for one in scaled if np.isfinite(scaled[one])), key=lambda one: abs(1 - scaled[one]))
    of_strategy: dict[str, tuple[str, str]] = {}
    for method in order:
        of_strategy.setdefault(method[0], method)
    best = list(of_strategy.values())[:2]
    if len(best) < 2:
        return ""
    first, second = (f"{strategy} ({precision})" for strategy, precision in best)
    size = f"{_name_size(fraction)}, {edges:,} edge{'s' * (edges != 1)}: "
    common = sorted(set(methods[best[0]]) & set(methods[best[1]]))
    if not common:
        return f"{size}{first} and {second} were measured on different prompts, and are not compared."
    one, other = (_pool([methods[method][prompts] for prompts in common]) for method in best)
    ends = _mean_faithfulness(one), _mean_faithfulness(other)
    if (ends[0] > 1) != (ends[1] > 1):
        return f"{size}{first} and {second} are on different sides of 1: {ends[0]:.2f} and {ends[1]:.2f}."
    difference = difference_figure(one, other)
    return size + compare_in_words(first, second, difference, len(np.asarray(one.values)), lower_is_better=ends[0] > 1)


def _compare_precision(low: Sequence[Finished], full: Sequence[Finished]) -> str:
    """Compare a strategy in a low precision with itself in full precision, at all sizes at once."""
    one, other = (f"{cells[0].cell.strategy} ({cells[0].cell.precision})" for cells in (low, full))
    common = sorted({cell.prompts for cell in low} & {cell.prompts for cell in full})
    if not common:
        return f"{one} and {other} were measured on different prompts, and are not compared."
    curves: dict[float, tuple[PerPrompt, PerPrompt]] = {}
    for fraction in _find_sizes(low):
        measured = _measure(low, fraction), _measure(full, fraction)
        if all(set(common) <= set(points) for points in measured):
            low_pool, full_pool = (_pool([points[prompts] for prompts in common]) for points in measured)
            curves[fraction] = low_pool, full_pool
    if not curves:
        return f"{one} and {other} have no size in common at which faithfulness is defined."
    low_curve, full_curve = (
        PerPrompt(
            np.stack([np.asarray(pair[which].values) for pair in curves.values()]),
            *next(iter(curves.values()))[which][1:],
        )
        for which in (0, 1)
    )
    prompts = f"{np.shape(low_curve.values)[-1]:,} prompts"
    if np.array_equal(np.asarray(low_curve.values), np.asarray(full_curve.values)):
        return f"{one} does as well as {other} at every size, on each of {prompts}."
    figures = difference_figures(low_curve, full_curve)
    differs = [number for number in range(len(curves)) if figures.low[number] > 0 or figures.high[number] < 0]
    sizes = [_name_size(fraction) for fraction in curves]
    shown = {
        number: f"{sizes[number]} (by {describe_difference(figures.figure(number))})" for number in range(len(curves))
    }
    if differs:
        at = ", ".join(shown[number] for number in differs)
        rest = "" if len(differs) == len(curves) else "; elsewhere they cannot be told apart"
        return f"{one} differs from {other} in faithfulness at {at}, with 95% confidence each, on {prompts}{rest}."
    largest = max(shown, key=lambda number: np.nan_to_num(abs(figures.value[number])))
    return f"{prompts} cannot tell {one} and {other} apart at any size; they differ most at {shown[largest]}."


def _name_size(fraction: float) -> str:
    return f"{100 * fraction:.4g}%"


def _pool(found: Sequence[Sequence[tuple[Evaluation, Point]]]) -> PerPrompt:
    """Join different prompts; of the same prompts (inner sequences), average the circuits' values over seeds."""
    return PerPrompt(
        np.concatenate([np.mean([one.per_prompt(point) for one, point in same], axis=0) for same in found]),
        *(np.concatenate([same[0][0].per_prompt(end) for same in found]) for end in _ENDS),
    )


def _mean_faithfulness(pooled: PerPrompt) -> float:
    value, full, ablated = (float(np.mean(np.asarray(part))) for part in pooled)
    return (value - ablated) / (full - ablated) if full != ablated else np.nan
