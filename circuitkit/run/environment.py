"""The time, package versions and machine of a run."""

import os
import platform
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = (
    "pahq-circuitkit",
    "torch",
    "transformers",
    "lightning",
    "bitsandbytes",
    "numpy",
    "safetensors",
    "jsonargparse",
)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Describe time, package versions and hardware, without the machine's name."""
    machine = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": _physical_memory() // 2**20,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": dict(_versions()), "machine": machine}


@cache
def _versions() -> dict[str, str]:
    """Look the versions up once: that takes long, and a process keeps what it has imported."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return versions


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0
