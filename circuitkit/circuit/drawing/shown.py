"""Which edges of a circuit a static picture shows, and how strongly."""

import math
from dataclasses import dataclass

import torch

from circuitkit.circuit.drawing.subject import Subject

MOST_DRAWN = 3000
"""More edges are neither drawn in good time nor read."""
_OF_A_RANKING = 200


@dataclass(frozen=True)
class Shown:
    """The edges that a picture shows."""

    edges: list[int]
    """Their numbers, the weakest first, so that the strongest are drawn over them."""
    strengths: list[float]
    """Per edge, from 0 to 1: the square root of its |score| over the largest shown."""
    connected: list[bool]
    """Per edge, whether it is on a path of kept edges from `input` to the logits."""
    title: str


def choose_shown(circuit: Subject) -> Shown:
    """Choose the edges to show: the kept ones, at most the `MOST_DRAWN` strongest; of a mere ranking, the first."""
    kept = int(circuit.kept.sum())
    most = min(kept, _OF_A_RANKING if circuit.is_ranking else MOST_DRAWN)
    order = circuit.ranking()[:most].flip(0)
    scores = circuit.scores[order].abs().double()
    finite = scores[scores.isfinite()]
    largest = float(finite.max()) if len(finite) else 0.0
    strengths = (scores / largest).sqrt().clamp(max=1) if largest else torch.ones_like(scores)
    connected = circuit.prune().kept
    title = f"{kept:,} of {len(circuit.graph):,} edges: {tidy(circuit.selection)}"
    if most < kept:
        title += f" (the {most:,} strongest are drawn)"
    elif off := kept - int(connected.sum()):
        title += f" ({off:,} on no path from input to logits, pale)"
    return Shown(order.tolist(), strengths.tolist(), connected[order].tolist(), title)


def crowding(edges: int) -> float:
    """Return 0 for up to 30 edges and 1 from 3,000 on: how thin and transparent weak edges have to be."""
    return min(1.0, max(0.0, math.log10((edges + 1) / 30) / 2))


def tidy(text: str) -> str:
    """Put a text that others wrote on one line of at most 160 characters, without control characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= 160 else f"{line[:159]}…"
