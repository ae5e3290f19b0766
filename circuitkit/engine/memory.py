"""Free memory, and the size of a batch that fits into it."""

from pathlib import Path

import torch

from circuitkit.errors import CircuitKitError

FRACTION = 0.5
"""The fraction of the free memory that the engine's largest buffers may take together."""
_UNKNOWN = 4 << 30  # for systems that do not report free memory: that of a small machine


def budget(device: torch.device) -> int:
    """Return the bytes that the engine may use on a device: half of what is free."""
    if device.type == "cuda":
        return int(FRACTION * torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(FRACTION * 1024 * int(line.split()[1]))
    return _UNKNOWN


def how_many(bytes_each: int, available: int, what: str) -> int:
    """Compute how many items fit into `available` bytes.

    Args:
        bytes_each: of one item.
        available: bytes.
        what: the name of an item, for the error message.

    Raises:
        CircuitKitError: not even one fits.
    """
    count = available // max(bytes_each, 1)
    if count < 1:
        raise CircuitKitError(
            f"One {what} takes {bytes_each / 2**20:,.0f} MiB, but only {available / 2**20:,.0f} MiB may be used.",
            "Use shorter prompts or a smaller model, raise the memory budget, or free memory.",
        )
    return count
