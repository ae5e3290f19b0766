"""Hard-concrete gates (Louizos et al. 2018, arXiv 1712.01312), and masks over edges made of them.

With noise u, uniform in (0, 1), a gate of log-alpha a is

    z = clamp(s (ζ - γ) + γ, 0, 1),    s = sigmoid((log u - log(1 - u) + a) / β)

with temperature β = 2/3. It is stretched to γ = -0.1 and ζ = 1.1, so that 0 and 1 themselves have a positive
probability. P(z > 0) = sigmoid(a - β log(-γ / ζ)) is the expected L0 norm, and P(z > 1/2) = sigmoid(a).
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
    """Compute gates in [0, 1] from noise in (0, 1), both of one shape."""
    stretched = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Compute P(z > 0), the expected L0 norm of gates."""
    return torch.sigmoid(log_alpha - _SHIFT)


def start_at(probability: float) -> float:
    """Return the log-alpha of a gate that is open with this probability."""
    return math.log(probability / (1 - probability)) + _SHIFT


def noise(seed: int, step: int, count: int) -> Tensor:
    """Draw noise in (1e-6, 1 - 1e-6), float32 `[count]`; the same for the same arguments on every device."""
    (mixed,) = np.random.SeedSequence((seed, step)).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed))
    return torch.rand(count, generator=generator, dtype=torch.float32).clamp(_MARGIN, 1 - _MARGIN)


class Gates(nn.Module):
    """Gates, and the edges that they apply to.

    Args:
        count: the number of gates.
        of_edges: numbers of each edge's k gates, long `[k, edges]`; -1: no gate. An edge's mask is the product of its
            gates.
        start: initial log-alpha of every gate.

    Attributes:
        log_alpha: `[gates]`, the only parameter.
    """

    def __init__(self, count: int, of_edges: Tensor, start: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((count,), start, dtype=torch.float32))
        self.register_buffer("_of_edges", of_edges, persistent=False)  # not saved: it follows from the model
        self._of_edges: Tensor

    @property
    def edges(self) -> int:
        """Return the number of edges."""
        return self._of_edges.shape[1]

    def sample(self, noise: Tensor) -> Tensor:
        """Compute the mask `[edges]` for noise `[gates]`."""
        return self._multiply_along_edges(hard_concrete(self.log_alpha, noise))

    def expected_edges(self) -> Tensor:
        """Compute the expected number of open edges, a scalar."""
        return self._multiply_along_edges(open_probability(self.log_alpha)).sum()

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Compute for every edge the smallest P(z > 1/2) of its gates, float64 `[edges]` on the CPU."""
        halves = _append_open(torch.sigmoid(self.log_alpha.double()))
        return halves[self._of_edges].amin(0).cpu()

    def _multiply_along_edges(self, gates: Tensor) -> Tensor:
        by_edge = _append_open(gates)[self._of_edges]  # [k, edges]
        product = by_edge[0]
        for other in by_edge[1:]:
            product = product * other
        return product


def _append_open(gates: Tensor) -> Tensor:
    """Append an open gate, which index -1 selects for edges without a gate."""
    return torch.cat([gates, gates.new_ones(1)])
