"""A reference circuit, such as one that was published, and how far circuits agree with it."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.errors import UsageError
from circuitkit.evaluation.agreement import compute_jaccard, compute_roc_auc

_EAP_IG = (".json", ".pt")


class Agreement(NamedTuple):
    """How far a circuit agrees with a reference.

    Attributes:
        roc_auc: how well the circuit's scores separate the reference's edges from the others (`compute_roc_auc`).
        jaccard: edges kept in both / edges kept in either; of a mere ranking, its top edges, as many as the
            reference keeps.
    """

    roc_auc: float
    jaccard: float


def load_reference(path: str | Path, graph: EdgeGraph) -> Circuit:
    """Read a reference circuit; its key and value edges are converted to the graph's `kv`.

    Args:
        path: a run folder (of several circuits, the first), a folder of `Circuit.save`, or a file of EAP-IG's, `.json`
            or `.pt`.
        graph: of the circuits to compare with.

    Raises:
        UsageError: there is no such file, it is of another graph, or it keeps no edge or every edge.
        CircuitKitError: it is damaged.
    """
    path = Path(path)
    if not path.is_dir() and not (path.exists() and path.suffix in _EAP_IG):
        problem = f"{str(path)!r} is no reference circuit." if path.exists() else f"There is no {str(path)!r}."
        raise UsageError(problem, "Give a run folder, a folder of Circuit.save, or EAP-IG's .json or .pt file.")
    if path.is_file():
        found = Circuit.from_eap_ig(path, graph)
    else:
        found = Circuit.load(path)
        if same_edges(replace(found.graph, kv=graph.kv), graph):
            found = found.expand_kv() if graph.kv == "head" else found.collapse_kv()
    if not same_edges(found.graph, graph):
        problem = f"The reference {str(path)!r} is of {found.graph}, not of {graph}."
        raise UsageError(problem, "Give a circuit of the same model.")
    if len(found) in (0, len(graph)):
        problem = f"The reference {str(path)!r} keeps {'every' if len(found) else 'no'} edge."
        raise UsageError(problem, "Give a circuit that keeps some edges and not others, such as a ranking's top(n).")
    return found


def compute_agreement(circuit: Circuit, reference: Circuit) -> Agreement:
    """Compare a circuit with a reference on the same graph."""
    chosen = circuit.top(len(reference)) if circuit.is_ranking else circuit
    return Agreement(compute_roc_auc(circuit, reference), float(compute_jaccard([chosen, reference])[0, 1]))
