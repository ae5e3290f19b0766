"""Storage of the full-precision weights of a model under a policy, outside the memory that the policy saves.

On a CPU, they are in an unnamed temporary file, which the system removes when the process ends for any reason. They are
read into new tensors, not mapped: mapped pages would count as resident. On CUDA, they are in pinned host memory.

A store holds rows of one length: row `i` of `("attention", layer)` is key-value group `i`, so that a unit is one
contiguous read; `("mlp", layer)` is a single row.
"""

import os
import tempfile
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.precision.units import Unit

Key = tuple[str, int]
"""Kind of unit, and layer."""


class WeightStore(Protocol):
    """Stores full-precision weights, bit for bit."""

    @property
    def nbytes(self) -> int:
        """Return the bytes stored."""

    def write(self, key: Key, rows: Tensor) -> None:
        """Store `rows`, `[n, size]` on the CPU."""

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows `start` to `stop` on the model's device; they must not be written to."""

    def prefetch(self, units: Collection[Unit]) -> None:
        """Prepare to read these units, and no others."""

    def close(self) -> None:
        """Free everything."""


def make_weight_store(device: torch.device, needed: int) -> WeightStore:
    """Make an empty store for the weights of a model on a device.

    Args:
        device: the model's.
        needed: bytes that will be written, for the message if there is no space.

    Raises:
        CircuitKitError: there is no temporary folder that can be written to.
    """
    return PinnedWeightStore(device) if device.type == "cuda" else FileWeightStore(device, needed)


class FileWeightStore:
    """Stores weights in an unnamed temporary file."""

    def __init__(self, device: torch.device, needed: int) -> None:
        self.nbytes = 0
        self._device = device
        self._needed = needed
        self._places: dict[Key, tuple[int, torch.Size, torch.dtype]] = {}  # offset, shape, dtype
        try:
            self._file = tempfile.TemporaryFile(prefix="circuitkit-", buffering=0)  # noqa: SIM115  closed by `close`
        except OSError as error:
            raise self._no_space(error) from error

    def write(self, key: Key, rows: Tensor) -> None:
        """Append to the file.

        Raises:
            CircuitKitError: there is no space.
        """
        left = _bytes_of(rows)
        offset = self.nbytes
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                offset, left = offset + written, left[written:]
        except OSError as error:
            raise self._no_space(error) from error
        self._places[key] = (self.nbytes, rows.shape, rows.dtype)
        self.nbytes = offset

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """Read contiguously into a new tensor.

        Raises:
            CircuitKitError: the file cannot be read.
        """
        offset, (count, size), dtype = self._places[key]
        rows = torch.empty((count if stop is None else stop) - start, size, dtype=dtype)
        offset, left = offset + start * size * dtype.itemsize, _bytes_of(rows)
        while left:
            got = os.preadv(self._file.fileno(), [left], offset)
            if not got:
                raise CircuitKitError(
                    f"The full-precision weights end {len(left)} bytes early in {_folder()}.",
                    "Check that disk, and run again.",
                )
            offset, left = offset + got, left[got:]
        return rows.to(self._device)

    def prefetch(self, units: Collection[Unit]) -> None:
        """Do nothing: the system reads ahead."""

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _no_space(self, error: OSError) -> CircuitKitError:
        return CircuitKitError(
            f"The full-precision weights take {self._needed / 2**20:,.1f} MiB in {_folder()}, which cannot be written: "
            f"{error.strerror or error}.",
            "Free that much there, or set the environment variable TMPDIR to a folder with more space.",
        )


class PinnedWeightStore:
    """Stores weights in pinned host memory; prefetched units are copied to the device on a separate stream."""

    def __init__(self, device: torch.device) -> None:
        self.nbytes = 0
        self._device = device
        self._rows: dict[Key, Tensor] = {}
        self._fetched: dict[Unit, Callable[[], Tensor]] = {}

    def write(self, key: Key, rows: Tensor) -> None:
        """Copy to pinned memory.

        Raises:
            CircuitKitError: there is not enough.
        """
        try:
            self._rows[key] = self._pin(rows)
        except RuntimeError as error:
            raise CircuitKitError(
                f"{rows.nbytes / 2**20:,.1f} MiB of full-precision weights cannot be pinned in host memory: "
                f"{str(error).splitlines()[0]}.",
                "Free memory, or raise the limit for locked memory (ulimit -l).",
            ) from error
        self.nbytes += rows.nbytes

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """Return prefetched rows when they have arrived; copy others on the current stream."""
        kind, layer = key
        rows = self._rows[key]
        stop = len(rows) if stop is None else stop
        if stop == start + 1 and (fetched := self._fetched.get(Unit(kind, layer, start))):  # type: ignore[arg-type]
            return fetched()
        return rows[start:stop].to(self._device, non_blocking=True)

    def prefetch(self, units: Collection[Unit]) -> None:
        """Start to copy those of these units that are not on the device, and drop all other units."""
        self._fetched = {unit: fetched for unit, fetched in self._fetched.items() if unit in units}
        for unit in units:
            if unit not in self._fetched:
                source = self._rows[unit.kind, unit.layer][unit.group : unit.group + 1]
                self._fetched[unit] = self._start_copy(source)

    def close(self) -> None:
        """Let the memory go; torch waits for copies in progress, and may keep pinned pages for its next use of them."""
        self._fetched.clear()
        self._rows.clear()

    # What needs a CUDA device

    def _pin(self, rows: Tensor) -> Tensor:
        return rows.pin_memory()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def _start_copy(self, source: Tensor) -> Callable[[], Tensor]:
        """Start to copy to the device; return a function that waits for the copy and returns it."""
        with torch.cuda.stream(self._stream):
            rows = source.to(self._device, non_blocking=True)
        arrived = self._stream.record_event()

        def wait() -> Tensor:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrived)
            rows.record_stream(current)  # its memory is reused only after the current stream is done with it
            return rows

        return wait


def _folder() -> str:
    """Describe the folder of temporary files; `tempfile.gettempdir` would fail if there is none."""
    return tempfile.tempdir or os.environ.get("TMPDIR") or "the temporary folder"


def _bytes_of(rows: Tensor) -> memoryview:
    return rows.contiguous().view(torch.uint8).flatten().numpy().data
