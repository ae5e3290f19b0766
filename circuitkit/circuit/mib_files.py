"""Submissions to the leaderboard of MIB's circuit track (Mueller et al. 2025, arXiv 2504.13151).

A submission is a folder with one folder per task and model, such as `ioi_gpt2`. There are two kinds:

- importances: one file with a score for every edge. MIB ranks the edges by score for CPR and by |score| for CMD, and
  disregards which edges the file keeps.
- circuits: nine files. The edges that the first keeps are at most 0.1% of all, those of the second 0.2%, and so on
  (`SIZES`, without the full model). MIB sorts them by their number of edges, and has the same nine for CPR and CMD.

The files are EAP-IG's, of the effects on a loss: an edge that helps has a positive score, as in this package. Edges are
counted with keys and values per query head. What a submission needs was read from
https://github.com/hannamw/MIB-circuit-track (June 2025) and https://github.com/mttk/MIB-circuit-track-autoeval (August
2025), which scores the submissions.
"""

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph, same_edges
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.storage.files import to_path
from circuitkit.storage.owned_folder import cannot_write

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's fractions of the edges; the last is the full model, which a submission does not contain."""

MODELS = {
    "gpt2": (EdgeGraph(12, 12, 12), 768),
    "qwen2.5": (EdgeGraph(24, 14, 2), 896),
    "gemma2": (EdgeGraph(26, 8, 4, coupled=True), 2304),
    "llama3": (EdgeGraph(32, 32, 8), 4096),
}
"""MIB's models (GPT-2 small, Qwen2.5-0.5B, Gemma-2-2B, Llama-3.1-8B): graph and residual width D."""

TASKS = {
    "ioi": ("gpt2", "qwen2.5", "gemma2", "llama3"),
    "mcqa": ("qwen2.5", "gemma2", "llama3"),
    "arithmetic-addition": ("llama3",),
    "arithmetic-subtraction": ("llama3",),
    "arc-easy": ("gemma2", "llama3"),
    "arc-challenge": ("llama3",),
}
"""MIB's tasks, and the models that each is scored on."""

_ENDINGS = (".json", ".pt")


def write_mib_submission(folder: str | Path, task: str, model: str, circuits: Circuit | Sequence[Circuit]) -> Path:
    """Write what a submission to MIB has for one task and model.

    Args:
        folder: the submission, created if missing; MIB asks for at least two tasks and two models in it.
        task: MIB's name of the task, such as "ioi".
        model: MIB's name of the model, such as "gpt2".
        circuits: one circuit, whose scores are written as importances; or nine, the smallest first, that keep at most
            0.1, 0.2, 0.5, 1, 2, 5, 10, 20 and 50% of the edges, counted after `expand_kv`.

    Returns:
        The folder that was written, such as `folder/ioi_gpt2`.

    Raises:
        UsageError: MIB has no such task for this model, a circuit is of another model or too large, there are neither
            one nor nine circuits, or the folder exists and is not empty.
        CircuitKitError: the folder cannot be written.
    """
    graph, d_model = MODELS[_check_name(f"{task}_{model}")]
    for circuit in [circuits] if isinstance(circuits, Circuit) else circuits:
        if not same_edges(replace(circuit.graph, kv="head"), replace(graph, kv="head")):
            raise UsageError(
                f"A circuit is of {circuit.graph}, not of MIB's {model}, {graph}.", "Give a circuit of this model."
            )
    path = to_path(folder) / f"{task}_{model}"
    write_circuits(path, circuits, d_model)
    return path


