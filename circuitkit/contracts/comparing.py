"""Comparisons of what a class computes with what it should."""

import math

from torch import Tensor

from circuitkit.contracts.outcome import refuse


def largest(values: Tensor) -> float:
    """Return the largest absolute value."""
    return float(values.abs().max())


def differ(found: Tensor, expected: Tensor) -> bool:
    """Tell whether values differ by more than rounding explains.

    Raises:
        ContractError: nothing can be compared, since the expected ones are all zero, or some are not finite.
    """
    limit = 1e-4 * largest(expected)
    if not 0 < limit < math.inf:
        refuse(
            "What it should compute is not finite, or zero everywhere, so that nothing can be compared.",
            "Check the weights of the model.",
        )
    return not largest(found - expected) <= limit  # NaN differs


def differ_at_all(one: Tensor, other: Tensor) -> bool:
    """Tell whether values differ by more than rounding explains; both may be zero."""
    return not largest(one - other) <= 1e-4 * max(largest(one), largest(other))
