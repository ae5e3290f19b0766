"""Saved state: nested dictionaries of tensors and plain values, in one safetensors file.

A tensor is stored under its path of keys; the rest is JSON in the file's metadata. The file is written atomically: a
process killed at any moment leaves the old state or the new one.
"""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.storage.files import write_atomically

FINISHED = "finished.safetensors"
"""The name of the file that holds the circuits of a finished search, where a run has several."""
_TENSOR = "tensor:"
_FROM_SCRATCH = "Start from scratch: with --overwrite (overwrite=True) and without resuming, or in another folder."


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
            tensors[where] = value.detach().clone(memory_format=torch.contiguous_format)  # may be part of another
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
    tensors: dict[str, Tensor] = {}

    def whole(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_TENSOR):
            return tensors[value.removeprefix(_TENSOR)]
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return value

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            described = (file.metadata() or {})["state"]
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        found = whole(json.loads(described))
    except (OSError, ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise CircuitKitError(f"The saved state {path} cannot be read.", _FROM_SCRATCH) from error
    if not isinstance(found, dict):
        raise CircuitKitError(f"The saved state {path} holds no state.", _FROM_SCRATCH)
    return found


def misfit(problem: str) -> CircuitKitError:
    """Make the error for a saved state that does not fit the run; `problem` says where."""
    return CircuitKitError(f"The saved state does not fit this run: {problem}.", _FROM_SCRATCH)


class SavedState:
    """Reads the entries of a saved state, and checks them against what the run expects.

    Args:
        found: a part of the state.
        name: what error messages call it.
        keys: its entries.

    Raises:
        CircuitKitError: here and in all methods: the state does not fit the run.
    """

    def __init__(self, found: Any, name: str, keys: Collection[str]) -> None:
        if not isinstance(found, dict):
            raise misfit(f"{name} is not a mapping")
        if wrong := sorted(set(found) ^ set(keys)):
            raise misfit(f"{name} has {'an unknown' if wrong[0] in found else 'no'} entry {wrong[0]!r}")
        self._found, self._name = found, name

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def expect(self, key: str, fits: bool, wanted: str) -> None:
        """Refuse the state unless an entry fits; `wanted` says what it should be."""
        if not fits:
            value = self._found[key]
            shown = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else " ".join(repr(value).split())
            raise misfit(f"{key!r} of {self._name} is {shown if len(shown) < 60 else shown[:57] + '...'}, not {wanted}")

    def tensor(self, key: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """Return a tensor of this dtype and shape; -1 stands for any size."""
        value = self._found[key]
        sizes = value.shape if isinstance(value, Tensor) else ()
        fits = len(sizes) == len(shape) and all(want in (-1, size) for want, size in zip(shape, sizes, strict=True))
        self.expect(key, isinstance(value, Tensor) and value.dtype == dtype and fits, f"{dtype} {tuple(shape)}")
        found: Tensor = value
        return found

    def count(self, key: str, least: int = 0, most: int = 2**62) -> int:
        """Return an integer from `least` to `most`."""
        value = self._found[key]
        whole = isinstance(value, int) and not isinstance(value, bool)
        self.expect(key, whole and least <= value <= most, f"an integer from {least} to {most}")
        return int(value)

    def number(self, key: str) -> float:
        """Return a number of at least 0; infinity is one."""
        value = self._found[key]
        self.expect(key, _is_number(value) and value >= 0, "a number of at least 0")
        return float(value)

    def numbers(self, key: str) -> list[float]:
        """Return a list of finite numbers of at least 0."""
        value = self.items(key)
        fits = all(_is_number(item) and 0 <= item < math.inf for item in value)
        self.expect(key, fits, "a list of numbers of at least 0")
        return value

    def items(self, key: str) -> list[Any]:
        """Return a list."""
        self.expect(key, isinstance(self._found[key], list), "a list")
        found: list[Any] = self._found[key]
        return found

    def texts(self, key: str) -> list[str]:
        """Return a list of strings."""
        self.expect(key, all(isinstance(item, str) for item in self.items(key)), "a list of texts")
        return self.items(key)

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a dictionary."""
        self.expect(key, isinstance(self._found[key], dict), "a mapping")
        found: dict[str, Any] = self._found[key]
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
