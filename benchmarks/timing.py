"""Time and memory of functions that are compared in one run."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from circuitkit import CircuitModel, PromptBatch


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


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
