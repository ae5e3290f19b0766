"""Checks of what a strategy returned."""

import hashlib
from collections.abc import Sequence
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.processes import Processes
from circuitkit.errors import CircuitKitError
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery


def check_circuits(strategy: DiscoveryStrategy, found: Any, run: Discovery) -> list[Circuit]:
    """Check the circuits that a strategy returned, and return them as a list.

    Raises:
        CircuitKitError: they are no circuits of the model, or not the same in all processes.
    """
    circuits = [found] if isinstance(found, Circuit) else list(found) if isinstance(found, Sequence) else []
    if not circuits or not all(isinstance(one, Circuit) and one.graph == run.model.graph for one in circuits):
        what = repr(found)
        raise CircuitKitError(
            f"{type(strategy).__name__}.discover returned {what if len(what) < 80 else what[:77] + '...'}.",
            "It must return a Circuit on run.model.graph, or a sequence of them.",
        )
    check_agreement(strategy, circuits, run.processes)
    return circuits


def check_agreement(strategy: DiscoveryStrategy, circuits: Sequence[Circuit], processes: Processes) -> None:
    """Check that all processes have found the same circuits.

    Raises:
        CircuitKitError: they have not: the strategy decides by what one process computes from its prompts.
    """
    if processes.count == 1:
        return
    hashed = hashlib.sha256()
    for circuit in circuits:
        for tensor in (circuit.scores, circuit.kept):
            hashed.update(tensor.cpu().contiguous().numpy().tobytes())
    if not processes.agree(int.from_bytes(hashed.digest()[:7])):
        raise CircuitKitError(
            f"{type(strategy).__name__} found another circuit in every process, each from its part of the prompts.",
            "Use one process, or a strategy that adds up what it computes (see Discovery.sum).",
        )
