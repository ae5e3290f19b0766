"""A number that shows its interval."""

import math
from typing import Self

from circuitkit.evaluation.intervals import Figure
from circuitkit.report.figures import format_interval


class Estimate(float):
    """A number with its 95% interval over prompts; it prints as `0.85 [0.80, 0.90]`, and computes as a plain number.

    Args:
        figure: the number and the ends of its interval; without a value, the number is NaN.

    Attributes:
        low, high: the ends of the interval; None where it is not known.
    """

    low: float | None
    high: float | None

    def __new__(cls, figure: Figure) -> Self:  # noqa: D102  the class's docstring describes it
        estimate = super().__new__(cls, math.nan if figure.value is None else figure.value)
        estimate.low, estimate.high = figure.low, figure.high
        return estimate

    def _figure(self) -> Figure:
        return Figure(None if math.isnan(self) else float(self), self.low, self.high)

    def __getnewargs__(self) -> tuple[Figure]:  # type: ignore[override]  # for copies and pickles
        return (self._figure(),)

    def __repr__(self) -> str:
        return format_interval(self._figure())
