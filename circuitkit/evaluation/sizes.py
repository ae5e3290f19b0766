"""The fractions of the edges at which circuits are evaluated, and the circuits of a size."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.mib_files import SIZES as MIB_SIZES
from circuitkit.errors import UsageError

SIZES = MIB_SIZES
"""MIB's fractions of the edges (Mueller et al. 2025, arXiv 2504.13151)."""
RANKING_SIZES = (0.01, 0.05, 0.2)
"""The fractions at which a run evaluates a ranking by default."""


def own_sizes(circuit: Circuit) -> Sequence[float]:
    """Return a circuit's own size, for a random circuit to compare with.

    For a ranking, those of `RANKING_SIZES` that are at least one edge.
    """
    edges = len(circuit.graph)
    if circuit.is_ranking:
        return [size for size in RANKING_SIZES if int(size * edges) > 0]  # the last is an edge of the smallest graph
    return [min(1.0, (len(circuit) + 0.5) / edges)]  # + 0.5, since the evaluator rounds down


def choose_edges(circuit: Circuit, ranking: str, edges: int) -> Tensor:
    """Return the edges of a point, bool `[edges]`: a circuit's `own`, or those that are connected of a ranking's first.

    Args:
        circuit: as it was found; for the ranking `random`, the control.
        ranking: see `Point`.
        edges: how many are asked for of a ranking.
    """
    if ranking == "own":
        return circuit.kept
    found = circuit.greedy(edges) if ranking == "greedy" else circuit.top(edges, absolute=ranking != "signed")
    return found.prune().kept


def check_sizes(sizes: Any) -> list[float]:
    """Return the sizes as a list of plain numbers.

    Raises:
        UsageError: they are not rising fractions.
    """
    found = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else []
    numbers = all(isinstance(size, Real) and not isinstance(size, bool) and 0 < float(size) <= 1 for size in found)
    if not found or not numbers or any(one >= next_ for one, next_ in pairwise(found)):
        raise UsageError(
            f"The sizes {sizes!r} are not rising fractions of the edges.", "Give fractions such as 0.01, 0.1, 1."
        )
    return [float(size) for size in found]
