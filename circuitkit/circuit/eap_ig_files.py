"""Files of EAP-IG (https://github.com/hannamw/EAP-IG): `Graph.to_json` and `Graph.to_pt`.

EAP-IG has no key-value groups, only query heads. Its scores are effects of corrupting an edge on the metric that it was
given (`ScoresOf`). Where this was a metric for which higher is better, an edge that helps has a *negative* score, and
reading and writing change the sign. Where it was a loss, as in EAP-IG's notebooks (`loss=True`) and everywhere in MIB,
an edge that helps has a positive score, as in this package.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.storage.files import read_bytes, read_json, write_atomically

_EXPORT_AGAIN = "Write it again with EAP-IG's Graph.to_json or Graph.to_pt."

ScoresOf = Literal["metric", "loss"]
"""What a file's scores are effects on. An edge that helps scores below 0 with a metric, above 0 with a loss."""


def read_eap_ig(path: Path, scores_of: ScoresOf, graph: EdgeGraph | None = None) -> tuple[EdgeGraph, Tensor, Tensor]:
    """Read an EAP-IG file, `.json` or `.pt`; from the latter, only tensors and plain values are unpickled.

    Args:
        path: the file.
        scores_of: what the file's scores are effects on.
        graph: the graph that the file should be of, with any `kv`; by default any graph.

    Returns:
        The graph with a key and value reader per query head; scores `[edges]` with this package's sign, float32 where
        the file has plain numbers (EAP-IG's own precision), and 1 for a kept edge and 0 for another where the file has
        no scores; kept `[edges]`.

    Raises:
        UsageError: the file's ending is neither of the two, it is of another graph, or `scores_of` is unknown.
        CircuitKitError: the file is missing, damaged, or selects single neurons.
    """
    _check_scores_of(scores_of)
    found, scores, kept = _read_eap_ig_pt(path) if _is_pt(path) else _read_eap_ig_json(path)
    if scores is None:
        scores = kept.float()
    elif scores_of == "metric":
        scores = 0 - scores  # not -x, which would turn 0.0 into -0.0
    if graph is None:
        return found, scores, kept
    by_head = replace(graph, kv="head")
    if not same_edges(found, by_head):
        raise UsageError(f"{path} is of {found}, not of {graph}.", "Give a file made with the same model.")
    return by_head, scores, kept


def write_eap_ig(path: Path, graph: EdgeGraph, scores: Tensor, kept: Tensor, d_model: int, scores_of: ScoresOf) -> None:
    """Write a file that EAP-IG's `Graph.from_json` or `Graph.from_pt` reads, by the ending of `path`.

    Args:
        path: the file, ending in `.json` or `.pt`.
        graph: with a key and value reader per query head.
        scores: `[edges]` with this package's sign; written in float32, as EAP-IG holds them.
        kept: bool `[edges]`.
        d_model: D, which EAP-IG needs to read the file.
        scores_of: what the file's scores are effects on.

    Raises:
        UsageError: another ending; a graph without MLPs or with position embeddings as a writer, which EAP-IG does not
            support; infinite scores in JSON; an unknown `scores_of`.
        CircuitKitError: the file cannot be written.
    """
    _check_scores_of(scores_of)
    as_pt = _is_pt(path)
    if isinstance(d_model, bool) or not isinstance(d_model, int) or d_model < 1:
        raise UsageError(
            f"d_model={quote(d_model)} is no width.", "Give the model's: `model.model.config.hidden_size`."
        )
    if not graph.mlps:
        raise UsageError("EAP-IG does not support graphs without MLPs.", "Save the circuit with Circuit.save instead.")
    if graph.inputs > 1:
        raise UsageError(
            "EAP-IG does not support position embeddings as a writer.", "Save the circuit with Circuit.save instead."
        )
    cfg = {"n_layers": graph.layers, "n_heads": graph.heads, "parallel_attn_mlp": graph.parallel, "d_model": d_model}
    scores = 0 - scores.float() if scores_of == "metric" else scores.float()
    # A writer is in EAP-IG's graph if it has kept edges out of it and (except for `input`) into it
    used, fed = torch.zeros(2, graph.n_writers, dtype=torch.bool)
    used[graph.writer_of[kept]] = True
    fed[0] = True
    for reader in set(graph.reader_of[kept].tolist()):
        fed[list(graph.writers_fed_by(reader))] = True
    if as_pt:
        data = _eap_ig_pt(cfg, graph, scores, kept, used & fed)
    else:
        data = _eap_ig_json(cfg, graph, scores, kept, used & fed)
    write_atomically(path, data)


