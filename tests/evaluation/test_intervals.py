"""Figures and their intervals equal hand-computed values, scipy called differently, and plain loops."""

import json
import math
import statistics
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import auc

from circuitkit.errors import UsageError
from circuitkit.evaluation import intervals
from circuitkit.evaluation.intervals import Figure, PerPrompt
from circuitkit.evaluation.sizes import SIZES

Array = npt.NDArray[np.float64]
UNKNOWN = (None, None)


def draw(n: int, seed: int = 0, sizes: int = 10) -> tuple[Array, Array, Array]:
    """Values of circuits `[sizes, n]`, of the full and of the ablated model `[n]`."""
    random = np.random.default_rng(seed)
    prompt = random.normal(0, 1, n)
    full, ablated = prompt - 6 + random.exponential(1, n), prompt / 2 + random.normal(1, 0.5, n)
    share = np.linspace(-0.1, 1.2, sizes)[:, None]
    return ablated + share * (full - ablated) + random.normal(0, 0.5, (sizes, n)), full, ablated


def loop(figure: Callable[[Array], float], n: int, seed: int = 0) -> tuple[float, float]:
    """The interval of a figure, one resample after another; `figure` takes the numbers of the drawn prompts."""
    random = np.random.default_rng(seed)
    found = sorted(figure(prompts) for prompts in random.integers(0, n, (intervals.RESAMPLES, n)))
    t = stats.t(n - 1).ppf(0.975) * math.sqrt(n / (n - 1))
    ends = []
    for probability in (stats.norm.cdf(-t), stats.norm.cdf(t)):
        place = probability * (len(found) - 1)
        below = math.floor(place)
        ends.append(found[below] + (place - below) * (found[min(below + 1, len(found) - 1)] - found[below]))
    return ends[0], ends[1]


# Values and intervals


def test_an_interval_equals_a_plain_loop_over_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 1201)  # for speed; more than one batch
    n = 24
    values, full, ablated = draw(n)

    def faithfulness(prompts: Array) -> Array:
        start = ablated[prompts].mean()
        return (values[:, prompts].mean(1) - start) / (full[prompts].mean() - start)

    cases = {
        "mean": (intervals.mean_figures(values[3]), lambda prompts: values[3][prompts].mean()),
        "faithfulness": (
            intervals.faithfulness_figures(values[3], full, ablated),
            lambda prompts: faithfulness(prompts)[3],
        ),
        "CPR": (
            intervals.area_figures(values, full, ablated, SIZES),
            lambda prompts: auc(SIZES, faithfulness(prompts)),
        ),
        "CMD": (
            intervals.area_figures(values, full, ablated, SIZES, from_one=True),
            lambda prompts: auc(SIZES, np.abs(1 - faithfulness(prompts))),
        ),
    }
    for name, (found, figure) in cases.items():
        value, low, high = found.figure()
        assert value == pytest.approx(figure(np.arange(n)), rel=1e-12), name
        assert (low, high) == pytest.approx(loop(figure, n), rel=1e-12), name


def test_an_interval_equals_scipys_on_the_columns_themselves() -> None:
    n = 32
    values, full, ablated = draw(n)

    def ratio(v: Array, f: Array, a: Array, axis: int) -> Array:
        return (v.mean(axis) - a.mean(axis)) / (f.mean(axis) - a.mean(axis))

    level = 1 - 2 * stats.norm.sf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    found = stats.bootstrap(
        (values[6], full, ablated), ratio, paired=True, method="percentile", confidence_level=level,
        n_resamples=intervals.RESAMPLES, rng=np.random.default_rng(7),
    )  # fmt: skip
    ours = intervals.faithfulness_figures(values[6], full, ablated, seed=7).figure()
    assert ours[1:] == pytest.approx(tuple(found.confidence_interval), rel=1e-12)


def test_an_interval_of_a_normal_mean_is_as_wide_as_students() -> None:
    values = np.random.default_rng(0).normal(5, 2, 12)
    _, low, high = intervals.mean_figures(values).figure()
    assert low is not None
    assert high is not None
    student = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert high - low == pytest.approx(student.high - student.low, rel=0.05)


