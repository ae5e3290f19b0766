"""Hard-concrete gates (Louizos et al. 2018, arXiv 1712.01312), and the masks over edges that they make.

With noise u, uniform in (0, 1), a gate of log-alpha a is

    z = clamp(s (ζ - γ) + γ, 0, 1),    s = sigmoid((log u - log(1 - u) + a) / β)

with temperature β = 2/3, stretched from γ = -0.1 to ζ = 1.1, so that 0 and 1 themselves have a probability:
P(z > 0) = sigmoid(a - β log(-γ / ζ)) is the expected L0 norm, and P(z > 1/2) = sigmoid(a).
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
_MARGIN = 1e-6
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)


def hard_concrete(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Gates in [0, 1] for noise in (0, 1), both of one shape."""
    stretched = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0), the gates' expected L0 norm."""
    return torch.sigmoid(log_alpha - _SHIFT)


def start_at(probability: float) -> float:
    """The log-alpha of a gate that is open with this probability."""
    return math.log(probability / (1 - probability)) + _SHIFT


def noise(seed: int, step: int, count: int) -> Tensor:
    """Noise in (1e-6, 1 - 1e-6), float32 `[count]`; a function of its arguments, on every device."""
    (mixed,) = np.random.SeedSequence((seed, step)).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed))
    return torch.rand(count, generator=generator).clamp(_MARGIN, 1 - _MARGIN)


class Gates(nn.Module):
    """Gates, and the edges behind them.

    Args:
        count: how many gates.
        of_edges: numbers of the gates before each edge, long `[k, edges]`; -1 is no gate. An edge's mask is the
            product of its gates.
        start: log-alpha of every gate at first.

    Attributes:
        log_alpha: `[gates]`, the only parameter.
    """

    def __init__(self, count: int, of_edges: Tensor, start: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((count,), start))
        self.register_buffer("_of_edges", of_edges, persistent=False)  # follows from the model
        self._of_edges: Tensor

    @property
    def edges(self) -> int:
        """How many edges."""
        return self._of_edges.shape[1]

    def sample(self, noise: Tensor) -> Tensor:
        """The mask `[edges]` for noise `[gates]`."""
        return self._along(hard_concrete(self.log_alpha, noise))

    def expected_edges(self) -> Tensor:
        """How many edges are open to be expected, a scalar."""
        return self._along(open_probability(self.log_alpha)).sum()

    @torch.no_grad()
    def scores(self) -> Tensor:
        """For every edge the smallest P(z > 1/2) of its gates, float64 `[edges]` on the CPU."""
        halves = _with_none(torch.sigmoid(self.log_alpha.double()))
        return halves[self._of_edges].amin(0).cpu()

    def _along(self, gates: Tensor) -> Tensor:
        by_edge = _with_none(gates)[self._of_edges]  # [k, edges]
        product = by_edge[0]
        for other in by_edge[1:]:
            product = product * other
        return product


def _with_none(gates: Tensor) -> Tensor:
    """Gates, and behind them the one of edges that have none, which is open."""
    return torch.cat([gates, gates.new_ones(1)])
