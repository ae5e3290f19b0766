"""What a configuration cannot say in words: hashes of the prompts and of the model, so that a resumed run is the same.

A configuration names a task, a file, a model; what they stand for may have changed, and objects made in Python have no
name at all. A run with a folder records hashes of what it computes with in its configuration, under `content`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitkit.data.hashes import hash_prompts, hash_tensors
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.free_memory import return_free_memory
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.starting_circuit import has_circuit, read_folder

CONTENT = "content"
"""The key of a run's configuration that holds the hashes."""
_WORDS = {
    "weights": "a model with other weights",
    "settings": "a model with other settings",
    "train": "other prompts in the train split",
    "validation": "other prompts in the validation split",
    "test": "other prompts in the test split",
    "start": "another circuit to start from",
}
_NO_SETTINGS = ("transformers_version", "architectures", "dtype", "torch_dtype", "use_cache", "name_or_path")
"""Entries of a transformers configuration that say where a model is from or how it is held."""


def describe_content(
    model: CircuitModel, prompts: Mapping[str, PromptBatch], strategy: DiscoveryStrategy | None = None
) -> dict[str, str]:
    """Hash the model, the prompts of each split, and the circuits in the folders that a strategy starts from.

    Args:
        model: its weights are read once: about 0.3 s for 540 MB.
        prompts: by split.
        strategy: of the run.

    Returns:
        Hashes by what they are of: `weights` (names, shapes, dtypes and values), `settings`, each split and, where
        there are such folders and each has a circuit (a resumed run may need none), `start`.
    """
    found = {"weights": hash_tensors(_weights(model.model)), "settings": _hash_text(_settings(model))}
    return_free_memory()  # the pages of a mapped file that hashing has read
    found |= {split: hash_prompts(batch) for split, batch in prompts.items()}
    folders = [] if strategy is None else strategy.starting_folders
    if folders and all(map(has_circuit, folders)):
        found["start"] = _hash_text(" ".join(read_folder(folder).to_spec() for folder in folders))
    return found


def check_same_content(where: str | Path, made_with: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    """Check that a run computed with the wanted content.

    Args:
        where: the run's folder, for the message.
        made_with: the run's configuration.
        wanted: the content of the run that resumes it.

    Raises:
        UsageError: the content differs, or the run has no record of it.
    """
    recorded = made_with.get(CONTENT)
    if not isinstance(recorded, Mapping):
        raise UsageError(
            f"The run in {str(where)!r} does not say which prompts and weights it was made with.",
            "Start from scratch, in another folder or with --overwrite (overwrite=True).",
        )
    if different := differences(recorded, wanted):
        raise UsageError(
            f"The run in {str(where)!r} was made with {different[0]}.",
            "Give what it was made with, or another folder.",
        )


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """Say in words what differs, such as `"other prompts in the train split"`.

    Splits other than train may be unknown to one of the two, since they do not change what is found. So may the
    circuits to start from, where a folder is gone or an earlier version did not record them.
    """
    optional = {"validation", "test", "start"} - recorded.keys()
    return [_WORDS.get(key, key) for key, value in wanted.items() if key not in optional and recorded.get(key) != value]


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name all tensors; one that the module holds under several names is read once."""
    tensors = dict(module.named_buffers(remove_duplicate=False)) | module.state_dict()
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in sorted(tensors.items()):
        path, _, last = name.rpartition(".")
        if not isinstance(tensor, Tensor) or f"{path}.original_{last}" in tensors:
            continue  # a table that the model computes anew for longer prompts, beside the original
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and seen.setdefault(place, name) != name:
            tensor = torch.empty(0, dtype=tensor.dtype)
            name = f"{name}={seen[place]}"
        yield name, tensor


def _settings(model: CircuitModel) -> str:
    found = model.model.config.to_dict()
    kept = {key: value for key, value in found.items() if not key.startswith("_") and key not in _NO_SETTINGS}
    return json.dumps(kept, sort_keys=True, default=str)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
