"""What a comparison shows: which method is better at a size, and how far methods and seeds agree."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from circuitkit.circuit.circuit import Circuit
from circuitkit.comparison.grid import Cell
from circuitkit.evaluation.agreement import compute_rank_correlation
from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.intervals import PerPrompt, compare_in_words, difference_figure
from circuitkit.run.content import CONTENT
from circuitkit.run.result import Result

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


@dataclass(frozen=True)
class Finished:
    """A finished cell, and its first circuit's evaluation on test."""

    cell: Cell
    result: Result

    @property
    def method(self) -> str:
        """Return the cell's name within its group, without the seed."""
        return f"{self.cell.strategy} ({self.cell.precision})"

    @property
    def prompts(self) -> str:
        """Return the hash of the test prompts."""
        return str(self.result.config.get(CONTENT, {}).get("test", ""))

    @property
    def evaluation(self) -> Evaluation:
        """Return the first circuit's evaluation on test."""
        return self.result.evaluations["test"][0]


def conclude(cells: Iterable[Cell], load: Callable[[Cell], Result | None]) -> tuple[list[str], list[dict[str, Any]]]:
    """Compare the methods and seeds of each model, task and objective.

    Args:
        cells: of the grid; controls, and cells without a result, are left out.
        load: reads the result of a cell, if there is one.

    Returns:
        Sentences on the best two methods at each size, and the rows of `agreement.csv` (`AGREEMENT_COLUMNS`).
    """
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.is_control:
            groups.setdefault((cell.model, cell.task, cell.objective), []).append(cell)
    sentences: list[str] = []
    rows: list[dict[str, Any]] = []
    for (model, task, objective), of_group in groups.items():  # one group in memory at a time
        found = [Finished(cell, result) for cell in of_group if (result := load(cell)) and "test" in result.evaluations]
        if said := compare_methods(found):
            sentences += [f"{task} in {model}, {objective}: the best two methods", *(f"  {one}" for one in said)]
        for one, other in combinations(found, 2):
            row: dict[str, Any] = {"model": model, "task": task, "objective": objective}
            for which, finished in (("a", one), ("b", other)):
                row |= {f"{name}_{which}": getattr(finished.cell, name) for name in ("strategy", "precision", "seed")}
            rows.append(row | _agreement(one.result.circuit, other.result.circuit))
    return sentences, rows


def compare_methods(found: Sequence[Finished]) -> list[str]:
    """Say for each size how the best two methods of one model, task and objective compare.

    Faithfulness is compared on the same prompts, those of all seeds that both methods have finished; values of
    seeds with the same prompts are averaged. The best is the one whose faithfulness is closest to 1. Each sentence has
    its own 95% confidence: of many, some are wrong.
    """
    points = (point for one in found for point in one.evaluation.curve("absolute"))
    asked = {point.fraction: point.edges_asked for point in points if point.edges_asked and point.fraction < 1}
    return [said for fraction in sorted(asked) if (said := _compare_at(found, fraction))]


def _agreement(one: Circuit, other: Circuit) -> dict[str, Any]:
    edges = len(one.graph)
    size = max(int(_AGREED_FRACTION * edges), 1)
    own = None if one.is_ranking or other.is_ranking else one.jaccard(other)
    correlation = float(compute_rank_correlation([one, other])[0, 1])
    shared = size * size / edges  # of two random choices
    return {
        "edges": size,
        "jaccard": one.top(size).jaccard(other.top(size)),
        "jaccard_chance": shared / (2 * size - shared),
        "jaccard_own": own,
        "rank_correlation": correlation if np.isfinite(correlation) else None,
    }


def _compare_at(found: Sequence[Finished], fraction: float) -> str:
    """Compare the best two methods at one size; empty where there are no two."""
    methods: dict[str, dict[str, list[tuple[Evaluation, Point]]]] = {}  # by method, then by hash of the prompts
    for one in found:
        for point in one.evaluation.curve("absolute"):
            if point.fraction == fraction and point.faithfulness is not None:
                methods.setdefault(one.method, {}).setdefault(one.prompts, []).append((one.evaluation, point))
    if len(methods) < 2:
        return ""
    scaled = {name: _mean_faithfulness(_pool(list(of.values()))) for name, of in methods.items()}
    best = sorted((name for name in scaled if np.isfinite(scaled[name])), key=lambda name: abs(1 - scaled[name]))[:2]
    if len(best) < 2:
        return ""
    first, second = best
    edges = next(point.edges_asked for by_prompts in methods.values() for [(_, point), *_] in by_prompts.values())
    size = f"{100 * fraction:.4g}%, {edges:,} edge{'s' * (edges != 1)}: "
    common = sorted(set(methods[first]) & set(methods[second]))
    if not common:
        return f"{size}{first} and {second} were measured on different prompts, and are not compared."
    pooled = {name: _pool([methods[name][prompts] for prompts in common]) for name in best}
    scaled = {name: _mean_faithfulness(pooled[name]) for name in best}
    if (scaled[first] > 1) != (scaled[second] > 1):
        ends = f"{scaled[first]:.2f} and {scaled[second]:.2f}"
        return f"{size}{first} and {second} are on different sides of 1: {ends}."
    difference = difference_figure(pooled[first], pooled[second])
    prompts = len(np.asarray(pooled[first].values))
    return size + compare_in_words(first, second, difference, prompts, lower_is_better=scaled[first] > 1)


def _pool(found: Sequence[Sequence[tuple[Evaluation, Point]]]) -> PerPrompt:
    """Join different prompts; of the same prompts (inner sequences), average the circuits' values over seeds."""
    return PerPrompt(
        np.concatenate([np.mean([one.per_prompt(point) for one, point in same], axis=0) for same in found]),
        *(np.concatenate([same[0][0].per_prompt(end) for same in found]) for end in _ENDS),
    )


def _mean_faithfulness(pooled: PerPrompt) -> float:
    value, full, ablated = (float(np.mean(np.asarray(part))) for part in pooled)
    return (value - ablated) / (full - ablated) if full != ablated else np.nan
