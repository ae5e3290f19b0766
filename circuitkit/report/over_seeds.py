"""A column of a comparison's rows, averaged over seeds."""

from collections.abc import Iterable, Mapping
from math import hypot
from statistics import fmean, stdev
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class SeedAverage(NamedTuple):
    """A mean over seeds, its interval over prompts, and the standard deviation over seeds; None: not known."""

    value: float | None
    low: float | None
    high: float | None
    spread: float | None


def average_over_seeds(rows: Iterable[Row], name: str) -> SeedAverage:
    """Average a column over seeds.

    The errors of seeds with different prompts are independent: the ends of the interval are as far from the mean as the
    root of the summed squares of the seeds' own, divided by their number. Seeds with the same prompts share their
    error, which is averaged.

    Args:
        rows: of `results.csv`, one per seed; of several of one seed the last counts.
        name: of a column with an interval, such as `faithfulness_test`.
    """
    found = [row for row in {row["seed"]: row for row in rows}.values() if row[name] is not None]
    if not found:
        return SeedAverage(None, None, None, None)
    values = [row[name] for row in found]
    value, spread = fmean(values), stdev(values) if len(values) > 1 else None
    if any(row[f"{name}_low"] is None or row[f"{name}_high"] is None for row in found):
        return SeedAverage(value, None, None, spread)
    errors: dict[str, list[tuple[float, float]]] = {}
    for row in found:
        ends = (row[name] - row[f"{name}_low"], row[f"{name}_high"] - row[name])
        errors.setdefault(row["prompts_test_hash"], []).append(ends)
    below, above = (hypot(*(sum(ends[side] for ends in same) for same in errors.values())) for side in (0, 1))
    return SeedAverage(value, value - below / len(found), value + above / len(found), spread)
