"""The edges that the searches of the strategy `stable` do not agree on, and by what they are contested."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from circuitkit.circuit.circuit import Circuit
from circuitkit.page.circuits import name_circuit
from circuitkit.page.content import Content
from circuitkit.run.result import Result
from circuitkit.storage.shapes import check_shape
from circuitkit.strategies.votes import find_confidence

MOST = 200
"""How many edges of a circuit are listed at most."""
_MOST_SAMPLES = 10_000
_SHAPE = {
    "samples": int,
    "votes_needed": int,
    "contested_edges": [dict],
    "stability": [
        {"circuit": int, "varied": str, "kept": int, "removed": int, "contested": int, "jaccard": float},
    ],
}


class ContestedEdge(NamedTuple):
    """An edge, its votes by what is varied, the confidence in its least certain vote, and by what it is contested."""

    edge: str
    votes: list[int]
    confidence: float
    by: str


class ContestedEdges(NamedTuple):
    """The contested edges of a circuit.

    Attributes:
        name: of the circuit.
        samples: searches per thing varied.
        needed: votes for a decision.
        counts: by what is varied: edges kept, removed and contested, and the mean Jaccard index of two searches.
        edges: the least certain first, at most `MOST`.
        left: how many others there are.
    """

    name: str
    samples: int
    needed: int
    counts: list[Mapping[str, Any]]
    edges: list[ContestedEdge]
    left: int


def list_contested(content: Content) -> list[ContestedEdges]:
    """List the contested edges of all loaded results of `stable`; metrics of another form are not its own."""
    found = []
    for folder, result in content.results.items():
        if _is_stable(result):
            cell = content.cell_of(folder)
            for number, circuit in enumerate(result.circuits):
                found.append(_list_of(result, number, circuit, name_circuit(content, cell, result, circuit)))
    return found


def _is_stable(result: Result) -> bool:
    try:
        check_shape(result.metrics, _SHAPE, "metrics")
    except ValueError:
        return False
    edges, rows = result.metrics["contested_edges"], result.metrics["stability"]
    varied = {row["varied"] for row in rows}
    numbers = [(number, name) for number in range(1, len(result.circuits) + 1) for name in varied]
    if sorted((row["circuit"], row["varied"]) for row in rows) != sorted(numbers):
        return False
    possible = range(min(result.metrics["samples"], _MOST_SAMPLES) + 1)
    return len(edges) == len(result.circuits) and all(
        isinstance(votes, Mapping) and votes.keys() == varied and all(count in possible for count in votes.values())
        for of_circuit in edges
        for votes in of_circuit.values()
    )


def _list_of(result: Result, number: int, circuit: Circuit, name: str) -> ContestedEdges:
    samples, needed = result.metrics["samples"], result.metrics["votes_needed"]
    counts = [row for row in result.metrics["stability"] if row["circuit"] == number + 1]
    seen = {count for votes in result.metrics["contested_edges"][number].values() for count in votes.values()}
    confidence = {count: find_confidence(count, samples) for count in seen}
    edges = [
        ContestedEdge(
            edge,
            [votes[row["varied"]] for row in counts],
            min(confidence[count] for count in votes.values()),
            _say_by(votes, samples, needed),
        )
        for edge, votes in result.metrics["contested_edges"][number].items()
    ]
    edges.sort(key=lambda edge: edge.confidence)
    return ContestedEdges(name, samples, needed, counts, edges[:MOST], max(len(edges) - MOST, 0))


def _say_by(votes: Mapping[str, int], samples: int, needed: int) -> str:
    """Say under what the votes cannot tell or, if each can, that they disagree."""
    if doubtful := [varied for varied, count in votes.items() if samples - needed < count < needed]:
        return " and ".join(doubtful)
    ways = {True: "kept", False: "removed"}
    return ", ".join(f"{ways[count >= needed]} over {varied}" for varied, count in votes.items())
