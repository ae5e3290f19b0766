"""How much memory there is, and how large a batch fits into it."""

from pathlib import Path

import torch

from circuitkit.errors import CircuitKitError

SHARE = 0.5
"""What part of the free memory the engine's largest buffers may take together."""


def budget(device: torch.device) -> int:
    """Bytes the engine may use on a device: half of what is free."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(SHARE * 1024 * int(line.split()[1]))
    return 4 << 30  # no way to ask: what a small machine has


def how_many(bytes_each: int, available: int, what: str) -> int:
    """How many of something fit into `available` bytes.

    Raises:
        CircuitKitError: not even one does.
    """
    count = available // max(bytes_each, 1)
    if count < 1:
        raise CircuitKitError(
            f"One {what} takes {bytes_each / 2**20:,.0f} MiB, and {available / 2**20:,.0f} MiB may be used.",
            "Use shorter prompts or a smaller model, raise the memory budget, or free memory.",
        )
    return count
