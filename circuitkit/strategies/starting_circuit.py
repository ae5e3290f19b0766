"""The circuit that a search starts from, where it is not the full model: another strategy's, a run's, or a given one.

A cheap method proposes a few percent of the edges, and exact effects decide which of these to keep. Edges outside the
starting circuit are ablated from the start: they are not tested, and their score is 0.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.config import specs
from circuitkit.engine import memory
from circuitkit.engine.search.cost_estimate import sparse_circuit
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import PROPOSAL, check_strategy, is_found, run_strategy, search_part

Start = DiscoveryStrategy | Circuit | str | Mapping[str, Any] | None
"""A strategy or its spec, the path of a run's folder, a circuit, or None for the full model."""
SIZE = 0.05
"""The fraction of the edges to start from, where a ranking is given without a size."""


class StartsFromCircuit(DiscoveryStrategy):
    """A strategy with the arguments `start` and `start_size`; its constructor calls `_set_start` with them."""

    def _set_start(self, start: Start, start_size: float | None) -> None:
        self._starting = StartingCircuit.make(start, start_size)
        self.start = None if self._starting is None else self._starting.argument
        self.start_size = start_size

    @property
    def proposal(self) -> DiscoveryStrategy | None:
        """Return the strategy that finds the circuit to start from."""
        return None if self._starting is None else self._starting.proposal

    @property
    def starting_folders(self) -> list[Path]:
        """List the folder to start from, or those of the strategy that finds the circuit."""
        source = None if self._starting is None else self._starting.source
        return [source] if isinstance(source, Path) else super().starting_folders

    def starting_from(self, circuit: Circuit) -> Self:
        """Make a copy that starts from what its proposal has found."""
        assert self._starting is not None
        found = copy.copy(self)
        found._starting = replace(self._starting, found=circuit)
        return found

    def setup(self, run: Discovery) -> None:
        """Check the circuit to start from, if it is there already, or the strategy that finds it."""
        if self._starting is not None:
            self._starting.check(run)
        if self.proposal is not None:
            check_strategy(self.proposal, run.part(PROPOSAL))

    def _find_start(self, run: Discovery) -> Circuit | None:
        """Return the circuit to start from; None: the full model.

        Raises:
            CircuitKitError: the search that follows does not fit into memory, or there is no such circuit.
        """
        need = None if self.proposal is None or run.resumed is not None else self.footprint(run)
        if need is not None:  # now, not only when the proposal is found
            budget = run.memory_budget or memory.budget(run.model.device)
            need.largest_batch(-(-(need.prompts or run.prompts) // run.processes.count), budget)
        return None if self._starting is None else self._starting.find(run)

    def _log_search(self, run: Discovery) -> None:
        """Log the seconds of the search without the proposal, if there is one."""
        if self._starting is not None:
            run.log(search_s=run.seconds())


@dataclass(frozen=True)
class StartingCircuit:
    """Where a starting circuit comes from, and how many edges of it to take.

    Attributes:
        source: a strategy, the path of a folder with a circuit, or a circuit.
        size: a fraction of the edges; None: the circuit's own, or `SIZE` of a ranking.
        found: what the strategy has found already, in an earlier search of the run.
    """

    source: DiscoveryStrategy | Circuit | Path
    size: float | None = None
    found: Circuit | None = None

    @classmethod
    def make(cls, start: Start, size: float | None) -> Self | None:
        """Make it from a strategy's arguments `start` and `start_size`; None: the search starts from the full model.

        Raises:
            UsageError: an argument does not fit, or the strategy would return several circuits.
        """
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size <= 1):
            raise UsageError(f"start_size={size!r} is not a fraction of the edges.", "Give one such as 0.05, or None.")
        if start is None:
            if size is not None:
                raise UsageError(
                    f"start_size={size:g} has no circuit to take these edges from.",
                    "Give start too: a strategy, a run's folder or a circuit.",
                )
            return None
        if isinstance(start, str) and specs.is_path("strategies", start):
            return cls(Path(start), size)
        source = specs.make("strategies", start)
        if not isinstance(source, DiscoveryStrategy | Circuit):
            raise UsageError(
                f"start={start!r} is neither a strategy nor a circuit.",
                "Give a strategy's name or spec, the folder of a run, or a Circuit.",
            )
        if isinstance(source, DiscoveryStrategy):
            _refuse_several(source)
        return cls(source, size)

    @property
    def argument(self) -> DiscoveryStrategy | Circuit | str:
        """Return the argument `start` to make it from again."""
        return str(self.source) if isinstance(self.source, Path) else self.source

    @property
    def proposal(self) -> DiscoveryStrategy | None:
        """Return the strategy that finds the circuit, if it is not there already."""
        return self.source if isinstance(self.source, DiscoveryStrategy) and self.found is None else None

    def check(self, run: Discovery) -> None:
        """Check a circuit that is there already, and note if the configuration cannot hold it.

        Raises:
            UsageError: it is of another model, or there is none.
            CircuitKitError: it cannot be read, or no path through its edges leads from input to logits.
        """
        if self.proposal is None and not is_found(run, PROPOSAL):
            self._choose(self._given(), run.model.graph)
        if isinstance(self.source, Circuit):
            run.note(
                "The search started from a circuit given in Python. The configuration has its hash only: to repeat the "
                "run from it, save the circuit, and give the folder as start."
            )

    def find(self, run: Discovery) -> Circuit:
        """Find or read the circuit, without unconnected edges; log what it cost, and how many edges it has.

        A resumed run reads what it has found before, also if a folder that was given holds another circuit by now.
        Then the run's clock starts again, for the search.
        """
        fresh = run.resumed is None
        if self.found is not None or isinstance(self.source, Circuit):
            proposed = self._given()
        else:
            (proposed,), part = search_part(run, PROPOSAL, specs.to_data(self.argument), self._find)
            if fresh and self.proposal is not None:
                run.log(**proposal_metrics(part))
                run.notes.extend(note for note in part.notes if note not in run.notes)
        circuit = self._choose(proposed, run.model.graph)
        if fresh:
            run.log(proposal_edges=len(circuit))
            run.restart_clock()
        return circuit

    def assume(self, graph: EdgeGraph) -> tuple[Tensor, str]:
        """Return the edges to start from, bool `[edges]`, or as many others if they are not known yet; and say which.

        For the estimate of a search's cost.
        """
        if self.proposal is None:
            circuit = self._choose(self._given(), graph)
            return circuit.kept, f"The search starts from {len(circuit):,} edges, and tests no others."
        size = _assumed_size(self.proposal) if self.size is None else self.size
        kept = sparse_circuit(graph, size)
        return kept, (
            f"The search is assumed to start from {int(kept.sum()):,} edges ({size:.0%}), grown at random: what is "
            "proposed is not known before the run."
        )

    def _find(self, run: Discovery) -> Sequence[Circuit]:
        if self.proposal is None:
            return [self._given()]
        circuit = single_circuit(self.proposal, run_strategy(self.proposal, run))
        run.metrics["wall_s"] = run.seconds() + run.metrics.get("proposal_s", 0.0)  # of its own proposal
        return [circuit]

    def _given(self) -> Circuit:
        """Return the circuit that is there already."""
        if self.found is not None:
            return self.found
        assert not isinstance(self.source, DiscoveryStrategy), "it is not there yet"
        return self.source if isinstance(self.source, Circuit) else read_folder(self.source)

    def _choose(self, proposed: Circuit, graph: EdgeGraph) -> Circuit:
        """Return the edges to start from, without unconnected ones."""
        if not same_edges(proposed.graph, graph):
            raise UsageError(
                f"The starting circuit is of another graph: {proposed.graph}, not {graph}.",
                "Give one of this model; `expand_kv` and `collapse_kv` convert between kv='group' and kv='head'.",
            )
        size = SIZE if self.size is None and proposed.is_ranking else self.size
        circuit = (proposed if size is None else proposed.top(max(round(size * len(graph)), 1))).prune()
        if not len(circuit):
            raise CircuitKitError(
                "No path from the input to the logits leads through the edges of the starting circuit.",
                "Start from more edges (start_size), or from another circuit.",
            )
        return circuit


def has_circuit(folder: Path) -> bool:
    """Tell whether a folder holds a circuit."""
    return (folder / "circuit.json").exists()


def read_folder(folder: Path) -> Circuit:
    """Read the circuit of a folder to start from.

    Raises:
        UsageError: there is none, or there are several.
        CircuitKitError: it cannot be read.
    """
    if not has_circuit(folder):
        raise UsageError(
            f"start={str(folder)!r} is no folder with a circuit (circuit.json).",
            "Give the folder of a finished run or of a saved circuit, the name of a strategy, or its spec.",
        )
    if (folder / "circuit_2.json").exists():
        raise UsageError(
            f"The run in {str(folder)!r} found several circuits.",
            "Save the one to start from in a folder of its own: Circuit.load(folder, 'circuit_2').save(other).",
        )
    return Circuit.load(folder)


def _assumed_size(proposal: DiscoveryStrategy) -> float:
    """Return the fraction of the edges that a strategy is asked to keep; `SIZE` if it does not say."""
    point = proposal.operating_point
    if point is None or not point.fraction:
        return SIZE
    return 1 - float(proposal.operating_values()[0])


def _refuse_several(strategy: DiscoveryStrategy) -> None:
    if (point := strategy.operating_point) is None:
        return
    if len(strategy.operating_values()) > 1:
        raise _several(strategy, f"several circuits, one for each {point.argument}")


def single_circuit(strategy: DiscoveryStrategy, circuits: Sequence[Circuit]) -> Circuit:
    """Return the circuit of a proposal.

    Raises:
        UsageError: there are several.
    """
    if len(circuits) != 1:
        raise _several(strategy, f"{len(circuits)} circuits")
    return circuits[0]


def proposal_metrics(proposal: Discovery) -> dict[str, Any]:
    """Return what a run's metrics say of its proposal: the proposal's own, and its seconds."""
    return {"proposal": dict(proposal.metrics), "proposal_s": proposal.metrics["wall_s"]}


def _several(strategy: DiscoveryStrategy, what: str) -> UsageError:
    return UsageError(
        f"A search starts from one circuit, but {type(strategy).__name__} finds {what}.", "Give it one value."
    )


def join_scores(circuit: Circuit, start: Circuit) -> Circuit:
    """Give the edges outside a starting circuit the scores that they had when they were removed."""
    inside = start.kept
    return Circuit(
        circuit.graph,
        torch.where(inside, circuit.scores, start.scores),
        circuit.kept,
        torch.where(inside, circuit.score_sources, start.score_sources),
        circuit.selection,
    )
