"""Intervals contain the true figure as often as they say, on simulated data of known mean."""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pytest

from circuitkit.evaluation import intervals
from circuitkit.evaluation.intervals import Figure, Figures, PerPrompt

DATA_SETS = 200
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
CURVE = np.array([0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.1, 1.0])

Array = npt.NDArray[np.float64]


def ends(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A full and an ablated model's values, correlated as values of one prompt are; their means are -3 and 1."""
    prompt = random.normal(0, 1, shape)
    return -3 + prompt + random.normal(0, 1, shape), 1 + prompt / 2 + random.normal(0, 1, shape)


def each(found: Figures) -> list[Figure]:
    return [found.figure(index) for index in range(DATA_SETS)]


def means(draw: Callable[[np.random.Generator, tuple[int, int]], Array]) -> Callable[..., Iterable[Figure]]:
    return lambda random, n: each(intervals.mean_figures(draw(random, (DATA_SETS, n))))


def faithfulness(random: np.random.Generator, n: int) -> Iterable[Figure]:
    full, ablated = ends(random, (DATA_SETS, n))
    values = ablated + 0.7 * (full - ablated) + random.normal(0, 1, (DATA_SETS, n))
    return each(intervals.faithfulness_figures(values, full, ablated))


def areas(from_one: bool) -> Callable[..., Iterable[Figure]]:
    def simulate(random: np.random.Generator, n: int) -> Iterable[Figure]:
        for _ in range(DATA_SETS):
            full, ablated = ends(random, (n,))
            values = ablated + CURVE[:, None] * (full - ablated) + random.normal(0, 0.7, (10, n))
            yield intervals.area_figures(values, full, ablated, FRACTIONS, from_one).figure()

    return simulate


def differences(random: np.random.Generator, n: int) -> Iterable[Figure]:
    for _ in range(DATA_SETS):
        full, ablated = ends(random, (n,))
        one, other = (ablated + part * (full - ablated) + random.normal(0, 1, n) for part in (0.8, 0.7))
        yield intervals.difference_figure(PerPrompt(one, full, ablated), PerPrompt(other, full, ablated))


def proportions(share: float) -> Callable[..., Iterable[Figure]]:
    return lambda random, n: [
        intervals.proportion_figure(row) for row in (random.random((DATA_SETS, n)) < share).astype(np.float64)
    ]


CASES = {
    "normal": (means(lambda random, shape: random.normal(3, 2, shape)), 3.0),
    "exponential": (means(lambda random, shape: random.exponential(1, shape)), 1.0),
    "shares": (means(lambda random, shape: random.beta(2, 1, shape)), 2 / 3),
    "faithfulness": (faithfulness, 0.7),
    "CPR": (areas(from_one=False), float(np.trapezoid(CURVE, FRACTIONS))),
    "CMD": (areas(from_one=True), float(np.trapezoid(np.abs(1 - CURVE), FRACTIONS))),
    "difference": (differences, 0.1),
    "proportion 0.5": (proportions(0.5), 0.5),
    "proportion 0.9": (proportions(0.9), 0.9),
}
QUICK = {"normal", "exponential", "faithfulness", "shares", "proportion 0.5"}


def coverage(case: str, n: int) -> float:
    simulate, truth = CASES[case]
    found = list(simulate(np.random.default_rng(20), n))
    assert len(found) == DATA_SETS
    return sum(low is not None and high is not None and low <= truth <= high for _, low, high in found) / len(found)


@pytest.mark.parametrize("case", CASES)
def test_the_95_percent_interval_of_64_prompts_contains_the_true_figure_in_90_to_98_percent_of_cases(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 1999)  # for speed
    assert 0.90 <= coverage(case, 64) <= 0.98


@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("case", sorted(QUICK))
def test_the_interval_of_fewer_prompts_is_nearly_as_good(case: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 1999)
    assert 0.88 <= coverage(case, n) <= 0.99
