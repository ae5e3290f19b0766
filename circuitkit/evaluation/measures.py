"""Faithfulness by circuit size, and the areas that MIB defines (Mueller et al. 2025, arXiv 2504.13151)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, Self

import numpy as np

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.storage.shapes import check_shape

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's fractions of the edges."""
RANKING_SIZES = (0.01, 0.05, 0.2)
"""The fractions at which a run evaluates a ranking by default."""


Ranking = Literal["signed", "absolute", "random", "own"]


@dataclass(frozen=True)
class Point:
    """Faithfulness at one size.

    Attributes:
        ranking: how the edges were chosen: by signed or absolute score, at random, or by the method itself (`own`).
        fraction: the requested fraction of the edges.
        edges_asked: the requested number of edges.
        edges: how many were left after unconnected edges were dropped.
        value: the objective, lower is better.
        faithfulness: 1 for the full model, 0 for the ablated one; None where these two do not differ.
    """

    ranking: Ranking
    fraction: float
    edges_asked: int
    edges: int
    value: float
    faithfulness: float | None


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A circuit's faithfulness on held-out prompts.

    Attributes:
        points: the curves (signed, absolute, random), and the circuit's own point unless it keeps all edges.
        full: the objective of the full model; ablated: of the ablated one.
        cpr: area under the signed curve; cmd: area between the absolute curve and 1; random_cpr, random_cmd: the same
            for the random control. None unless all of MIB's sizes (`SIZES`) are among the curve's.
        identity_error: the larger of two differences that should be 0, in units of faithfulness: masked run with all
            edges and plain run; masked run without edges and ablated run.
        prompts: number of prompts; split: their split.
        notes: caveats, such as that faithfulness is undefined.
    """

    points: list[Point]
    full: float
    ablated: float
    cpr: float | None
    cmd: float | None
    random_cpr: float | None
    random_cmd: float | None
    identity_error: float
    prompts: int
    split: str
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        parts = [f"{self.prompts} prompts, {self.split}"]
        areas = {"CPR": self.cpr, "CMD": self.cmd, "own": next((own.faithfulness for own in self.curve("own")), None)}
        parts += [f"{name} {value:.3f}" for name, value in areas.items() if value is not None]
        sizes = len(self.curve("signed"))
        return f"Evaluation({sizes} size{'s' * (sizes != 1)}, {', '.join(parts)})"

    def curve(self, ranking: Ranking) -> list[Point]:
        """Return the points of one ranking, from the smallest circuit to the largest."""
        return [point for point in self.points if point.ranking == ranking]

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Any) -> Self:
        """Make an evaluation of what `to_dict` returns.

        Raises:
            ValueError: something is missing, or is not of its kind.
        """
        check_shape(found, _EVALUATION, "the evaluation")
        points = [Point(**{key: point[key] for key in _POINT}) for point in found["points"]]
        return cls(**{**{key: found[key] for key in _EVALUATION}, "points": points})


_POINT = {
    "ranking": str,
    "fraction": float,
    "edges_asked": int,
    "edges": int,
    "value": (float, type(None)),
    "faithfulness": (float, type(None)),
}
_EVALUATION = {
    "points": [_POINT],
    **dict.fromkeys(("full", "ablated"), (float, type(None))),
    **dict.fromkeys(("cpr", "cmd", "random_cpr", "random_cmd"), (float, type(None))),
    "identity_error": (float, type(None)),
    "prompts": int,
    "split": str,
    "notes": [str],
}


def own_sizes(circuit: Circuit) -> Sequence[float]:
    """Return a circuit's own size, for a random circuit to compare with.

    For a ranking, those of `RANKING_SIZES` that are at least one edge.
    """
    edges = len(circuit.graph)
    if circuit.is_ranking:
        return [size for size in RANKING_SIZES if int(size * edges) > 0]  # the last is an edge of the smallest graph
    return [min(1.0, (len(circuit) + 0.5) / edges)]  # + 0.5, since the evaluator rounds down


def check_sizes(sizes: Any) -> list[float]:
    """Return the sizes as a list.

    Raises:
        UsageError: they are not rising fractions.
    """
    found = list(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else []
    numbers = all(isinstance(size, Real) and not isinstance(size, bool) and 0 < float(size) <= 1 for size in found)
    if not found or not numbers or any(one >= next_ for one, next_ in pairwise(found)):
        raise UsageError(
            f"The sizes {sizes!r} are not rising fractions of the edges.", "Give fractions such as 0.01, 0.1, 1."
        )
    return found


def mib_area(points: Sequence[Point], from_one: bool = False) -> float | None:
    """Compute CPR or CMD: the `area` over the points at MIB's sizes, None unless all are there.

    Over other sizes, the same circuit would have another CPR.
    """
    chosen = [point for point in points if point.fraction in SIZES]
    return area(chosen, from_one) if len(chosen) == len(SIZES) else None


def area(points: Sequence[Point], from_one: bool = False) -> float | None:
    """Integrate faithfulness over the fraction of edges, by the trapezoidal rule.

    Args:
        points: at rising fractions.
        from_one: integrate |1 - faithfulness| instead (CMD).

    Returns:
        None with fewer than two points, or where faithfulness is undefined.
    """
    heights = [point.faithfulness for point in points]
    if len(points) < 2 or any(height is None for height in heights):
        return None
    curve = np.array(heights, dtype=float)
    return float(np.trapezoid(np.abs(1 - curve) if from_one else curve, [point.fraction for point in points]))
