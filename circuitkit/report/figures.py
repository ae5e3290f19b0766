"""Numbers as text: figures with their intervals, times, and a circuit's faithfulness in words."""

from circuitkit.evaluation.evaluation import Evaluation, Measured, Point
from circuitkit.evaluation.intervals import Figure

GOOD = 0.8
"""A circuit with at least this faithfulness is called faithful."""
_BANDS = (
    (0.0, "worse than with every edge removed", ""),
    (0.5, "poor", ": most of the behavior is missing"),
    (GOOD, "partial", ": a good part of the behavior is missing"),
    (2 - GOOD, "faithful", ""),
    (float("inf"), "overshooting", ": better than the full model, as harmful edges are missing"),
)
"""Upper ends of faithfulness, what it is called, and what that means."""


def format_figure(value: float | None) -> str:
    """Format with two decimals and no negative zero; empty for None."""
    return "" if value is None else f"{value:z.2f}"


def format_interval(figure: Figure | None, percent: bool = False, negate: bool = False) -> str:
    """Format a figure with its interval, such as `0.85 [0.80, 0.90]`; `undefined` if it has no value.

    Args:
        figure: the figure.
        percent: as percentages.
        negate: change the sign, as of a logit difference, whose objective is negated.
    """
    if figure is None or figure.value is None:
        return "undefined"
    ends = (figure.high, figure.low) if negate else (figure.low, figure.high)
    sign, style = -1 if negate else 1, "z.0%" if percent else "z.2f"
    shown, low, high = ("" if one is None else format(sign * one, style) for one in (figure.value, *ends))
    return f"{shown} [{low}, {high}]" if low else shown


def format_measure(name: str, measured: Measured) -> str:
    """Format what matters of a measure: faithfulness with its interval or, of an accuracy, its value."""
    if measured.faithfulness is None:
        return format_interval(measured.value, percent=True)
    return format_interval(measured.faithfulness)


def format_seconds(value: float) -> str:
    """Format a time with a fitting unit."""
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def verdict(evaluation: Evaluation, point: Point, random: Point | None) -> str:
    """Judge a point in words, as far as its interval allows.

    Args:
        evaluation: the evaluation.
        point: one of its points.
        random: that of a random circuit of the same size, if there is one.
    """
    value, low, high = point.searched.faithfulness or Figure(None, None, None)
    full, ablated = (getattr(evaluation, end)[evaluation.objective].value for end in ("full", "ablated"))
    if value is None or full is None or ablated is None:
        return "not defined, since the full and the ablated model do equally well"
    if full > ablated:
        return "not meaningful, since the full model does worse than the ablated one"
    if low is None or high is None:
        return f"undecided: {evaluation.prompts} prompts are too few, or too different from each other"
    chance = None if random is None else random.faithfulness
    if chance is not None and value < GOOD and chance >= low:
        return "no better than chance" if chance >= value else "perhaps no better than chance"
    lowest, highest = _band(low), _band(high)
    if lowest == highest:
        return "".join(_BANDS[lowest][1:])
    return f"between {_BANDS[lowest][1]} and {_BANDS[highest][1]}: {evaluation.prompts} prompts do not settle it"


def _band(value: float) -> int:
    inside = [value < end or (value == end and word == "faithful") for end, word, _ in _BANDS]
    return inside.index(True) if True in inside else len(_BANDS) - 1
