"""Runs on the toy model that end in SIGKILL, so that nothing is cleaned up."""

import os
import signal
from pathlib import Path
from typing import Any

from support.own_process import Ended, call

from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies import discovery


class _Killer:
    def __init__(self, at: int | None) -> None:
        self.seen = 0
        self._at = at

    def on_progress(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


def _run(spec: dict[str, Any], folder: Path, at: int | None) -> None:
    discovery.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    killer = _Killer(at)
    Discoverer("cpu", callbacks=[killer]).run("toy", "ioi", spec, examples=6, sizes=[], out=folder, resume=True)
    print("reports:", killer.seen, flush=True)


def run(spec: dict[str, Any], folder: Path, at: int | None = None) -> Ended:
    """Start or resume a run that kills itself at the given report of progress (None: it does not)."""
    return call(_run, spec, folder, at)


def reports(finished: Ended) -> int:
    """Return how often a finished run has reported progress."""
    return int(finished.stdout.rpartition("reports:")[2])
