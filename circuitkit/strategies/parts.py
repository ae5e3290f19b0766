"""Searches within a search: strategies that call other strategies, and runs of several searches.

Each has a name, and a `Discovery` of its own (see `Discovery.part`). Where the run has a folder, each has a folder in
the checkpoint: for the state of its strategy and, at the end, for its circuits. So a resumed run reads the finished
ones, and continues the interrupted one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError
from circuitkit.storage.state import FINISHED, SavedState, misfit
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery

PROPOSAL = "proposal"
"""The name of the search within a run that proposes a circuit to start from."""
CIRCUIT = ("scores", "kept", "score_sources", "selection", "tie")
"""What is saved of a circuit."""


def check_strategy(strategy: DiscoveryStrategy, run: Discovery) -> None:
    """Let a strategy within another one refuse a run before any work is done.

    Raises:
        CircuitKitError: it does.
    """
    try:
        strategy.setup(run)
    finally:
        strategy.teardown(run)


def run_strategy(strategy: DiscoveryStrategy, run: Discovery) -> Sequence[Circuit]:
    """Run a strategy within another one, from its saved state if there is one; the policy is prepared already."""
    run.resume()
    try:
        strategy.setup(run)
        found = strategy.discover(run)
    finally:
        strategy.teardown(run)
        run.prompt_scores = None  # only a run computes intervals of them
    return [found] if isinstance(found, Circuit) else found


def search_part(
    run: Discovery, name: str, key: Any, find: Callable[[Discovery], Sequence[Circuit]]
) -> tuple[list[Circuit], Discovery]:
    """Search within a run, or read the circuits of this search if an interrupted run has finished it.

    Args:
        run: of the whole.
        name: of the search within the run.
        key: plain data that the circuits depend on, to recognize the search.
        find: finds the circuits; it resumes the `Discovery` that it is given.

    Returns:
        The circuits, and the search's own `Discovery` with its metrics and notes.

    Raises:
        CircuitKitError: what is saved does not fit.
    """
    part = run.part(name)
    file = _finished_file(part)
    finished = replace(part, checkpoint_file=file)
    finished.resume(callbacks=run.resumed is None)  # otherwise they have resumed with the run, which went on after this
    if finished.resumed is not None:
        part = finished
        saved = SavedState(finished.resumed, "the finished search", ("key", "circuits"))
        saved.expect("key", saved["key"] == key, repr(key))
        circuits = [read_circuit(run.model.graph, one) for one in saved.items("circuits")]
    else:
        circuits = list(find(part))
        replace(part, checkpoint_file=file).save({"key": key, "circuits": list(map(save_circuit, circuits))})
    if run.resumed is None:  # otherwise it has its own, from a later state
        run.memory_budget = part.memory_budget
    run.resumptions = max(run.resumptions, part.resumptions)
    return circuits, part


def is_found(run: Discovery, name: str) -> bool:
    """Tell whether an interrupted run has finished a search within it, whose circuits `search_part` then reads."""
    file = _finished_file(run.part(name))
    return run.processes.broadcast(file is not None and file.exists())


def _finished_file(part: Discovery) -> Path | None:
    return None if part.checkpoint_file is None else part.checkpoint_file.with_name(FINISHED)


def save_circuit(circuit: Circuit) -> dict[str, Any]:
    """Return what `read_circuit` reads."""
    return {name: getattr(circuit, name) for name in CIRCUIT}


def read_circuit(graph: EdgeGraph, saved: Any) -> Circuit:
    """Make a circuit of what was saved of it.

    Raises:
        CircuitKitError: it is no circuit of this graph.
    """
    part = SavedState(saved, "a circuit", CIRCUIT)
    part.expect("tie", isinstance(part["tie"], bool), "true or false")
    try:
        return Circuit(graph, **{name: part[name] for name in CIRCUIT})
    except UsageError as error:
        raise misfit(error.problem.rstrip(".")) from error
