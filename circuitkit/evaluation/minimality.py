"""Whether a circuit is minimal: what it loses with single edges of it removed (Wang et al. 2022, arXiv 2211.00593).

Their section 4 calls a circuit minimal if every part of it makes a difference, alone or with a set K of others removed
too. Here K is empty and the parts are edges, sampled since each takes a run of the model. An edge whose work another
edge takes over has no effect here, and may still be needed without the other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.evaluation.intervals import Figure, faithfulness_figures


@dataclass(frozen=True)
class EdgeEffect:
    """What one edge of a circuit does for it.

    Attributes:
        edge: its name.
        effect: the circuit's faithfulness minus that without the edge, in the searched objective; positive if the edge
            helps. The interval is paired over the prompts.
    """

    edge: str
    effect: Figure


def check_minimality(count: int, circuits: Iterable[Circuit]) -> None:
    """Check a number of edges to sample.

    Raises:
        UsageError: it is no whole number from 0, or a circuit is a mere ranking.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise UsageError(f"minimality is {count!r}.", "Give the number of edges to sample, such as 20; 0 samples none.")
    rankings = [circuit for circuit in circuits if circuit.is_ranking]
    if count and rankings:
        raise UsageError(
            f"{rankings[0]} is a ranking: it has no edges of its own to remove one by one.",
            "Choose a size in Python: circuitkit.evaluate(model, circuit.top(100), task, minimality=20).",
        )


def sample_edges(circuit: Circuit, count: int, seed: int) -> list[int]:
    """Sample edges of a circuit without replacement, all if it has fewer; return their numbers in the graph's order."""
    kept = circuit.kept.nonzero()[:, 0].numpy()
    chosen = np.random.default_rng(seed).choice(kept, min(count, len(kept)), replace=False)
    return [int(edge) for edge in sorted(chosen)]


def remove_each(circuit: Circuit, edges: Sequence[int]) -> list[Tensor]:
    """Return the circuit without each of the edges, bool `[edges]` each."""
    removed = torch.eye(len(circuit.graph), dtype=torch.bool)[list(edges)]
    return list(circuit.kept & ~removed)


def edge_effects(
    names: Sequence[str], own: np.ndarray, without: np.ndarray, full: np.ndarray, ablated: np.ndarray
) -> list[EdgeEffect]:
    """Compute the effects of single edges from values of the searched objective.

    Args:
        names: of the edges.
        own: the circuit's, `[prompts]`.
        without: those of the circuit without each edge, `[edges, prompts]`.
        full, ablated: the two models', `[prompts]`.
    """
    if not names:
        return []
    # The same as the difference of two faithfulnesses, and 0 without rounding where the values are equal
    found = faithfulness_figures(own - without, full - ablated, np.zeros_like(full))
    return [EdgeEffect(name, found.figure(number)) for number, name in enumerate(names)]