def test_all_circuits_share_the_resamples_of_their_seed() -> None:
    values, full, ablated = draw(20)
    together = intervals.faithfulness_figures(values.reshape(2, 5, 20), full, ablated)
    assert together.value.shape == together.low.shape == together.high.shape == (2, 5)
    for size in range(10):
        alone = intervals.faithfulness_figures(values[size], full, ablated).figure()
        assert together.figure(size // 5, size % 5) == pytest.approx(alone, rel=1e-12)
    again = intervals.faithfulness_figures(values, full, ablated)
    assert np.array_equal(again.low, intervals.faithfulness_figures(values, full, ablated).low)
    assert not np.array_equal(again.low, intervals.faithfulness_figures(values, full, ablated, seed=1).low)


def test_areas_of_several_curves_are_computed_at_once() -> None:
    values, full, ablated = draw(16)
    curves = np.stack([values, values[::-1]])
    found = intervals.area_figures(curves, full, ablated, SIZES)
    for curve in (0, 1):
        alone = intervals.area_figures(curves[curve], full, ablated, SIZES).figure()
        assert found.figure(curve) == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("from_one", [False, True])
def test_the_area_is_that_of_the_points(from_one: bool) -> None:
    values, full, ablated = draw(16)
    heights = intervals.faithfulness_figures(values, full, ablated).value.tolist()
    curve = np.abs(1 - np.array(heights)) if from_one else np.array(heights)
    found = intervals.area_figures(values, full, ablated, SIZES, from_one).figure().value
    assert found == pytest.approx(np.trapezoid(curve, SIZES), rel=1e-12)


def test_areas_by_hand() -> None:
    full, ablated = np.full(5, -2.0), np.zeros(5)
    values = np.array([[0.0], [-1.0], [-3.0]]) + np.zeros(5)  # faithfulness 0, 0.5, 1.5
    cpr = intervals.area_figures(values, full, ablated, [0.1, 0.5, 1.0])
    cmd = intervals.area_figures(values, full, ablated, [0.1, 0.5, 1.0], from_one=True)
    assert cpr.figure() == pytest.approx((0.6,) * 3)  # 0.4 * 0.25 + 0.5 * 1
    assert cmd.figure() == pytest.approx((0.55,) * 3)  # 0.4 * 0.75 + 0.5 * 0.5


def test_faithfulness_does_not_depend_on_the_objectives_zero_and_unit() -> None:
    values, full, ablated = draw(16)
    one = intervals.faithfulness_figures(values, full, ablated)
    other = intervals.faithfulness_figures(-3 * values + 7, -3 * full + 7, -3 * ablated + 7)
    np.testing.assert_allclose(other, one, rtol=1e-9)


# CMD >= |1 - CPR|


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=10), st.integers(0, 1000), st.integers(2, 8))
def test_the_cmd_of_a_ranking_is_at_least_the_distance_of_its_cpr_from_one(
    curve: list[float], seed: int, n: int
) -> None:
    _, full, ablated = draw(n, seed)
    values = ablated + np.array(curve)[:, None] * (full - ablated)
    fractions = SIZES[-len(curve) :]
    cpr, cmd = (
        intervals.area_figures(values, full, ablated, fractions, from_one).figure().value for from_one in (False, True)
    )
    assert cpr is not None
    assert cmd is not None
    assert cmd >= abs(1 - cpr) - fractions[0] - 1e-9
    assert intervals.can_share_ranking(cpr, cmd, fractions)


@pytest.mark.parametrize(
    ("cpr", "cmd", "possible"),
    [
        (1.85, 0.03, False),  # MIB's pair for EAP-IG on GPT-2's IOI, of two rankings
        (1.85, 0.851, True),  # 1.85 - 0.999
        (1.85, 0.8509, False),
        (0.999, 0.0, True),  # faithfulness 1 at every size
        (0.9, 0.098, False),
        (0.9, 0.3, True),
    ],
)
def test_a_cpr_and_a_cmd_are_told_to_be_of_two_rankings(cpr: float, cmd: float, possible: bool) -> None:
    assert intervals.can_share_ranking(cpr, cmd, SIZES) is possible


# What is not defined or not known


def test_equal_values_have_an_interval_without_width() -> None:
    assert intervals.mean_figures(np.full(7, 0.1)).figure() == (0.1, 0.1, 0.1)
    full, ablated = draw(7)[1:]
    assert intervals.faithfulness_figures(full, full, ablated).figure() == (1, 1, 1)
    assert intervals.faithfulness_figures(ablated, full, ablated).figure() == (0, 0, 0)


