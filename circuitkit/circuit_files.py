"""Circuits on disk.

A circuit is saved as `NAME.safetensors` (scores, kept, origin) and `NAME.json` (everything else, and the hash of the
first, so that neither a damaged tensor file nor two files of different circuits pass for one circuit). Both are
written beside their destination and renamed onto it.
"""

import hashlib
import json
import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.graph import EdgeGraph

VERSION = 1
_KEYS = ("version", "graph", "selection", "tie", "sha256")
_DTYPES = {
    "scores": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "kept": (torch.bool,),
    "origin": (torch.int8,),
}
_SAVE_ANEW = "Save the circuit anew."


class Contents(NamedTuple):
    """What a circuit consists of; the fields of `Circuit`."""

    graph: EdgeGraph
    scores: Tensor
    kept: Tensor
    origin: Tensor
    selection: str
    tie: bool


def save(folder: Path, name: str, contents: Contents) -> None:
    """Write `name.safetensors` and `name.json` into a folder, which is made if it is missing.

    Raises:
        UsageError: the name would lead out of the folder.
        CircuitKitError: the files cannot be written.
    """
    tensors = {"scores": contents.scores, "kept": contents.kept, "origin": contents.origin}
    data = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
    described = {
        "version": VERSION,
        "graph": asdict(contents.graph),
        "selection": contents.selection,
        "tie": contents.tie,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    json_path, tensor_path = _paths(folder, name)
    write_atomically(tensor_path, data)
    write_atomically(json_path, (json.dumps(described, indent=2) + "\n").encode())


def load(folder: Path, name: str) -> Contents:
    """Read what `save` wrote.

    Raises:
        UsageError: the name would lead out of the folder.
        CircuitKitError: a file is missing, damaged, of an unknown version, or not a circuit's.
    """
    json_path, tensor_path = _paths(folder, name)
    described = _described(json_path)
    data = read_bytes(tensor_path)
    if hashlib.sha256(data).hexdigest() != described["sha256"]:
        raise CircuitKitError(f"{tensor_path} is damaged, or belongs to another circuit than {json_path}.", _SAVE_ANEW)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CircuitKitError(f"{tensor_path} is not a safetensors file.", _SAVE_ANEW) from error
    _check_keys(tensor_path, tensors, tuple(_DTYPES))
    for key, dtypes in _DTYPES.items():
        if tensors[key].ndim != 1 or tensors[key].dtype not in dtypes:
            found = f"{tensors[key].dtype} {list(tensors[key].shape)}"
            raise CircuitKitError(f"{tensor_path} holds {found} as {key!r}.", _SAVE_ANEW)
    graph = _graph(json_path, described["graph"], len(tensors["scores"]))
    for key, tensor in tensors.items():
        if len(tensor) != len(graph):
            raise CircuitKitError(
                f"{tensor_path} holds {key!r} of {len(tensor)} edges, its graph has {len(graph)}.", _SAVE_ANEW
            )
    return Contents(graph, **tensors, selection=described["selection"], tie=described["tie"])


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and never a part.

    Raises:
        CircuitKitError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror}."
        raise CircuitKitError(problem, "Choose another place, or make room.") from error


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    if Path(name).name != name or name in ("", ".."):
        raise UsageError(f"{name!r} is not a name for a circuit's files.", "Give a plain file name without an ending.")
    return folder / f"{name}.json", folder / f"{name}.safetensors"


def read_bytes(path: Path) -> bytes:
    """A file's contents.

    Raises:
        CircuitKitError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CircuitKitError(f"There is no file {path}.", "Give the place where the circuit was saved.") from error
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}."
        raise CircuitKitError(problem, "Check the path and its permissions.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CircuitKitError: the file is missing, damaged, or holds something else.
    """
    data = read_bytes(path)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CircuitKitError(f"{path} is damaged, or not a JSON file.", "Give a file that is whole.") from error
    if not isinstance(found, dict):
        raise CircuitKitError(f"{path} does not hold a JSON object.", "Give a circuit's file.")
    return found


def _check_keys(where: Path | str, found: dict[str, Any], known: tuple[str, ...]) -> None:
    for problem, keys in (("has an unknown", found.keys() - set(known)), ("lacks the", set(known) - found.keys())):
        if keys:
            first = min(keys, key=str)
            raise CircuitKitError(f"{where} {problem} entry {first!r}.", f"It must hold {', '.join(known)}.")


def _described(path: Path) -> dict[str, Any]:
    found = read_json(path)
    version = found.get("version")
    # Before the keys: another version may well have others
    if isinstance(version, bool) or version != VERSION:
        raise CircuitKitError(
            f"{path} is of version {version!r}, this circuitkit reads version {VERSION}.",
            "Read it with the circuitkit that wrote it.",
        )
    _check_keys(path, found, _KEYS)
    for key, kind in (("graph", dict), ("selection", str), ("tie", bool), ("sha256", str)):
        if not isinstance(found[key], kind):
            raise CircuitKitError(f"{path} holds {found[key]!r} as {key!r}.", _SAVE_ANEW)
    return found


def _graph(path: Path, found: dict[str, Any], edges: int) -> EdgeGraph:
    kinds: dict[str, type] = {"layers": int, "heads": int, "kv_heads": int, "parallel": bool, "mlps": bool, "kv": str}
    _check_keys(f"The graph in {path}", found, tuple(kinds))
    for key, kind in kinds.items():
        # A number beyond that of the edges cannot be right, and would take for ever to count
        if type(found[key]) is not kind or (kind is int and not 0 < found[key] <= edges):
            raise CircuitKitError(f"The graph in {path} has {key!r} {found[key]!r}.", _SAVE_ANEW)
    try:
        return EdgeGraph(**found)
    except UsageError as error:
        raise CircuitKitError(f"The graph in {path} is impossible: {error.problem}", _SAVE_ANEW) from error
