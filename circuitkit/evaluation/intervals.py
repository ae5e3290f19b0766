"""Figures over prompts with 95% intervals: means, faithfulness, CPR and CMD, proportions, differences of two methods.

The interval says how much a figure would change with other prompts of the same task. It is a bootstrap over prompts
(`scipy.stats.bootstrap`): a resample draws as many prompts as there are, with replacement, and all columns of a prompt
(the circuit's value at every size, the full and the ablated model's) go together. All figures of one number of prompts
and one seed use the same resamples. Everything is float64.

The ends are percentiles of the resampled figures. For few prompts these are too close together, and so they are taken
at the level that makes the interval of a normal mean as wide as Student's (Hesterberg 2015, arXiv 1411.5279: the
expanded percentile interval). In simulations, BCa intervals were better for skewed means of few prompts and no better
for ratios, and they are not defined for equal values; see docs/explanation/intervals.md.

A number that is not defined is NaN in arrays (`Figures`) and None in a `Figure`, which can be written as JSON.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from circuitkit.errors import UsageError

LEVEL = 0.95
"""The confidence level of every interval."""
RESAMPLES = 9999
"""Resamples per interval: its ends move by about 1% of its width with another seed."""

FEWEST = 5
"""With fewer prompts there is no interval: resamples of 4 prompts cover the true mean in 84 to 88% of cases only."""

Array = npt.NDArray[np.float64]
_ENOUGH = 100_000
"""More prompts than this are not worth a number."""


class Figure(NamedTuple):
    """A number with its 95% interval over prompts; None where it is not defined or not known."""

    value: float | None
    low: float | None
    high: float | None


class Figures(NamedTuple):
    """Numbers with their 95% intervals, float64 arrays of one shape; NaN where not defined or not known."""

    value: Array
    low: Array
    high: Array

    def figure(self, *index: int) -> Figure:
        """Return one of the numbers; without an index, the only one."""
        value, low, high = (float(part[index]) for part in self)
        if np.isfinite([value, low, high]).all():
            return Figure(value, low, high)
        return Figure(value if np.isfinite(value) else None, None, None)


class PerPrompt(NamedTuple):
    """What was measured on each prompt; its figure is faithfulness or, without both ends, the mean of the values.

    Attributes:
        values: the circuit's `[..., prompts]`.
        full, ablated: the full and the ablated model's `[prompts]`.
    """

    values: npt.ArrayLike
    full: npt.ArrayLike | None = None
    ablated: npt.ArrayLike | None = None


def mean_figures(values: npt.ArrayLike, seed: int = 0) -> Figures:
    """Compute means over prompts.

    Args:
        values: `[..., prompts]`.
        seed: of the resamples.

    Returns:
        Arrays `[...]`. The interval of equal values has no width; that of fewer than `FEWEST` prompts is not known.
    """
    return _bootstrap([PerPrompt(values)], lambda mean: mean, seed)


def faithfulness_figures(values: npt.ArrayLike, full: npt.ArrayLike, ablated: npt.ArrayLike, seed: int = 0) -> Figures:
    """Compute faithfulness, a ratio of means: (mean(values) - mean(ablated)) / (mean(full) - mean(ablated)).

    Args:
        values: the circuits' `[..., prompts]`; several circuits, sizes or both share the resamples.
        full, ablated: the full and the ablated model's `[prompts]`.
        seed: of the resamples.

    Returns:
        Arrays `[...]`. Faithfulness is not defined where full and ablated model have the same mean. Its interval is
        not known for fewer than `FEWEST` prompts, nor where that of mean(full) - mean(ablated) contains 0: then the
        ratio is not bounded (Fieller 1954).
    """
    return _bootstrap([PerPrompt(values, full, ablated)], lambda faithfulness: faithfulness, seed)


def area_figures(
    values: npt.ArrayLike,
    full: npt.ArrayLike,
    ablated: npt.ArrayLike,
    fractions: Sequence[float],
    from_one: bool = False,
    seed: int = 0,
) -> Figures:
    """Integrate faithfulness over the fraction of edges by the trapezoidal rule, as MIB does for CPR and CMD.

    Where faithfulness is close to 1, noise makes |1 - faithfulness| larger: the CMD of few prompts is then too large on
    average, and so are the ends of its interval.

    Args:
        values: a curve's `[..., sizes, prompts]`.
        full, ablated: the full and the ablated model's `[prompts]`.
        fractions: of the edges, rising, one per size.
        from_one: integrate |1 - faithfulness| instead (CMD).
        seed: of the resamples.

    Returns:
        Arrays `[...]`. Not defined with fewer than two sizes; otherwise as for `faithfulness_figures`.
    """
    shape = np.shape(values)
    if len(shape) < 2 or shape[-2] != len(fractions):
        raise UsageError(f"{len(fractions)} sizes have values of shape {shape}.", "Give [sizes, prompts].")

    def integrate(heights: Array) -> Array:
        if len(fractions) < 2:
            return np.full_like(heights[..., 0, :], np.nan)
        curve = np.abs(1 - heights) if from_one else heights
        return np.asarray(np.trapezoid(curve, np.asarray(fractions, dtype=np.float64), axis=-2))

    return _bootstrap([PerPrompt(values, full, ablated)], integrate, seed)


def can_share_ranking(cpr: float, cmd: float, fractions: Sequence[float]) -> bool:
    """Tell whether a CPR and a CMD can be of one ranking: CMD >= |1 - CPR|.

    The integral of |1 - faithfulness| is at least the absolute value of the integral of 1 - faithfulness. The axis from
    0 to the first fraction is left out of both, and so of the 1: 0.1% of it at MIB's sizes. MIB's CPR and CMD are of
    two rankings, signed and absolute, and may break it.

    Args:
        cpr, cmd: the areas.
        fractions: those they were integrated over.
    """
    rounding = 1e-12 * max(1.0, abs(cpr))
    return cmd >= abs(fractions[-1] - fractions[0] - cpr) - rounding


def proportion_figure(values: npt.ArrayLike, seed: int = 0) -> Figure:
    """Compute a mean of shares, such as an accuracy.

    Where all are 0 or 1, the interval is Wilson's (1927), since a bootstrap of equal values would have no width: 64 of
    64 is 1.0, 0.94 to 1.0. It is known for a single prompt too.

    Args:
        values: from 0 to 1, `[prompts]`.
        seed: of the resamples.
    """
    return proportion_figures(np.asarray(values, dtype=np.float64)[None], seed)[0]


def proportion_figures(values: npt.ArrayLike, seed: int = 0) -> list[Figure]:
    """Compute several means of shares, as `proportion_figure` does each; `[rows, prompts]`."""
    (rows,) = _columns(values)
    whole = [bool(np.isin(row, (0, 1)).all()) for row in rows]
    means = None if all(whole) else mean_figures(rows, seed)
    return [
        _wilson(row) if means is None or of_whole else means.figure(number)
        for number, (row, of_whole) in enumerate(zip(rows, whole, strict=True))
    ]


def _wilson(shares: Array) -> Figure:
    interval = stats.binomtest(int(shares.sum()), len(shares)).proportion_ci(LEVEL, method="wilson")
    return Figure(float(shares.mean()), float(interval.low), float(interval.high))


def difference_figure(a: PerPrompt, b: PerPrompt, seed: int = 0) -> Figure:
    """Compute the difference of two figures, `a` minus `b`, on the same prompts in the same order.

    Its interval is paired: what a prompt does to both does not widen it.

    Args:
        a, b: `[prompts]` of the two circuits; each has its own full and ablated model.
        seed: of the resamples.
    """
    return difference_figures(a, b, seed).figure()


def difference_figures(a: PerPrompt, b: PerPrompt, seed: int = 0) -> Figures:
    """Compute several differences as `difference_figure` does each; the circuits' values are `[..., prompts]`."""
    return _bootstrap([a, b], lambda one, other: one - other, seed)


