"""Time and memory of functions that are compared in one run."""

import ctypes
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from circuitkit import Circuit, CircuitModel, PromptBatch
from circuitkit.run.callbacks import Callback
from circuitkit.strategies.discovery import Discovery


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the median seconds of each, measured in turn so that load on the machine affects all alike.

    One round more is run first, as a warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if round_:
                times[name].append(clock() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}


def forward_seconds(model: CircuitModel, batch: PromptBatch) -> float:
    """Time one plain transformers forward pass, logits at the last position only."""

    def run() -> None:
        with torch.no_grad():
            model.model(batch.clean, use_cache=False, logits_to_keep=1)

    return interleaved({"forward": run}, 7)["forward"]


def peak_mb(function: Callable[[], object]) -> float:
    """Return the MiB that a call adds to the process's resident memory at its peak (Linux)."""
    function()  # so that memory which is allocated once and kept does not count
    with Peak() as peak:
        function()
        return peak.so_far()


class Peak:
    """The largest resident size (Linux) beyond what was resident on entry, in MiB."""

    def __enter__(self) -> "Peak":
        self.restart()
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def restart(self) -> None:
        """Reset the peak; memory that the C library has kept after it was freed is returned first."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")

    def so_far(self) -> float:
        """Return the peak since entry or restart."""
        return (_status("VmHWM") - self._before) / 1024


class Seconds(Callback):
    """Measures a search in seconds of the processor, over interruptions; keeps them by run folder in a file."""

    KEY = "seconds"

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds.json"
        self._found: dict[str, float] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._started, self._before = 0.0, 0.0

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        self._before = 0.0

    def on_discovery_start(self, run: Discovery) -> None:
        self._started = time.process_time()

    def on_save_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        saved[self.KEY] = self._spent()

    def on_load_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        self._before = saved.get(self.KEY, math.nan)

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        assert run.folder is not None, "every point has a run folder"
        if math.isfinite(spent := self._spent()):
            self._found[run.folder.name] = round(spent, 1)
            self._file.write_text(json.dumps(self._found))

    def of(self, *folders: str) -> float | None:
        """Return the sum of some runs; None if one of them was not measured from its start."""
        if not self._found.keys() >= set(folders):
            return None
        return round(sum(self._found[folder] for folder in folders), 1)

    def _spent(self) -> float:
        return self._before + time.process_time() - self._started


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
