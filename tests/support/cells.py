"""Strategies whose cells do what cells should not, and a grid of the toy model for them.

A cell runs in a process of its own, which imports this file: what it does is seen in files only.
"""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.comparison.grid import Grid
from circuitkit.errors import CircuitKitError
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery

FEW = [0.02, 0.1, 0.5, 1.0]


class Scripted(DiscoveryStrategy):
    """Does what it is told, and then scores all edges 1.

    Args:
        act: what to do.
        mark: a file that gets a line whenever this runs.
    """

    def __init__(self, act: str = "nothing", mark: str = "") -> None:
        self.act, self.mark = act, mark

    def discover(self, run: Discovery) -> Circuit:
        if self.mark:
            with Path(self.mark).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
        getattr(self, f"_{self.act}")(run)
        return Circuit.from_scores(run.model.graph, torch.ones(len(run.model.graph), dtype=torch.float64))

    def _nothing(self, run: Discovery) -> None:
        pass

    def _raise(self, run: Discovery) -> None:
        raise ZeroDivisionError("by nought\nand more")

    def _refuse(self, run: Discovery) -> None:
        raise CircuitKitError("There is no luck.", "Try\nagain.")

    def _kill(self, run: Discovery) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _crash(self, run: Discovery) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def _exit(self, run: Discovery) -> None:
        os._exit(3)

    def _hang(self, run: Discovery) -> None:
        time.sleep(600)

    def _hang_on(self, run: Discovery) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    def _fill_disk(self, run: Discovery) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.fsync = fsync

    def _count(self, run: Discovery) -> None:
        """Take a step every 20 ms, and save each; a resumed run goes on from the last."""
        begun = 0 if run.resumed is None else int(run.resumed["step"])
        for step in range(begun, 100):
            time.sleep(0.02)
            run.report(step + 1, 100, "steps")
            run.save({"step": step + 1})
        run.log(begun=begun)


def scripted(act: str = "nothing", mark: Path | None = None) -> dict[str, Any]:
    arguments = {"act": act, "mark": str(mark or "")}
    return {"class_path": f"{__name__}.Scripted", "init_args": arguments}


def make_grid(**parts: Any) -> Grid:
    default: dict[str, Any] = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"eap": "eap"}}
    return Grid(**{**default, "examples": 8, "sizes": FEW, **parts})


class FailsOnce(DiscoveryStrategy):
    """Fails unless a file is there, and makes it.

    Args:
        switch: the file.
    """

    def __init__(self, switch: str) -> None:
        self.switch = switch

    def discover(self, run: Discovery) -> Circuit:
        if not Path(self.switch).exists():
            Path(self.switch).touch()
            raise CircuitKitError("Not yet.", "Again.")
        return Circuit.from_scores(run.model.graph, torch.ones(len(run.model.graph), dtype=torch.float64))