def compare_in_words(a: str, b: str, difference: Figure, prompts: int, *, lower_is_better: bool = False) -> str:
    """Say whether one method is better than another, or how many prompts could tell.

    The interval's width falls with the square root of the number of prompts; so, if the difference stays as it is,
    prompts * (distance between the difference and the end beyond 0 / difference)^2 have about an even chance to tell.

    Args:
        a, b: names of the methods.
        difference: `a` minus `b` (`difference_figure`).
        prompts: how many there were.
        lower_is_better: as for CMD or KL divergence, but not for faithfulness, CPR or accuracy.
    """
    value, low, high = difference
    number = f"{prompts:,} prompt{'s' * (prompts != 1)}"
    if value is None:
        return f"{number} cannot compare {a} and {b}: their difference is not defined."
    if low is None or high is None:
        why = f"an interval takes {FEWEST} prompts" if prompts < FEWEST else "its interval is not known"
        return f"{number} cannot tell {a} and {b} apart (difference {value:.2g}; {why})."
    if low == high == 0:
        return f"{a} and {b} do equally well on {number}."
    interval = f"difference {describe_difference(difference)}"
    if low > 0 or high < 0:
        better, worse = (a, b) if (value > 0) != lower_is_better else (b, a)
        return f"{better} is better than {worse}, with {LEVEL:.0%} confidence ({interval})."
    enough = _count_enough(value, value - low if value > 0 else high - value, prompts)
    return f"{number} cannot tell {a} and {b} apart ({interval}); {enough} would, if the difference stays as it is."


