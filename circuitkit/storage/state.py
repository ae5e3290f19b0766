"""Saved state: nested dictionaries of tensors and plain values, in one safetensors file.

A tensor is stored under its path of keys; the rest is JSON in the file's metadata. The file is written atomically: a
process killed at any moment leaves the old state or the new one.
"""

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.storage.files import write_atomically

_TENSOR = "tensor:"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically.

    Args:
        path: the file.
        state: dictionaries with string keys, lists, tensors, and values that JSON can hold.

    Raises:
        CircuitKitError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, where: str) -> Any:
        if isinstance(value, Tensor):
            tensors[where] = value.contiguous()
            return f"{_TENSOR}{where}"
        if isinstance(value, dict):
            return {key: plain(item, f"{where}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item, f"{where}/{index}") for index, item in enumerate(value)]
        return value

    described = json.dumps(plain(state, ""))
    write_atomically(path, safetensors.torch.save(tensors, {"state": described}))


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that `save_state` wrote.

    Raises:
        CircuitKitError: the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CircuitKitError(
            f"The saved state {path} cannot be read.", "Start from scratch, without resuming."
        ) from error

    def whole(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_TENSOR):
            return tensors[value.removeprefix(_TENSOR)]
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return value

    found: dict[str, Any] = whole(described)
    return found
