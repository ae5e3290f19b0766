"""A reference circuit, such as one that was published, and how far circuits agree with it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.errors import UsageError
from circuitkit.evaluation.agreement import compute_jaccard, compute_node_roc_auc, compute_roc_auc
from circuitkit.evaluation.known_circuits import list_known, load_known

_EAP_IG = (".json", ".pt")


class Agreement(NamedTuple):
    """How far a circuit agrees with a reference.

    The circuit's edges are those that it keeps or, of a mere ranking, its top n, where n is the reference's number.

    Attributes:
        roc_auc: how well the circuit's scores separate the reference's edges from the others (`compute_roc_auc`).
        node_roc_auc: likewise the reference's writers (`compute_node_roc_auc`); NaN if every writer is one of them.
        jaccard: edges kept in both / edges kept in either.
        precision: of the circuit's edges, the fraction that the reference keeps; NaN of an empty circuit.
        recall: of the reference's edges, the fraction that the circuit keeps.
        at_size: precision and recall of the circuit's top n edges, which are the same number at this size. A search's
            own edges come first, then those that it removed last or scored highest (`Circuit.ranking`).
    """

    roc_auc: float
    node_roc_auc: float
    jaccard: float
    precision: float
    recall: float
    at_size: float


def load_reference(path: str | Path, graph: EdgeGraph, model: str | None = None) -> Circuit:
    """Read a reference circuit; its key and value edges are converted to the graph's `kv`.

    Args:
        path: the name of a known circuit (`known_circuits`), a run folder (of several circuits, the first), a folder of
            `Circuit.save`, or a file of EAP-IG's, `.json` or `.pt`.
        graph: of the circuits to compare with.
        model: the name of their model, for a known circuit.

    Raises:
        UsageError: there is no such file, it is of another graph or model, or it keeps no edge or every edge.
        CircuitKitError: it is damaged.
    """
    if str(path) in list_known() and not Path(path).exists():
        return load_known(str(path), graph, model)
    path = Path(path)
    if not path.is_dir() and not (path.exists() and path.suffix in _EAP_IG):
        problem = f"{str(path)!r} is no reference circuit." if path.exists() else f"There is no {str(path)!r}."
        raise UsageError(
            problem,
            "Give a run folder, a folder of Circuit.save, EAP-IG's .json or .pt file, or a known circuit: "
            f"{', '.join(list_known())}.",
        )
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
    """Compare a circuit with a reference on the same graph.

    Raises:
        UsageError: the graphs differ, or the reference keeps no edge or every edge.
    """
    top = circuit.top(len(reference))
    chosen = top if circuit.is_ranking else circuit
    found = len(chosen & reference)
    return Agreement(
        roc_auc=compute_roc_auc(circuit, reference),
        node_roc_auc=compute_node_roc_auc(circuit, reference),
        jaccard=float(compute_jaccard([chosen, reference])[0, 1]),
        precision=found / len(chosen) if len(chosen) else math.nan,
        recall=found / len(reference),
        at_size=len(top & reference) / len(reference),
    )