def test_few_prompts_have_no_interval() -> None:
    for n in (1, intervals.FEWEST - 1):
        values, full, ablated = draw(n)
        figures = (
            intervals.mean_figures(values[0]),
            intervals.faithfulness_figures(values[0], full, ablated),
            intervals.area_figures(values, full, ablated, SIZES),
        )
        for found in figures:
            assert found.figure().value is not None
            assert found.figure()[1:] == UNKNOWN
    assert None not in intervals.mean_figures(draw(intervals.FEWEST)[0][0]).figure()


def test_faithfulness_is_not_defined_where_full_and_ablated_model_do_equally_well() -> None:
    values, full, _ = draw(9)
    for ablated in (full, np.random.default_rng(0).permutation(full)):  # the latter's mean differs by rounding
        assert intervals.faithfulness_figures(values[0], full, ablated).figure() == (None, None, None)
        assert intervals.area_figures(values, full, ablated, SIZES).figure() == (None, None, None)


def test_the_interval_of_a_ratio_is_not_known_where_its_denominator_may_be_zero() -> None:
    random = np.random.default_rng(0)
    full = random.normal(0, 1, 40)
    ablated = full[::-1] + 0.1  # their means differ by less than the noise
    values = np.stack([random.normal(0, 1, 40), full])
    found = intervals.faithfulness_figures(values, full, ablated)
    assert np.isfinite(found.value).all()
    assert np.isnan([found.low, found.high]).all()
    a, b = PerPrompt(values[0], full, ablated), PerPrompt(values[0], full - 5, ablated)
    for pair in ((a, b), (b, a)):
        assert intervals.difference_figure(*pair).value is not None
        assert intervals.difference_figure(*pair)[1:] == UNKNOWN


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_makes_its_own_figure_unknown_and_no_other(bad: float) -> None:
    values, full, ablated = draw(8)
    values[2, 5] = values[3, 0] = bad
    found = intervals.faithfulness_figures(values, full, ablated)
    figures = [found.figure(size) for size in range(10)]
    assert [size for size in range(10) if figures[size] == (None, None, None)] == [2, 3]
    assert all(None not in figures[size] for size in range(10) if size not in (2, 3))
    json.dumps([figures, intervals.area_figures(values, full, ablated, SIZES).figure()], allow_nan=False)
    full[3] = bad
    assert intervals.faithfulness_figures(values[0], full, ablated).figure() == (None, None, None)


