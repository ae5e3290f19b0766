"""Circuits that are known: published ones of GPT-2 small and others, and those of compiled programs.

Each is a file in `known/`: where it comes from, the model that it is of, its graph, and its edges as connections
between nodes. A connection leads from every writer in `from` to every later node in `to`, into the query, key and value
of a head unless `readers` names fewer. Names of `groups` stand for their nodes.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.config.registry import unknown_name
from circuitkit.errors import UsageError

_FOLDER = Path(__file__).parent / "known"


@cache
def list_known() -> tuple[str, ...]:
    """List the names of the known circuits."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def describe_known(name: str) -> str:
    """Return what a known circuit is of, and where it comes from."""
    about: str = _read(name)["about"]
    return about


def load_known(name: str, graph: EdgeGraph, model: str | None) -> Circuit:
    """Return a known circuit of a model.

    Args:
        name: one of `list_known`.
        graph: the model's. Without position embeddings as a writer, a circuit lacks the edges out of them; with them,
            they are in wherever `input` is, if the circuit was published with both as one.
        model: its name or path, of which the last part counts, or the name in the hub's cache; None if that is not
            known.

    Raises:
        UsageError: there is no such circuit, or it is of another model.
    """
    found = _read(name)
    own = EdgeGraph(**{"kv_heads": found["graph"]["heads"]} | found["graph"])
    if not same_edges(replace(own, positions=graph.positions), graph):
        raise UsageError(
            f"The circuit {name!r} is of {found['models'][0]}, {own}; this model has {graph}.",
            "Choose the circuit of this model, or give a folder or file.",
        )
    if not _names(model) & set(map(str.lower, found["models"])):
        raise UsageError(
            f"The circuit {name!r} is of {' or '.join(found['models'])}, not of {model!r}.",
            "Edges of other weights mean nothing, even in a graph of the same size. Give a folder or file.",
        )
    return Circuit.from_names(graph, _edges(found, own, graph))


def _read(name: str) -> dict[str, Any]:
    if name not in list_known():
        raise unknown_name("known circuit", name, list(list_known()))
    found: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _names(model: str | None) -> set[str]:
    """Return the names that a model's name or path gives: `gpt2` of `models--openai-community--gpt2/snapshots/607a`."""
    parts = Path(model or "").parts
    return {part.rpartition("--")[2].lower() for part in parts if part.startswith("models--") or part is parts[-1]}


def _edges(found: dict[str, Any], own: EdgeGraph, graph: EdgeGraph) -> Iterator[str]:
    """Yield the names of a known circuit's edges in a graph."""
    groups: dict[str, list[str]] = found.get("groups", {})

    def expand(names: list[str] | str) -> list[str]:
        return [node for name in ([names] if isinstance(names, str) else names) for node in groups.get(name, [name])]

    for connection in found["connections"]:
        kinds = connection.get("readers", "qkv")
        for writer, node in product(expand(connection["from"]), expand(connection["to"])):
            is_head = ".h" in node and "<" not in node
            for reader in [f"{node}<{kind}>" for kind in kinds] if is_head else [node]:
                for one in _writers(writer, own, graph):
                    if graph.parse_writer(one) < graph.prefix(graph.parse_reader(reader)):
                        yield f"{one}->{reader}"


def _writers(writer: str, own: EdgeGraph, graph: EdgeGraph) -> list[str]:
    """Return the writers of a graph that stand for one of a circuit's own graph."""
    if graph.inputs > own.inputs and writer == "input":
        return ["input", "positions"]
    return [] if graph.inputs < own.inputs and writer == "positions" else [writer]
