"""What is told of a run as it goes: hooks, a progress bar, time and memory."""

import ctypes
import gc
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from circuitkit.circuit import Circuit
from circuitkit.engine.greedy import Search
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.strategies.base import Discovery

MB = 2**20


class Callback:
    """Hooks that do nothing; a subclass overrides those it wants. Any object with some of them will do."""

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        """Before prompts are made and the policy is prepared; `model` is None where it is yet to be loaded."""

    def on_discovery_start(self, run: Discovery) -> None:
        """Everything is ready; the strategy is next."""

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """`done` of `total` units are through; `shown` are figures to show beside it."""

    def on_reader_end(self, run: Discovery, search: Search) -> None:
        """A search has decided all edges of one reader."""

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """The strategy has returned; nothing is evaluated yet."""

    def on_exception(self, run: Discovery, exception: BaseException) -> None:
        """The strategy has failed, or was interrupted; the exception goes on afterwards."""


class RichProgress(Callback):
    """A bar with what is done, the figures a strategy shows (edges tested, edges kept), and the time left.

    Args:
        console: where to draw; by default stderr, so that stdout has the results alone. Nothing is drawn unless it
            is a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_discovery_start(self, run: Discovery) -> None:
        """Start drawing."""
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("discovering", total=None, figures="")
        self._bar.start()

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """Move the bar; it starts anew when the strategy does (its next threshold)."""
        if self._bar is None:
            return
        if done < self._bar.tasks[0].completed:
            self._bar.reset(self._task)
        figures = ", ".join(f"{name} {_number(value)}" for name, value in shown.items())
        text = f"{done:,} of {total:,} {unit}"
        self._bar.update(self._task, description=text, completed=done, total=total, figures=figures)

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, run: Discovery, exception: BaseException) -> None:
        """Take the bar away."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


class ProgressLog(Callback):
    """Progress, and the final figures, as rows of the loggers."""

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """A row for each report."""
        run.fabric.log_dict({unit: done, **_numbers(shown)})

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """A row with what the run cost."""
        run.fabric.log_dict(_numbers(run.metrics))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


class ResourceMonitor(Callback):
    """Wall time and peak memory of a run, of loading and of discovery apart, as figures in its metrics.

    - `load_s`, `load_peak_mb`: making prompts, preparing the policy, and loading the model where the run loads it.
    - `wall_s`, `peak_mb`: the strategy. The model's weights are in it, as they stand under the policy.
    - `memory`: what the two peaks are of. On Linux the process's largest resident size (`VmHWM`, reset through
      `clear_refs` when loading has ended) beyond what was resident before the model: the interpreter with its
      libraries. On CUDA what torch had allocated at most. Elsewhere the largest resident size of the whole process
      since it started, or None where the system does not tell.
    - `weights_high_mb`, `weights_low_mb`, `weights_masters_mb`: what a precision policy holds, where it changes any.

    Megabytes are 2**20 bytes, times are seconds.
    """

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        """Note what is resident before the model."""
        gc.collect()
        _return_freed_memory()
        self._memory = _memory_of(device)
        # A model that is loaded already counts as if this run had loaded it
        self._before = max(self._memory.now() - (0 if model is None else bytes_of(model, device)), 0)
        self._restart()

    def on_discovery_start(self, run: Discovery) -> None:
        """Close the account of loading, and open that of the discovery."""
        run.metrics.update(load_s=self._seconds(), load_peak_mb=self._peak_mb())
        _return_freed_memory()
        self._restart()

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """Close the account of the discovery."""
        held = {f"weights_{kind}_mb": size / MB for kind, size in run.policy.footprint().items()}
        run.metrics.update(wall_s=self._seconds(), peak_mb=self._peak_mb(), memory=self._memory.what, **held)

    def _restart(self) -> None:
        self._memory.reset()
        self._started = time.perf_counter()

    def _seconds(self) -> float:
        self._memory.settle()
        return time.perf_counter() - self._started

    def _peak_mb(self) -> float | None:
        peak = self._memory.peak()
        return None if peak is None else max(peak - self._before, 0) / MB


class _Memory(Protocol):
    """A way to ask for memory, in bytes."""

    what: str

    def now(self) -> int: ...

    def reset(self) -> None: ...

    def peak(self) -> int | None: ...

    def settle(self) -> None:
        """Wait for work under way."""


class _Resident:
    """Linux: the process's resident size."""

    what = "resident memory beyond the interpreter with its libraries"
    _status, _clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def now(self) -> int:
        return self._field("VmRSS")

    def reset(self) -> None:
        self._clear.write_text("5")

    def peak(self) -> int:
        return self._field("VmHWM")

    def settle(self) -> None:
        pass

    def _field(self, name: str) -> int:
        for line in self._status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
        raise OSError(f"{self._status} has no {name}")

    @classmethod
    def works(cls) -> bool:
        """Whether this system has it, and lets it be reset."""
        try:
            cls().reset()
            return cls().peak() > 0
        except OSError:
            return False


class _Allocated:
    """CUDA: what torch has allocated."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.what = f"memory allocated on {torch.cuda.get_device_name(device)}"

    def now(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def settle(self) -> None:
        torch.cuda.synchronize(self._device)


class _WholeProcess:
    """Anywhere else: the largest resident size so far, which cannot be reset."""

    what = "resident memory of the whole process, at its largest since it started"

    def now(self) -> int:
        return 0

    def reset(self) -> None:
        pass

    def peak(self) -> int | None:
        try:
            import resource
        except ImportError:  # Windows
            return None
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else 1024 * largest

    def settle(self) -> None:
        pass


def _memory_of(device: torch.device) -> _Memory:
    if device.type == "cuda":
        return _Allocated(device)
    return _Resident() if _Resident.works() else _WholeProcess()


def bytes_of(model: CircuitModel, device: torch.device) -> int:
    """The model's weights on a device; those that are shared count once."""
    tensors = (*model.model.parameters(), *model.model.buffers())
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors if tensor.device.type == device.type}
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def _return_freed_memory() -> None:
    """Give back what the C library has kept of freed memory (glibc), so that it counts for nobody."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
