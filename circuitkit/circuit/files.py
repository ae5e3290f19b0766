"""Circuit files.

A circuit is saved as `NAME.safetensors` (scores, kept, and the score sources as `origin`) and `NAME.json` (everything
else). The JSON file also holds the hash of the tensor file, so that `load` refuses a damaged one or another circuit's.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.storage.files import read_bytes, read_json, write_atomically

VERSION = 1
_KEYS = ("version", "graph", "selection", "tie", "sha256")
_OPTIONAL = {"positions": "constant", "coupled": False}
"""Fields of the graph that are left out if they have this value: earlier versions read such files."""
_DTYPES = {
    "scores": (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    "kept": (torch.bool,),
    "origin": (torch.int8,),
}
_SAVE_AGAIN = "Save the circuit again."


class Contents(NamedTuple):
    """The parts of a circuit: the fields of `Circuit`."""

    graph: EdgeGraph
    scores: Tensor
    kept: Tensor
    score_sources: Tensor
    selection: str
    tie: bool


def save(folder: Path, name: str, contents: Contents) -> None:
    """Write `name.safetensors` and `name.json` into a folder, which is created if it is missing.

    Raises:
        UsageError: the name would lead out of the folder.
        CircuitKitError: the files cannot be written.
    """
    tensors = {"scores": contents.scores, "kept": contents.kept, "origin": contents.score_sources}
    data = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
    described = {
        "version": VERSION,
        "graph": {key: value for key, value in asdict(contents.graph).items() if _OPTIONAL.get(key, ...) != value},
        "selection": contents.selection,
        "tie": contents.tie,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    json_path, tensor_path = _paths(folder, name)
    write_atomically(tensor_path, data)
    write_atomically(json_path, (json.dumps(described, indent=2) + "\n").encode())


def load(folder: Path, name: str) -> Contents:
    """Read the files that `save` writes.

    Raises:
        UsageError: the name would lead out of the folder.
        CircuitKitError: a file is missing, damaged, of an unknown version, or not a circuit's.
    """
    json_path, tensor_path = _paths(folder, name)
    described = _read_description(json_path)
    data = read_bytes(tensor_path)
    if hashlib.sha256(data).hexdigest() != described["sha256"]:
        raise CircuitKitError(f"{tensor_path} is damaged, or belongs to another circuit than {json_path}.", _SAVE_AGAIN)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CircuitKitError(f"{tensor_path} is not a safetensors file.", _SAVE_AGAIN) from error
    _check_keys(tensor_path, tensors, tuple(_DTYPES))
    for key, dtypes in _DTYPES.items():
        if tensors[key].ndim != 1 or tensors[key].dtype not in dtypes:
            found = f"{tensors[key].dtype} {list(tensors[key].shape)}"
            raise CircuitKitError(f"{tensor_path} holds {found} as {key!r}.", _SAVE_AGAIN)
    graph = _graph(json_path, described["graph"], len(tensors["scores"]))
    for key, tensor in tensors.items():
        if len(tensor) != len(graph):
            raise CircuitKitError(
                f"{tensor_path} holds {key!r} of {len(tensor)} edges, but its graph has {len(graph)}.", _SAVE_AGAIN
            )
    return Contents(
        graph, tensors["scores"], tensors["kept"], tensors["origin"], described["selection"], described["tie"]
    )


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\0" in name:
        raise UsageError(
            f"{quote(name)} is not a name for a circuit's files.", "Give a plain file name without an ending."
        )
    return folder / f"{name}.json", folder / f"{name}.safetensors"


def _check_keys(where: Path | str, found: dict[str, Any], known: tuple[str, ...]) -> None:
    for problem, keys in (("has an unknown", found.keys() - set(known)), ("lacks the", set(known) - found.keys())):
        if keys:
            first = min(keys, key=str)
            raise CircuitKitError(f"{where} {problem} entry {first!r}.", f"It must hold {', '.join(known)}.")


def _read_description(path: Path) -> dict[str, Any]:
    found = read_json(path)
    version = found.get("version")
    # Checked before the keys, since another version may have others
    if isinstance(version, bool) or version != VERSION:
        raise CircuitKitError(
            f"{path} is of version {version!r}, but this circuitkit reads version {VERSION}.",
            "Read it with the version of circuitkit that wrote it.",
        )
    _check_keys(path, found, _KEYS)
    for key, kind in (("graph", dict), ("selection", str), ("tie", bool), ("sha256", str)):
        if not isinstance(found[key], kind):
            raise CircuitKitError(f"{path} holds {found[key]!r} as {key!r}.", _SAVE_AGAIN)
    return found


def _graph(path: Path, found: dict[str, Any], edges: int) -> EdgeGraph:
    kinds: dict[str, type] = {"layers": int, "heads": int, "kv_heads": int, "parallel": bool, "mlps": bool, "kv": str}
    kinds |= {key: type(usual) for key, usual in _OPTIONAL.items() if key in found}
    _check_keys(f"The graph in {path}", found, tuple(kinds))
    for key, kind in kinds.items():
        # No dimension exceeds the number of edges, and building such a graph would take forever
        if type(found[key]) is not kind or (kind is int and not 0 < found[key] <= edges):
            raise CircuitKitError(f"The graph in {path} has {key!r} {found[key]!r}.", _SAVE_AGAIN)
    try:
        return EdgeGraph(**found)
    except UsageError as error:
        raise CircuitKitError(f"The graph in {path} is impossible: {error.problem}", _SAVE_AGAIN) from error
