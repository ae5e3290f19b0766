"""Runs on the toy model that end in SIGKILL, so that nothing is cleaned up."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_RUN = """
import json, os, signal, sys
from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies import discovery

discovery.SECONDS_BETWEEN_CHECKPOINTS = 0.0
arguments = json.loads(sys.argv[1])

class Killer:
    seen = 0
    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1
        if self.seen == arguments["reports"]:
            os.kill(os.getpid(), signal.SIGKILL)

spec, folder, killer = arguments["spec"], arguments["folder"], Killer()
Discoverer("cpu", callbacks=[killer]).run("toy", "ioi", spec, examples=6, sizes=[], out=folder, resume=True)
print("reports:", killer.seen)
"""


def run(spec: dict[str, Any], folder: Path, reports: int | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Start or resume a run that kills itself at the given report of progress (None: it does not)."""
    arguments = json.dumps({"spec": spec, "folder": str(folder), "reports": reports})
    return subprocess.run([sys.executable, "-c", _RUN, arguments], capture_output=True, check=False)


def reports(finished: "subprocess.CompletedProcess[bytes]") -> int:
    """Return how often a finished run has reported progress."""
    return int(finished.stdout.decode().rpartition("reports:")[2])
