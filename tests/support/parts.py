"""Strategies that search within a search, for tests of what is saved and read of the inner ones."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from support.own_process import Ended, call
from support.scripted import Case, Scripted

from circuitkit import Circuit, DiscoveryStrategy
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import run_strategy, search_part


class Steps(DiscoveryStrategy):
    """Adds a random number to every score in each of three steps; saves its state after each, and may stop in one."""

    def __init__(self, name: str, log: list[str], stop_in: tuple[str, int] | None = None) -> None:
        self.name, self.log, self.stop_in = name, log, stop_in

    def setup(self, run: Discovery) -> None:
        self.log.append(f"setup {self.name}")

    def teardown(self, run: Discovery) -> None:
        self.log.append(f"teardown {self.name}")

    def discover(self, run: Discovery) -> Circuit:
        edges = len(run.model.graph)
        done, scores = 0, torch.zeros(edges, dtype=torch.float64)
        if run.resumed is not None:
            done, scores = run.resumed["done"], run.resumed["scores"]
        for step in range(done, 3):
            if self.stop_in == (self.name, step):
                raise KeyboardInterrupt
            self.log.append(f"{self.name} {step}")
            scores = scores + torch.rand(edges, generator=run.generator, dtype=torch.float64)
            run.log(steps=step + 1, **{f"steps_of_{self.name}": step + 1})
            run.note(f"{self.name} noted.")
            run.save({"done": step + 1, "scores": scores})
        return Circuit(
            run.model.graph, scores, scores > 1.5, torch.full((edges,), int(ScoreSource.TESTED), dtype=torch.int8), "s"
        )


def outer(names: list[str], log: list[str], stop_in: tuple[str, int] | None = None, key: Any = 7) -> Scripted:
    """Make a strategy that searches for parts of these names; of `a/b`, for b within a."""

    def act(run: Discovery) -> None:
        found = []
        for name in names:
            top, _, inner = name.partition("/")

            def find(part: Discovery, name: str = name, inner: str = inner) -> Any:
                if not inner:
                    return run_strategy(Steps(name, log, stop_in), part)
                log.append(f"within {name}")
                below = lambda one: run_strategy(Steps(inner, log, stop_in), one)  # noqa: E731
                circuits, one = search_part(part, inner, key, below)
                part.log(below=one.metrics["steps"])
                return circuits

            found.append(search_part(run, top, key, find))
        run.log(found=[save_plain(circuits[0]) for circuits, _ in found], metrics=[part.metrics for _, part in found])
        run.log(of_parts=[part.notes for _, part in found])

    return Scripted(act)


def save_plain(circuit: Circuit) -> list[float]:
    return [*circuit.scores.tolist(), len(circuit)]


class _Killing(list[str]):
    """Prints what is appended; at a certain word the process kills itself."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def append(self, what: str) -> None:
        super().append(what)
        print(what, flush=True)
        if what == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def start(folder: Path, names: list[str], at: str) -> Ended:
    """Start or resume a run in a process that kills itself when a certain step begins."""
    return call(_run, folder, names, at)


def _run(folder: Path, names: list[str], at: str) -> None:
    Case().run(outer(names, _Killing(at)), sizes=(), out=folder, resume=True)
