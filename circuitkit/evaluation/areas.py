"""The areas that MIB defines (Mueller et al. 2025, arXiv 2504.13151): CPR and CMD."""

from collections.abc import Sequence

import numpy as np

from circuitkit.evaluation.sizes import SIZES


def is_mib_curve(fractions: Sequence[float]) -> bool:
    """Tell whether a curve has all of MIB's sizes; over other sizes, the same circuit would have another CPR."""
    return set(SIZES) <= set(fractions)


def area(fractions: Sequence[float], heights: Sequence[float | None], from_one: bool = False) -> float | None:
    """Integrate faithfulness over the fraction of edges, by the trapezoidal rule.

    Args:
        fractions: rising.
        heights: the faithfulness at each.
        from_one: integrate |1 - faithfulness| instead (CMD).

    Returns:
        None with fewer than two points, or where faithfulness is undefined.
    """
    if len(heights) < 2 or any(height is None for height in heights):
        return None
    curve = np.array(heights, dtype=float)
    return float(np.trapezoid(np.abs(1 - curve) if from_one else curve, fractions))