def _check_scores_of(scores_of: object) -> None:
    if scores_of not in get_args(ScoresOf):
        raise UsageError(f"scores_of={scores_of!r} is neither 'metric' nor 'loss'.", "Choose one of the two.")


def _is_pt(path: Path) -> bool:
    if path.suffix not in (".json", ".pt"):
        raise UsageError(f"{str(path)!r} is not a file name for EAP-IG.", "Choose one that ends in .json or .pt.")
    return path.suffix == ".pt"


def _eap_ig_pt(cfg: dict[str, Any], graph: EdgeGraph, scores: Tensor, kept: Tensor, nodes: Tensor) -> bytes:
    shape = graph.n_writers, graph.n_readers
    at = graph.writer_of, graph.reader_of
    # With one key and value reader per query head, readers are in EAP-IG's order
    contents = {
        "cfg": cfg,
        "src_nodes": graph.writer_names,
        "dst_nodes": graph.reader_names,
        "edges_scores": torch.zeros(shape, dtype=torch.float32).index_put(at, scores),
        "edges_in_graph": torch.zeros(shape, dtype=torch.bool).index_put(at, kept),
        "nodes_in_graph": nodes,
    }
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def _eap_ig_json(cfg: dict[str, Any], graph: EdgeGraph, scores: Tensor, kept: Tensor, nodes: Tensor) -> bytes:
    values, members = scores.tolist(), kept.tolist()
    edges = {
        graph.names[edge]: {"score": values[edge], "in_graph": members[edge]} for edge in _eap_ig_order(graph).tolist()
    }
    in_graph = dict(zip(graph.writer_names, nodes.tolist(), strict=True)) | {"logits": True}
    contents = {"cfg": cfg, "nodes": {name: {"in_graph": node} for name, node in in_graph.items()}, "edges": edges}
    try:
        return json.dumps(contents, allow_nan=False).encode()
    except ValueError as error:
        raise UsageError("JSON cannot hold infinite scores.", "Choose a file name that ends in .pt.") from error


def _eap_ig_order(graph: EdgeGraph) -> Tensor:
    """List edge numbers in EAP-IG's order.

    Layer by layer, edges into the attention come before those into the MLP (with a parallel MLP, both together). They
    are sorted by writer; then by head and q, k, v, with the MLP last.
    """
    steps, places = [], []
    for index in range(graph.n_readers):
        kind, layer, head = graph.reader(index)
        steps.append(2 * layer + (kind == "mlp" and not graph.parallel))
        places.append({"q": 3 * head, "k": 3 * head + 1, "v": 3 * head + 2, "mlp": 3 * graph.heads, "logits": 0}[kind])
    step, place = (
        torch.tensor(steps, dtype=torch.int64)[graph.reader_of],
        torch.tensor(places, dtype=torch.int64)[graph.reader_of],
    )
    return ((step * graph.n_writers + graph.writer_of) * graph.n_readers + place).argsort()


def _eap_ig_graph(path: Path, cfg: dict[str, Any], edges: int) -> EdgeGraph:
    """Make the graph of a file's `cfg`; refuse dimensions above `edges`, which would make a huge graph."""
    kinds: dict[str, type] = {"n_layers": int, "n_heads": int, "parallel_attn_mlp": bool}
    for key, kind in kinds.items():
        if type(cfg.get(key)) is not kind or (kind is int and not 0 < cfg[key] <= edges):
            raise CircuitKitError(f"The 'cfg' in {path} has {key!r} {cfg.get(key)!r}.", _EXPORT_AGAIN)
    return EdgeGraph(cfg["n_layers"], cfg["n_heads"], cfg["n_heads"], parallel=cfg["parallel_attn_mlp"])


