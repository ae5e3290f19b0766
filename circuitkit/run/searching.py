"""One search of a strategy under its precision policy; one of several, which is kept where it can be resumed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.run.found_circuits import check_circuits
from circuitkit.run.run_folder import FINISHED, STATE
from circuitkit.run.under_policy import under_policy
from circuitkit.storage.state import SavedState, misfit
from circuitkit.strategies.base import Discovery, DiscoveryStrategy

_CIRCUIT = ("scores", "kept", "score_sources", "selection", "tie")


def search(strategy: DiscoveryStrategy, run: Discovery, memory_budget: int | None) -> list[Circuit]:
    """Run the strategy under the precision policy, from the saved state if there is one."""

    def discover() -> list[Circuit]:
        run.resume(memory_budget)
        circuits = check_circuits(strategy, strategy.discover(run), run)
        run.fabric.call("on_discovery_end", run, circuits)
        return circuits

    return under_policy(strategy, run, discover)


class SeveralSearches:
    """The searches of one run, each from the same start.

    Where the run has a folder, each has a folder of its own in the checkpoint: for the state of the strategy and, at
    the end, for its circuits. So a resumed run reads the finished ones, and continues the interrupted one.

    Args:
        run: the run; it counts the resumptions of all searches.
        memory_budget: as given by the user.
    """

    def __init__(self, run: Discovery, memory_budget: int | None) -> None:
        self._run = run
        self._memory_budget = memory_budget
        self._count = 0

    def search(self, strategy: DiscoveryStrategy, value: float | None) -> tuple[list[Circuit], Discovery]:
        """Search, or read the circuits of the finished search of this number.

        Args:
            strategy: set to the operating point.
            value: of the operating point, to recognize the search.

        Returns:
            The circuits, and the search's own `Discovery` with its metrics and notes.

        Raises:
            CircuitKitError: what is saved does not fit.
        """
        self._count += 1
        one, kept = self._part(STATE), self._part(FINISHED)
        kept.resume(self._memory_budget)
        if kept.resumed is not None:
            self._run.memory_budget, self._run.resumptions = kept.memory_budget, kept.resumptions
            return _read(kept, value), kept
        circuits = search(strategy, one, self._memory_budget)
        self._run.memory_budget, self._run.resumptions = one.memory_budget, one.resumptions
        saved = [{name: getattr(circuit, name) for name in _CIRCUIT} for circuit in circuits]
        replace(one, checkpoint_file=kept.checkpoint_file).save({"value": value, "circuits": saved})
        return circuits, one

    def _part(self, file: str) -> Discovery:
        checkpoint = self._run.checkpoint_file
        return replace(
            self._run,
            metrics={},
            notes=[],
            resumed=None,
            generator=torch.Generator().manual_seed(self._run.generator.initial_seed()),
            checkpoint_file=None if checkpoint is None else checkpoint.parent / f"search_{self._count}" / file,
        )


def _read(run: Discovery, value: float | None) -> list[Circuit]:
    saved = SavedState(run.resumed, "the finished search", ("value", "circuits"))
    saved.expect("value", saved["value"] == value, repr(value))
    return _read_circuits(run, saved.items("circuits"))


def _read_circuits(run: Discovery, found: Sequence[Any]) -> list[Circuit]:
    parts = [SavedState(one, "a circuit", _CIRCUIT) for one in found]
    try:
        return [Circuit(run.model.graph, **{name: part[name] for name in _CIRCUIT}) for part in parts]
    except UsageError as error:
        raise misfit(error.problem.rstrip(".")) from error