def describe_difference(difference: Figure) -> str:
    """Write a difference and its interval with enough places to tell its ends apart."""
    value, low, high = difference
    if value is None or low is None or high is None:
        return "not defined" if value is None else f"{value:.2g}"
    places = max(2, 1 - math.floor(math.log10(high - low or abs(value) or 1)))
    return f"{value:z.{places}f}, {low:z.{places}f} to {high:z.{places}f}"


def _count_enough(value: float, reach: float, prompts: int) -> str:
    """Say how many prompts would bring the end of the interval that is now at a distance of `reach` to 0."""
    needed = max(prompts * (reach / value) ** 2, prompts + 1) if value else math.inf
    if needed > _ENOUGH:
        return f"more than {_ENOUGH:,}"
    unit = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return f"about {math.ceil(needed / unit) * unit:,}"


def _columns(*parts: npt.ArrayLike | None) -> list[Array]:
    columns = [np.asarray(part, dtype=np.float64) for part in parts if part is not None]
    counts = {column.shape[-1] if column.ndim else 0 for column in columns}
    if len(counts) != 1 or 0 in counts:
        shapes = [column.shape for column in columns]
        raise UsageError(f"Values per prompt have shapes {shapes}.", "Give one value for each of the same prompts.")
    return columns


def _bootstrap(runs: Sequence[PerPrompt], combine: Callable[..., Array], seed: int) -> Figures:
    """Compute a figure and its interval.

    Args:
        runs: whose figures are combined, on the same prompts.
        combine: from the runs' figures `[..., resamples]` to the figure, with the resamples last.
        seed: of the resamples.
    """
    if any((run.full is None) != (run.ablated is None) for run in runs):
        raise UsageError("An end of the scale is missing.", "Give values of both the full and the ablated model.")

    def figure(*means: Array) -> Array:
        left = iter(means)
        return combine(*(_scale(*(next(left) for part in run if part is not None)) for run in runs))

    value, low, high = _resample(figure, _columns(*chain(*runs)), seed)
    for run in runs:
        if run.full is not None:
            span = _resample(lambda full, ablated: full - ablated, _columns(run.full, run.ablated), seed)
            known = span.low * span.high > 0
            low, high = np.where(known, low, np.nan), np.where(known, high, np.nan)
    return Figures(value, low, high)


def _scale(values: Array, full: Array | None = None, ablated: Array | None = None) -> Array:
    if full is None or ablated is None:
        return values
    span = full - ablated
    rounding = 4 * np.finfo(np.float64).eps * (np.abs(full) + np.abs(ablated))
    ratio: Array = (values - ablated) / np.where(np.abs(span) > rounding, span, np.nan)
    return ratio


def _resample(figure: Callable[..., Array], columns: Sequence[Array], seed: int) -> Figures:
    """Compute a figure of the means `[..., resamples]` of all columns `[..., prompts]`, and its interval.

    The columns are of the same prompts, which are resampled together.
    """

    def statistic(drawn: npt.NDArray[np.int64], axis: int = -1) -> Array:
        return figure(*_means(columns, drawn))

    count = columns[0].shape[-1]
    prompts = np.arange(count)
    with np.errstate(all="ignore"), warnings.catch_warnings():  # what is not finite becomes NaN, and is not known
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        value = statistic(prompts[None])[..., 0]
        if count < FEWEST:
            return Figures(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
        found = stats.bootstrap(
            [prompts],
            statistic,
            n_resamples=RESAMPLES,
            batch=1000,  # bounds the memory
            vectorized=True,
            confidence_level=expand_level(count),
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = (np.asarray(end, dtype=np.float64) for end in found.confidence_interval)
    return Figures(value, low, high)


def expand_level(count: int) -> float:
    """Return the level of percentiles that makes the interval of a normal mean of `count` prompts Student's.

    Args:
        count: of prompts, 2 or more.
    """
    width = math.sqrt(count / (count - 1)) * stats.t.ppf((1 + LEVEL) / 2, count - 1)
    return float(1 - 2 * stats.norm.sf(width))


def _means(columns: Sequence[Array], drawn: npt.NDArray[np.int64]) -> list[Array]:
    """Compute the columns' means `[..., resamples]` over drawn prompts `[resamples, draws]`.

    How often each prompt was drawn is its weight, and all means are one matrix product. Columns are taken relative to
    their first prompt, so that means of equal values are exact.
    """
    prompts = columns[0].shape[-1]
    offsets = prompts * np.arange(len(drawn))[:, None]
    times = np.bincount((drawn + offsets).ravel(), minlength=prompts * len(drawn)).reshape(len(drawn), prompts)
    weights = times.T / drawn.shape[-1]
    return [column[..., :1] + (column - column[..., :1]) @ weights for column in columns]
