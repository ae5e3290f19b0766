"""How far circuits agree: of methods, of seeds, or of a method and a reference circuit.

Agreement does not say which circuit is right: two faithful circuits can share few edges. Edges are ranked as
`Circuit.ranking` does, the kept ones before all others; edges of equal score and membership are ties.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import same_edges
from circuitkit.errors import UsageError

Array = npt.NDArray[np.float64]


def compute_jaccard(circuits: Sequence[Circuit]) -> Array:
    """Compute the Jaccard index of each pair of circuits: edges kept in both / edges kept in either.

    Returns:
        Symmetric `[circuits, circuits]`, from 0 to 1.

    Raises:
        UsageError: the circuits are of different graphs, or one is a ranking, of which no edges are chosen.
    """
    if rankings := [circuit for circuit in circuits if circuit.is_ranking]:
        rankings[0].jaccard(circuits[0])  # raises the error
    kept = np.stack([_check_graph(circuit, circuits[0]).kept.numpy() for circuit in circuits]).astype(np.float32)
    both = (kept @ kept.T).astype(np.float64)  # counts up to 2**24 are exact
    sizes = np.diagonal(both)
    either = sizes[:, None] + sizes - both
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def compute_rank_correlation(circuits: Sequence[Circuit], absolute: bool = True) -> Array:
    """Compute Spearman's rank correlation of each pair of rankings; ties get the mean of their ranks.

    Args:
        circuits: of one graph.
        absolute: rank by |score|, or else by score.

    Returns:
        Symmetric `[circuits, circuits]`, from -1 to 1; NaN with a circuit whose edges are all tied.

    Raises:
        UsageError: the circuits are of different graphs.
    """
    ranks = [_rank(_check_graph(circuit, circuits[0]), absolute) for circuit in circuits]
    with np.errstate(invalid="ignore"):  # a constant has no correlation
        return np.atleast_2d(np.asarray(np.corrcoef(ranks), dtype=np.float64))


def compute_roc_auc(circuit: Circuit, reference: Circuit, absolute: bool = True) -> float:
    """Compute how well a ranking separates a reference circuit's edges from the others.

    This is the area under the ROC curve, as in MIB: how often an edge of the reference comes before another edge. 1 is
    perfect, 0.5 chance; a tie counts half.

    Args:
        circuit: whose edges are ranked.
        reference: whose kept edges are the right ones.
        absolute: rank by |score|, or else by score.

    Raises:
        UsageError: the circuits are of different graphs, or the reference keeps no edge or every edge.
    """
    return float(roc_auc_score(*_to_classify(circuit, reference, absolute)))


def compute_roc_curve(circuit: Circuit, reference: Circuit, absolute: bool = True) -> tuple[Array, Array]:
    """Compute the ROC curve of a ranking, whose area is `compute_roc_auc`.

    Args:
        circuit, reference, absolute: as in `compute_roc_auc`.

    Returns:
        As more and more edges are taken in the ranking's order: the fraction taken of the edges that the reference does
        not keep, and of those that it keeps; both `[steps]`, rising from 0 to 1. Ties are taken in one step.

    Raises:
        UsageError: the circuits are of different graphs, or the reference keeps no edge or every edge.
    """
    false, true, _ = roc_curve(*_to_classify(circuit, reference, absolute))
    return np.asarray(false, dtype=np.float64), np.asarray(true, dtype=np.float64)


def compute_node_roc_auc(circuit: Circuit, reference: Circuit, absolute: bool = True) -> float:
    """Compute how well a ranking separates a reference circuit's nodes from the others.

    This is `compute_roc_auc` of nodes. Nodes are the writers. One is in the reference if an edge out of it is kept
    there, and it ranks where its best edge does: so a circuit that takes edges in the ranking's order has a node as
    soon as it has an edge out of it.

    Args:
        circuit, reference, absolute: as in `compute_roc_auc`.

    Returns:
        The area; NaN if every writer is in the reference.

    Raises:
        UsageError: the circuits are of different graphs, or the reference keeps no edge or every edge.
    """
    kept, ranks = _to_classify(circuit, reference, absolute)
    writers = reference.graph.writer_of.numpy()
    inside, best = np.zeros(reference.graph.n_writers, dtype=bool), np.zeros(reference.graph.n_writers)
    np.logical_or.at(inside, writers, kept)
    np.maximum.at(best, writers, ranks)
    return math.nan if inside.all() else float(roc_auc_score(inside, best))


def _to_classify(circuit: Circuit, reference: Circuit, absolute: bool) -> tuple[npt.NDArray[np.bool_], Array]:
    """Return which edges the reference keeps, and a number per edge, larger for better ones, both `[edges]`."""
    kept = len(reference)
    if kept in (0, len(reference.graph)):
        raise UsageError(
            f"The reference {reference!r} keeps {'every' if kept else 'no'} edge.",
            "Give a circuit that keeps some edges and not others, such as Circuit.from_names or a ranking's top(n).",
        )
    return reference.kept.numpy(), _rank(_check_graph(circuit, reference), absolute)


def _rank(circuit: Circuit, absolute: bool) -> Array:
    """Return a number per edge, `[edges]`, larger for better edges and equal for ties."""
    scores = circuit.scores.double().numpy()
    by_score = stats.rankdata(np.abs(scores) if absolute else scores)
    return np.asarray(stats.rankdata(by_score + len(scores) * circuit.kept.numpy()), dtype=np.float64)


def _check_graph(circuit: Circuit, other: Circuit) -> Circuit:
    if not same_edges(circuit.graph, other.graph):
        raise UsageError(
            f"The circuits are of different graphs: {circuit.graph} and {other.graph}.",
            "Compare circuits of one model, both with kv='group' or (Circuit.expand_kv) both with kv='head'.",
        )
    return circuit
