"""A mask that chooses the best edges softly, and sums to a given number of them.

For scores s, a size k and a temperature T,

    m_i = sigmoid((s_i - t) / T),    t such that the m_i add up to k.

Since t depends on every score, dm_i / ds_j = m_i' (δ_ij - m_j' / sum of m'), with m' = m (1 - m) / T: what one edge
gains, others lose.
"""

import math

import torch
from torch import Tensor

_STEPS = 100
_CLOSE = 1e-12


def soft_top(scores: Tensor, size: float, temperature: float) -> Tensor:
    """Compute the mask of a size, differentiable in the scores.

    Args:
        scores: `[edges]`.
        size: k, between 0 and the number of edges (exclusive); not necessarily a whole number.
        temperature: T.

    Returns:
        `[edges]` in [0, 1], of the scores' dtype; computed in float64.
    """
    s = scores.double()
    threshold = _find_threshold(s.detach(), size, temperature)
    with torch.no_grad():
        m = torch.sigmoid((s - threshold) / temperature)
        slope = (m * (1 - m)).sum().clamp(min=torch.finfo(m.dtype).tiny) / temperature
    # A step of Newton's method: it changes the threshold by nothing, and gives it its gradient
    threshold = threshold + (torch.sigmoid((s - threshold) / temperature).sum() - size) / slope
    return torch.sigmoid((s - threshold) / temperature).to(scores.dtype)


def _find_threshold(s: Tensor, size: float, temperature: float) -> Tensor:
    """Solve for t by Newton's method on log(sum of m) = log k, within bounds that every step narrows.

    Far above the scores the sum falls exponentially, so that its logarithm is linear there.
    """
    part = size / len(s)
    shift = temperature * (math.log(part) - math.log1p(-part))
    low, high = s.min() - shift, s.max() - shift  # there, every m_i is at least (at most) k / edges
    t = (low + high) / 2
    for _ in range(_STEPS):
        m = torch.sigmoid((s - t) / temperature)
        total = m.sum()
        gap = (total / size).log()
        if bool(gap.abs() < _CLOSE):
            break
        low, high = torch.where(gap > 0, t, low), torch.where(gap > 0, high, t)
        newton = t + gap * total * temperature / (m * (1 - m)).sum()
        t = torch.where((newton > low) & (newton < high), newton, (low + high) / 2)
    return t
