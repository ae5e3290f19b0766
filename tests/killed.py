"""Runs on the toy model that end in SIGKILL, which nothing can be cleaned up after."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_RUN = """
import json, os, signal, sys
from circuitkit.discoverer import Discoverer
from circuitkit.strategies import base

base.SECONDS_BETWEEN_CHECKPOINTS = 0.0
arguments = json.loads(sys.argv[1])

class Killer:
    seen = 0
    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1
        if self.seen == arguments["reports"]:
            os.kill(os.getpid(), signal.SIGKILL)

spec, folder = arguments["spec"], arguments["folder"]
Discoverer("cpu", callbacks=[Killer()]).run(spec, "toy", "ioi", examples=6, sizes=[], out=folder, resume=True)
"""


def run(spec: dict[str, Any], folder: Path, reports: int | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Begin, or go on with, a run that kills itself when it has reported progress so many times (None: it does not)."""
    arguments = json.dumps({"spec": spec, "folder": str(folder), "reports": reports})
    return subprocess.run([sys.executable, "-c", _RUN, arguments], capture_output=True, check=False)
