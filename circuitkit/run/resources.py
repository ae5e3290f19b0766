"""Measuring wall time and peak memory, and parsing memory sizes such as "2GB"."""

import gc
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.linear_layers import scales_of_quantized
from circuitkit.precision.free_memory import return_free_memory
from circuitkit.run.callbacks import Callback
from circuitkit.storage.state import SavedState
from circuitkit.strategies.discovery import Discovery

MB = 2**20
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


_NOTHING: dict[str, float] = {"wall_s": 0.0, "peak_mb": 0.0}


class ResourceMonitor(Callback):
    """Adds wall time and peak memory to the run's metrics, separately for loading and for discovery.

    - `load_s`, `load_peak_mb`: making prompts, preparing the policy, and loading the model if the run loads it.
    - `wall_s`, `peak_mb`: the strategy. The peak includes the model's weights as they are under the policy.
    - `memory`: how the two peaks are measured. On Linux: the process's largest resident size (`VmHWM`, reset through
      `clear_refs` when loading has ended), minus its resident size before the model (the interpreter with its
      libraries). On CUDA: the largest size that torch had allocated. Elsewhere: the largest resident size of the
      whole process since it started, or None where the system does not report it.
    - `weights_high_mb`, `weights_low_mb`, `weights_full_mb`: the weights that the precision policy holds, by kind
      (`PrecisionPolicy.footprint`), if it changes any.

    Those of a resumed run cover all of it: the time up to the last saved state before each interruption, and the
    largest peak; loading is that of the first start. Megabytes are 2**20 bytes, times are seconds.

    Attributes:
        held: bytes in use when the discovery began: the model, as the policy has prepared it.
    """

    def __init__(self) -> None:
        self.held = 0
        self._earlier = dict(_NOTHING)

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        """Record the memory in use before the model is loaded."""
        gc.collect()
        return_free_memory()
        self._memory = _memory_probe(device)
        # A model that is already in memory counts as if this run had loaded it
        self._before = max(self._memory.now() - (0 if model is None else bytes_of(model, device)), 0)
        self._restart()

    def on_discovery_start(self, run: Discovery) -> None:
        """Record the time and memory of loading, and start measuring the discovery."""
        run.metrics.update(load_s=self._seconds(), load_peak_mb=self._peak_mb())
        self._earlier = dict(_NOTHING)
        return_free_memory()
        self.held = max(self._memory.now() - self._before, 0)
        self._restart()

    def on_save_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """Save the time and memory of the discovery so far."""
        saved["resources"] = self._so_far()

    def on_load_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """Continue from the time and memory of the interrupted run."""
        earlier = SavedState(saved.get("resources"), "the resources", _NOTHING)
        self._earlier = {name: earlier.number(name) for name in _NOTHING if earlier[name] is not None}

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """Record the time and memory of the discovery."""
        held = {f"weights_{kind}_mb": size / MB for kind, size in run.policy.footprint().items()}
        run.metrics.update(**self._so_far(), memory=self._memory.what, **held)

    def _so_far(self) -> dict[str, float | None]:
        peak = self._peak_mb()
        return {
            "wall_s": self._earlier.get("wall_s", 0.0) + self._seconds(),
            "peak_mb": None if peak is None else max(peak, self._earlier.get("peak_mb", 0.0)),
        }

    def _restart(self) -> None:
        self._memory.reset()
        self._started = time.perf_counter()

    def _seconds(self) -> float:
        self._memory.synchronize()
        return time.perf_counter() - self._started

    def _peak_mb(self) -> float | None:
        peak = self._memory.peak()
        return None if peak is None else max(peak - self._before, 0) / MB


def bytes_of(model: CircuitModel, device: torch.device) -> int:
    """Count the bytes of the model's weights on a device; shared weights count once."""
    tensors = (*model.model.parameters(), *model.model.buffers(), *scales_of_quantized(model.model))
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors if tensor.device.type == device.type}
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def parse_size(value: int | str) -> int:
    """Convert a memory size to bytes: a number, or text such as `"500MB"` (powers of 1024).

    Raises:
        UsageError: it is not a size above 0.
    """
    size = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if size:
        value = int(float(size[1]) * 1024 ** " KMGT".index((size[2] or " ").upper()))
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"The memory budget {value!r} is not a size.", "Give bytes, or a size such as 500MB or 2GB.")
    return value


class _MemoryProbe(Protocol):
    """A way to measure memory, in bytes."""

    what: str

    def now(self) -> int: ...

    def reset(self) -> None: ...

    def peak(self) -> int | None: ...

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""


class _ResidentMemory:
    """Linux: the process's resident size."""

    what = "resident memory beyond the interpreter with its libraries"
    _status, _clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def now(self) -> int:
        return self._field("VmRSS")

    def reset(self) -> None:
        self._clear.write_text("5")

    def peak(self) -> int:
        return self._field("VmHWM")

    def synchronize(self) -> None:
        pass

    def _field(self, name: str) -> int:
        for line in self._status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
        raise OSError(f"{self._status} has no {name}")

    @classmethod
    def is_available(cls) -> bool:
        """Tell whether this system reports the peak and can reset it."""
        try:
            cls().reset()
            return cls().peak() > 0
        except OSError:
            return False


class _CudaMemory:
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

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)


class _WholeProcessMemory:
    """Any other system: the largest resident size so far, which cannot be reset."""

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

    def synchronize(self) -> None:
        pass


def _memory_probe(device: torch.device) -> _MemoryProbe:
    if device.type == "cuda":
        return _CudaMemory(device)
    return _ResidentMemory() if _ResidentMemory.is_available() else _WholeProcessMemory()
