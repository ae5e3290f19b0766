"""Figures over prompts with 95% intervals: means, faithfulness, CPR and CMD, proportions.

The interval says how much a figure would change with other prompts of the same task. It is a bootstrap over prompts
(Efron and Tibshirani 1993, chapter 14; `scipy.stats.bootstrap`): a resample draws as many prompts as there are, with
replacement, and all columns of a prompt (the circuit's value at every size, the full and the ablated model's) go
together. All figures of one number of prompts and one seed use the same resamples. Everything is float64.

A number that is not defined is NaN in arrays (`Figures`) and None in a `Figure`, which can be written as JSON.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from circuitkit.errors import UsageError

LEVEL = 0.95
"""The confidence level of every interval."""
RESAMPLES = 9999
"""Resamples per interval: its ends move by about 1% of its width with another seed."""

Array = npt.NDArray[np.float64]


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


def mean_figures(values: npt.ArrayLike, seed: int = 0) -> Figures:
    """Compute means over prompts.

    Args:
        values: `[..., prompts]`.
        seed: of the resamples.

    Returns:
        Arrays `[...]`. The interval of equal values has no width; that of one prompt is not known.
    """
    return _bootstrap(lambda mean: mean, [_columns(values)], seed=seed)


def faithfulness_figures(values: npt.ArrayLike, full: npt.ArrayLike, ablated: npt.ArrayLike, seed: int = 0) -> Figures:
    """Compute faithfulness, a ratio of means: (mean(values) - mean(ablated)) / (mean(full) - mean(ablated)).

    Args:
        values: the circuits' `[..., prompts]`; several circuits, sizes or both share the resamples.
        full, ablated: the full and the ablated model's `[prompts]`.
        seed: of the resamples.

    Returns:
        Arrays `[...]`. Faithfulness is not defined where full and ablated model have the same mean. Its interval is
        not known where that of mean(full) - mean(ablated) contains 0: then the ratio is not bounded (Fieller 1954).
    """
    columns = _columns(values, full, ablated)
    return _known(_bootstrap(_faithfulness, [columns], seed=seed), [columns], seed)


def area_figures(
    values: npt.ArrayLike,
    full: npt.ArrayLike,
    ablated: npt.ArrayLike,
    fractions: Sequence[float],
    from_one: bool = False,
    seed: int = 0,
) -> Figures:
    """Integrate faithfulness over the fraction of edges by the trapezoidal rule, as MIB does for CPR and CMD.

    Args:
        values: a curve's `[..., sizes, prompts]`.
        full, ablated: the full and the ablated model's `[prompts]`.
        fractions: of the edges, rising, one per size.
        from_one: integrate |1 - faithfulness| instead (CMD).
        seed: of the resamples.

    Returns:
        Arrays `[...]`. Not defined with fewer than two sizes; otherwise as for `faithfulness_figures`.
    """
    columns = _columns(values, full, ablated)
    widths = _trapezoid_weights(fractions, columns[0].shape)

    def integrate(*means: Array) -> Array:
        heights = _faithfulness(*means)
        area: Array = np.einsum("s,...sr->...r", widths, np.abs(1 - heights) if from_one else heights)
        return area

    return _known(_bootstrap(integrate, [columns], seed=seed), [columns], seed)


def proportion_figure(values: npt.ArrayLike, seed: int = 0) -> Figure:
    """Compute a mean of shares, such as an accuracy.

    Where all are 0 or 1, the interval is Wilson's (1927), since a bootstrap of equal values would have no width: 64 of
    64 is 1.0, 0.94 to 1.0. It is known for a single prompt too.

    Args:
        values: from 0 to 1, `[prompts]`.
        seed: of the resamples.
    """
    shares = _columns(values)[0]
    if not np.isin(shares, (0, 1)).all():
        return mean_figures(shares, seed).figure()
    interval = stats.binomtest(int(shares.sum()), len(shares)).proportion_ci(LEVEL, method="wilson")
    return Figure(float(shares.mean()), float(interval.low), float(interval.high))


def _columns(*arrays: npt.ArrayLike) -> tuple[Array, ...]:
    columns = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    shapes = [column.shape for column in columns]
    if not all(shape and shape[-1] == shapes[0][-1] > 0 for shape in shapes):
        raise UsageError(f"Values per prompt have shapes {shapes}.", "Give one value per prompt, of the same prompts.")
    return columns


def _trapezoid_weights(fractions: Sequence[float], shape: tuple[int, ...]) -> Array:
    if len(shape) < 2 or shape[-2] != len(fractions):
        raise UsageError(f"{len(fractions)} sizes have values of shape {shape}.", "Give [sizes, prompts].")
    steps = np.diff(np.asarray(fractions, dtype=np.float64))
    if not len(steps):
        return np.full(1, np.nan)
    weights: Array = (np.append(steps, 0) + np.append(0, steps)) / 2
    return weights


def _faithfulness(values: Array, full: Array, ablated: Array) -> Array:
    span = full - ablated
    rounding = 4 * np.finfo(np.float64).eps * (np.abs(full) + np.abs(ablated))
    ratio: Array = (values - ablated) / np.where(np.abs(span) > rounding, span, np.nan)
    return ratio


def _known(found: Figures, samples: Sequence[tuple[Array, ...]], seed: int) -> Figures:
    for _, full, ablated in samples:
        span = _bootstrap(lambda full, ablated: full - ablated, [(full, ablated)], seed=seed)
        if not span.low * span.high > 0:
            unknown = np.full_like(found.value, np.nan)
            return Figures(found.value, unknown, unknown)
    return found


def _bootstrap(figure: Callable[..., Array], samples: Sequence[tuple[Array, ...]], seed: int) -> Figures:
    """Compute a figure and its interval.

    Args:
        figure: of the means `[..., resamples]` of all columns, in order.
        samples: each is columns `[..., prompts]` of the same prompts, which are resampled together; prompts of two
            samples are resampled independently.
        seed: of the resamples.
    """

    def statistic(*drawn: npt.NDArray[np.int64], axis: int = -1) -> Array:
        means = [mean for columns, prompts in zip(samples, drawn, strict=True) for mean in _means(columns, prompts)]
        with np.errstate(all="ignore"):  # what is not finite is returned as NaN
            found = figure(*means)
        return found if drawn[0].ndim > 1 else found[..., 0]

    counts = [columns[0].shape[-1] for columns in samples]
    prompts = [np.arange(count) for count in counts]
    value = np.asarray(statistic(*prompts))
    if min(counts) < 2:
        unknown = np.full_like(value, np.nan)
        return Figures(value, unknown, unknown)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # such an interval is NaN
        found = stats.bootstrap(
            prompts,
            statistic,
            n_resamples=RESAMPLES,
            batch=1000,  # bounds the memory
            vectorized=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = (np.asarray(end, dtype=np.float64) for end in found.confidence_interval)
    return Figures(value, low, high)


def _means(columns: tuple[Array, ...], drawn: npt.NDArray[np.int64]) -> list[Array]:
    """Compute the columns' means `[..., resamples]` over drawn prompts `[resamples, draws]` or `[draws]`.

    How often each prompt was drawn is its weight, and all means are one matrix product. Columns are taken relative to
    their first prompt, so that means of equal values are exact.
    """
    prompts = columns[0].shape[-1]
    rows = np.atleast_2d(drawn)
    offsets = prompts * np.arange(len(rows))[:, None]
    times = np.bincount((rows + offsets).ravel(), minlength=prompts * len(rows)).reshape(len(rows), prompts)
    weights = times.T / rows.shape[-1]
    with np.errstate(all="ignore"):
        return [column[..., :1] + (column - column[..., :1]) @ weights for column in columns]