def test_one_size_has_no_area() -> None:
    values, full, ablated = draw(8)
    assert intervals.area_figures(values[:1], full, ablated, [0.5]).figure() == (None, None, None)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: intervals.mean_figures([]), r"shapes \[\(0,\)\]"),
        (lambda: intervals.mean_figures(3.0), r"shapes \[\(\)\]"),
        (lambda: intervals.faithfulness_figures([1, 2], [1, 2], [1, 2, 3]), r"shapes .*\(3,\)"),
        (lambda: intervals.area_figures(np.zeros((3, 5)), np.zeros(5), np.ones(5), [0.1, 1]), "2 sizes .*(3, 5)"),
        (lambda: intervals.difference_figure(PerPrompt([1, 2]), PerPrompt([1, 2, 3])), r"shapes .*\(3,\)"),
        (lambda: intervals.difference_figure(PerPrompt([1], [2]), PerPrompt([1])), "An end of the scale is missing"),
    ],
)
def test_bad_input_is_refused(compute: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compute()


# Proportions


@pytest.mark.parametrize(("right", "n"), [(64, 64), (0, 64), (50, 64), (1, 1), (3, 4)])
def test_the_interval_of_a_proportion_is_wilsons(right: int, n: int) -> None:
    z, share = statistics.NormalDist().inv_cdf(0.975), right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    values = [1.0] * right + [0.0] * (n - right)
    assert intervals.proportion_figure(values) == pytest.approx((share, middle - half, middle + half), abs=1e-12)


def test_shares_between_0_and_1_are_resampled() -> None:
    shares = np.random.default_rng(0).choice([0, 0.5, 1], 30)
    assert intervals.proportion_figure(shares, seed=3) == intervals.mean_figures(shares, seed=3).figure()


def test_proportions_of_several_rows_are_those_of_each_alone() -> None:
    generator = np.random.default_rng(0)
    rows = np.stack([generator.integers(0, 2, 12), generator.random(12), np.ones(12), generator.random(12)])
    found = intervals.proportion_figures(rows)
    for row, figure in zip(rows, found, strict=True):
        assert figure == pytest.approx(intervals.proportion_figure(row), abs=1e-12)
    assert intervals.proportion_figures(rows[[0, 2]]) == [found[0], found[2]]


# Two methods


def test_a_difference_is_paired() -> None:
    values, full, ablated = draw(40)
    a, b = values[7], values[6]
    assert intervals.difference_figure(PerPrompt(a), PerPrompt(b)) == pytest.approx(
        intervals.mean_figures(a - b).figure(), rel=1e-9
    )
    found = intervals.difference_figure(PerPrompt(a, full, ablated), PerPrompt(b, full, ablated))
    swapped = intervals.difference_figure(PerPrompt(b, full, ablated), PerPrompt(a, full, ablated))
    # With the same ends, the difference is a ratio of means too
    assert found == pytest.approx(intervals.faithfulness_figures(ablated + a - b, full, ablated).figure(), rel=1e-9)
    assert swapped == pytest.approx(tuple(-part for part in (found[0], found[2], found[1]) if part is not None))


@pytest.mark.parametrize(
    ("difference", "lower", "words"),
    [
        ((0.12, 0.03, 0.20), False, "A is better than B, with 95% confidence (difference 0.12, 0.03 to 0.20)."),
        ((0.12, 0.03, 0.20), True, "B is better than A, with 95% confidence (difference 0.12, 0.03 to 0.20)."),
        ((-0.12, -0.20, -0.03), False, "B is better than A, with 95% confidence (difference -0.12, -0.20 to -0.03)."),
        ((-0.12, -0.20, -0.03), True, "A is better than B, with 95% confidence (difference -0.12, -0.20 to -0.03)."),
        (
            (0.04, -0.06, 0.13),  # 64 * (0.10 / 0.04)^2 = 400
            False,
            "64 prompts cannot tell A and B apart (difference 0.04, -0.06 to 0.13); "
            "about 400 would, if the difference stays as it is.",
        ),
        (
            (-0.05, -0.15, 0.051),  # 64 * (0.101 / 0.05)^2 = 261.1
            False,
            "64 prompts cannot tell A and B apart (difference -0.05, -0.15 to 0.05); "
            "about 270 would, if the difference stays as it is.",
        ),
        (
            (0.05, 0.0, 0.1),
            False,
            "64 prompts cannot tell A and B apart (difference 0.05, 0.00 to 0.10); "
            "about 65 would, if the difference stays as it is.",
        ),
        (
            (0.001, -0.06, 0.06),
            False,
            "64 prompts cannot tell A and B apart (difference 0.00, -0.06 to 0.06); "
            "more than 100,000 would, if the difference stays as it is.",
        ),
        (
            (0.0, -0.0011, 0.001),
            False,
            "64 prompts cannot tell A and B apart (difference 0.0000, -0.0011 to 0.0010); "
            "more than 100,000 would, if the difference stays as it is.",
        ),
        ((0.0, 0.0, 0.0), False, "A and B do equally well on 64 prompts."),
        ((None, None, None), False, "64 prompts cannot compare A and B: their difference is not defined."),
        (
            (0.123, None, None),
            False,
            "64 prompts cannot tell A and B apart (difference 0.12; its interval is not known).",
        ),
    ],
)
def test_a_difference_in_words(difference: tuple[float, float, float], lower: bool, words: str) -> None:
    assert intervals.compare_in_words("A", "B", Figure(*difference), 64, lower_is_better=lower) == words


def test_the_words_for_few_prompts_say_why() -> None:
    found = intervals.compare_in_words("A", "B", Figure(0.1, None, None), 1)
    assert found == "1 prompt cannot tell A and B apart (difference 0.1; an interval takes 5 prompts)."


def test_the_number_of_prompts_that_would_tell_is_about_right() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, 64)
    noise = (noise - noise.mean()) / noise.std()
    difference = intervals.difference_figure(PerPrompt(0.1 + noise), PerPrompt(np.zeros(64)))
    # The standard error is 1 / sqrt(n): it is half of 0.1 at 400 prompts
    words = intervals.compare_in_words("A", "B", difference, 64)
    assert 350 <= int(words.split("about ")[1].split()[0]) <= 450
