"""The full-precision weights of a model under a policy, kept where they take no memory that counts.

On a CPU they lie in an unnamed temporary file, which the system removes with the process however it ends. They are read
into fresh tensors, not mapped: mapped pages would count as resident. On CUDA they lie in pinned host memory.

What is kept is rows of one length: row `i` of `("attention", layer)` is key-value group `i`, so that a unit is one
contiguous read; `("mlp", layer)` is a single row.
"""

import os
import tempfile
from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.precision.units import Unit

Key = tuple[str, int]
"""Kind of unit, and layer."""


class Masters(Protocol):
    """Where full-precision weights are kept, bit for bit."""

    @property
    def nbytes(self) -> int:
        """How much is kept."""

    def write(self, key: Key, rows: Tensor) -> None:
        """Keep `rows`, `[n, size]` on the CPU."""

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows `start` to `stop` on the model's device; not to be written to."""

    def prefetch(self, units: Collection[Unit]) -> None:
        """These units will be read soon, and no others."""

    def close(self) -> None:
        """Let go of everything."""


def make_masters(device: torch.device, needed: int) -> Masters:
    """An empty store for the weights of a model on this device.

    Args:
        device: the model's.
        needed: bytes that will be written, for the message if there is no room.

    Raises:
        CircuitKitError: there is no temporary folder that can be written to.
    """
    return PinnedMasters(device) if device.type == "cuda" else FileMasters(device, needed)


class FileMasters:
    """In a temporary file without a name."""

    def __init__(self, device: torch.device, needed: int) -> None:
        self.nbytes = 0
        self._device = device
        self._needed = needed
        self._places: dict[Key, tuple[int, torch.Size, torch.dtype]] = {}  # offset, shape, dtype
        try:
            self._file = tempfile.TemporaryFile(prefix="circuitkit-", buffering=0)  # noqa: SIM115  closed by `close`
        except OSError as error:
            raise self._no_room(error) from error

    def write(self, key: Key, rows: Tensor) -> None:
        """Append to the file.

        Raises:
            CircuitKitError: there is no room.
        """
        left = _bytes_of(rows)
        offset = self.nbytes
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                offset, left = offset + written, left[written:]
        except OSError as error:
            raise self._no_room(error) from error
        self._places[key] = (self.nbytes, rows.shape, rows.dtype)
        self.nbytes = offset

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """One contiguous read into a fresh tensor.

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
                    "Check that disk, and start anew.",
                )
            offset, left = offset + got, left[got:]
        return rows.to(self._device)

    def prefetch(self, units: Collection[Unit]) -> None:
        """Nothing to do: reading ahead is the system's business."""

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _no_room(self, error: OSError) -> CircuitKitError:
        return CircuitKitError(
            f"The full-precision weights take {self._needed / 2**20:,.1f} MiB in {_folder()}, which cannot be written: "
            f"{error.strerror or error}.",
            "Free that much there, or set the environment variable TMPDIR to a folder with more room.",
        )


class PinnedMasters:
    """In pinned host memory; units that are read soon are copied to the device on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self.nbytes = 0
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._rows: dict[Key, Tensor] = {}
        self._fetched: dict[Unit, tuple[Tensor, torch.cuda.Event]] = {}

    def write(self, key: Key, rows: Tensor) -> None:
        """Copy to pinned memory."""
        self._rows[key] = rows.pin_memory()
        self.nbytes += rows.nbytes

    def read(self, key: Key, start: int = 0, stop: int | None = None) -> Tensor:
        """What was prefetched, once it has arrived; anything else is copied on the current stream."""
        kind, layer = key
        if stop == start + 1 and (fetched := self._fetched.get(Unit(kind, layer, start))):  # type: ignore[arg-type]
            rows, arrived = fetched
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrived)
            rows.record_stream(current)  # its memory is not used again before the current stream is done with it
            return rows
        return self._rows[key][start:stop].to(self._device, non_blocking=True)

    def prefetch(self, units: Collection[Unit]) -> None:
        """Begin to copy what is not there yet, and drop what is not wanted."""
        self._fetched = {unit: fetched for unit, fetched in self._fetched.items() if unit in units}
        for unit in units:
            if unit not in self._fetched:
                with torch.cuda.stream(self._stream):
                    source = self._rows[unit.kind, unit.layer][unit.group : unit.group + 1]
                    rows = source.to(self._device, non_blocking=True)
                self._fetched[unit] = rows, self._stream.record_event()

    def close(self) -> None:
        """Free the memory; torch waits for copies under way."""
        self._fetched.clear()
        self._rows.clear()


def _folder() -> str:
    """Where temporary files go; to ask `tempfile` would fail where there is no such folder."""
    return tempfile.tempdir or os.environ.get("TMPDIR") or "the temporary folder"


def _bytes_of(rows: Tensor) -> memoryview:
    return rows.contiguous().view(torch.uint8).flatten().numpy().data