def read_mib_submission(folder: str | Path) -> dict[str, list[Circuit]]:
    """Read a submission to MIB.

    Returns:
        By name, such as "ioi_gpt2": one ranking (`Circuit.from_scores`), or nine circuits, the smallest first. They
        read keys and values once per query head; `Circuit.collapse_kv` joins those of a group.

    Raises:
        UsageError: there is no such folder, or MIB has no such task or model.
        CircuitKitError: a folder has neither one nor nine files, or a file is damaged, of another model, too large, or
            not of edges.
    """
    folders = sorted(path for path in _list(to_path(folder)) if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UsageError(
            f"There are no folders in {str(folder)!r}.", "Give a folder with one folder per task and model."
        )
    return {path.name: read_circuits(path, MODELS[_check_name(path.name)][0]) for path in folders}


def write_circuits(folder: Path, circuits: Circuit | Sequence[Circuit], d_model: int) -> None:
    """Write one task's and model's folder, for any model of residual width `d_model`; all files or none."""
    if isinstance(circuits, Circuit):
        files = {"importances.pt": circuits}
    else:
        files = {
            f"{size:g}.pt": circuit.expand_kv() for size, circuit in zip(SIZES[:-1], _check_nine(circuits), strict=True)
        }
        if problem := _check_sizes(list(files.values())):
            raise UsageError(problem, "Give smaller circuits first, each within its size.")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(
                f"{str(folder)!r} exists, and MIB reads every file in it.", "Delete it, or give another folder."
            )
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            for name, circuit in files.items():
                circuit.to_eap_ig(temporary / name, d_model=d_model, scores_of="loss")
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise cannot_write(folder, error) from error


def read_circuits(folder: Path, graph: EdgeGraph) -> list[Circuit]:
    """Read one task's and model's folder: a ranking, or nine circuits, with keys and values per query head."""
    by_head = replace(graph, kv="head")
    files = [path for path in _list(folder) if not path.name.startswith(".")]
    wrong = next((path for path in files if path.suffix not in _ENDINGS), None)
    if wrong:
        raise CircuitKitError(f"{wrong} is no file of EAP-IG.", "MIB reads every file: keep only .json and .pt files.")
    if len(files) not in (1, len(SIZES) - 1):
        problem = f"{str(folder)!r} has {len(files)} files."
        raise CircuitKitError(problem, "MIB wants one file of importances, or nine circuits.")
    circuits = [Circuit.from_eap_ig(path, by_head, scores_of="loss") for path in files]
    if len(files) == 1:
        scores = circuits[0].scores
        if (scores == scores[0]).all():
            problem = f"{files[0]} gives every edge the same score."
            raise CircuitKitError(problem, "Give scores of edges; those of nodes or neurons are not read.")
        return [Circuit.from_scores(by_head, scores)]
    circuits.sort(key=len)
    if problem := _check_sizes(circuits):
        raise CircuitKitError(f"In {str(folder)!r}: {problem}", "Give one circuit for each of MIB's sizes.")
    return circuits


def _check_name(name: str) -> str:
    """Return the model of a folder's name, such as "ioi_gpt2"."""
    task, _, model = name.rpartition("_")
    if model not in TASKS.get(task, ()):
        known = ", ".join(f"{task}_{model}" for task, models in TASKS.items() for model in models)
        raise UsageError(f"{name!r} is not a task and a model of MIB.", f"Choose from {known}.")
    return model


def _check_nine(circuits: Sequence[Circuit]) -> Sequence[Circuit]:
    if len(circuits) != len(SIZES) - 1:
        raise UsageError(
            f"There are {len(circuits)} circuits.", "Give one, for its scores, or nine, one for each size."
        )
    return circuits


def _check_sizes(circuits: Sequence[Circuit]) -> str:
    """Say which of nine circuits, the smallest first, is too large for its place, if any."""
    counts = [len(circuit) for circuit in circuits]
    for size, circuit, count in zip(SIZES[:-1], circuits, counts, strict=True):
        limit = int(size * len(circuit.graph))
        if count > limit:
            return f"The circuit for {100 * size:g}% of the edges keeps {count}, more than {limit}."
    if counts != sorted(counts):
        return f"The circuits keep {', '.join(map(str, counts))} edges, which MIB would sort."
    return ""


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise UsageError(f"There is no folder {str(folder)!r}.", "Check the path.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CircuitKitError(f"{str(folder)!r} cannot be read: {why}.", "Give a folder.") from error