def _require(path: Path, found: dict[str, Any], kinds: dict[str, type]) -> None:
    """Check that an EAP-IG file has these entries; it may have others."""
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            what = "no" if key not in found else "a malformed"
            raise CircuitKitError(f"{path} has {what} entry {key!r}, which every EAP-IG file has.", _EXPORT_AGAIN)


def _read_eap_ig_json(path: Path) -> tuple[EdgeGraph, Tensor | None, Tensor]:
    found = read_json(path)
    _require(path, found, {"cfg": dict, "nodes": dict, "edges": dict})
    for node in found["nodes"].values():
        neurons = node.get("neurons") if isinstance(node, dict) else None
        if isinstance(neurons, list) and not all(neurons):
            raise _selects_neurons(path)
    edges = found["edges"]
    graph = _eap_ig_graph(path, found["cfg"], len(edges))
    for problem, names in (("an unknown", edges.keys() - set(graph.names)), ("no", set(graph.names) - edges.keys())):
        if names:
            raise CircuitKitError(f"{path} has {problem} edge {min(names)!r}.", _EXPORT_AGAIN)
    scored = any(isinstance(edge, dict) and "score" in edge for edge in edges.values())
    for name, edge in edges.items():
        score, member = (edge.get("score"), edge.get("in_graph")) if isinstance(edge, dict) else (None, None)
        if (scored and type(score) not in (int, float)) or not isinstance(member, bool):
            raise CircuitKitError(f"{path} has {edge!r} for the edge {name!r}.", _EXPORT_AGAIN)
    kept = torch.tensor([edges[name]["in_graph"] for name in graph.names], dtype=torch.bool)
    if not scored:
        return graph, None, kept
    try:
        scores = torch.tensor([float(edges[name]["score"]) for name in graph.names], dtype=torch.float64).float()
    except OverflowError as error:
        raise CircuitKitError(f"{path} has a score too large for a number of 64 bits.", _EXPORT_AGAIN) from error
    return graph, scores, kept


def _read_eap_ig_pt(path: Path) -> tuple[EdgeGraph, Tensor | None, Tensor]:
    data = read_bytes(path)
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged files, torch raises many kinds of exceptions
        raise CircuitKitError(f"{path} is damaged, or not a torch file of tensors alone.", _EXPORT_AGAIN) from error
    if not isinstance(found, dict):
        raise CircuitKitError(f"{path} does not hold a dictionary, as EAP-IG's files do.", _EXPORT_AGAIN)
    tensors = ["edges_in_graph"] + ["edges_scores"] * ("edges_scores" in found)
    _require(path, found, {"cfg": dict, "src_nodes": list, "dst_nodes": list, **dict.fromkeys(tensors, Tensor)})
    neurons = found.get("neurons_in_graph")
    if isinstance(neurons, Tensor) and not neurons.bool().all():
        raise _selects_neurons(path)
    graph = _eap_ig_graph(path, found["cfg"], found["edges_in_graph"].numel())
    for key in tensors:
        tensor = found[key]
        if tensor.shape != (graph.n_writers, graph.n_readers) or tensor.layout is not torch.strided:
            expected = [graph.n_writers, graph.n_readers]
            raise CircuitKitError(f"{path} has {key!r} {list(tensor.shape)} instead of {expected}.", _EXPORT_AGAIN)
    if found["src_nodes"] != graph.writer_names or found["dst_nodes"] != graph.reader_names:
        raise CircuitKitError(f"{path} lists other nodes than its 'cfg' has.", _EXPORT_AGAIN)
    # The matrices may have other entries: EAP-IG may keep pairs that are not edges (a later head, an earlier MLP)
    at = graph.writer_of, graph.reader_of
    scores = found["edges_scores"][at] if "edges_scores" in found else None
    if scores is not None and not scores.is_floating_point():
        scores = scores.float()
    return graph, scores, found["edges_in_graph"][at].bool()


def _selects_neurons(path: Path) -> CircuitKitError:
    problem = f"{path} keeps some neurons of a node and not others."
    return CircuitKitError(problem, "Give a circuit of edges: circuitkit has no neuron circuits.")
