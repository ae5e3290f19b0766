"""Short names of strategies, tasks, precision policies, ..., found through entry points.

An installed package registers a class under a short name by an entry point in the group `circuitkit.strategies` (or
`.tasks`, `.precision`, `.families`, `.objectives`, `.ablations`).
"""

import difflib
import os
import pkgutil
import warnings
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from circuitkit.errors import CircuitKitError, UsageError, quote

KINDS = ("strategies", "tasks", "precision", "families", "objectives", "ablations")
_SINGULAR = {
    "strategies": "strategy",
    "tasks": "task",
    "precision": "precision policy",
    "families": "model family",
    "objectives": "objective",
    "ablations": "ablation",
}
_RENAMED = {
    "strategies": {
        "activation_patching": "edge_patching",
        "ActivationPatching": "edge_patching",
        "circuitkit.strategies.activation_patching.ActivationPatching": "edge_patching",
        "circuitkit.strategies.pahq.PAHQACDC": "pahq_acdc",
    },
    "precision": {
        "per_head": "pahq",
        "uniform": "all_low",
        "PerHeadQuantization": "pahq",
        "UniformQuantization": "all_low",
        "circuitkit.precision.per_head.PerHeadQuantization": "pahq",
        "circuitkit.precision.per_head.UniformQuantization": "all_low",
        "circuitkit.precision.policy.FullPrecision": "full",
    },
    "objectives": {
        "circuitkit.objective.LogitDifference": "logit_difference",
        "circuitkit.objective.KLDivergence": "kl",
        "circuitkit.objective.ProbabilityDifference": "probability_difference",
        "circuitkit.objective.AnswerLogProbability": "answer_log_probability",
    },
}
"""Names, class names and class paths changed since version 0.1.0, by kind, old to new.

Old ones work for one more release, with a warning."""


def names(kind: str) -> list[str]:
    """List the short names of one kind (one of `KINDS`), sorted."""
    return sorted(_entries(kind))


def current_name(kind: str, name: str) -> str:
    """Replace an old name by the new one, with a warning; return any other name as it is."""
    new = _RENAMED.get(kind, {}).get(name)
    if new is None:
        return name
    warnings.warn(
        f"The {_SINGULAR[kind]} {name!r} is now called {new!r}; the old name will be removed in the next release.",
        FutureWarning,
        stacklevel=2,
    )
    return new


def class_path(kind: str, name: str) -> str:
    """Return the dotted path of a short name, such as `circuitkit.strategies.acdc.ACDC`.

    Raises:
        UsageError: the name is not registered (the message lists the nearest names).
    """
    return _entry(kind, name).value.replace(":", ".")


def names_of_class(kind: str, class_name: str) -> list[str]:
    """List the short names of the classes of this name, such as `ACDC`."""
    return [name for name in names(kind) if class_path(kind, name).rpartition(".")[2] == class_name]


def load(kind: str, name: str) -> Any:
    """Import the class of a short name.

    Raises:
        UsageError: the name is not registered (the message lists the nearest names).
        CircuitKitError: the class cannot be imported.
    """
    entry = _entry(kind, name)
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise CircuitKitError(
            f"The {_SINGULAR[kind]} {name!r} ({_describe_origin(entry)}) cannot be imported: {error}.",
            "Reinstall the package that provides it.",
        ) from error


def import_object(path: str) -> Any:
    """Import the object of a dotted path, such as `circuitkit.tasks.ioi.IOI`, or of a class inside a class."""
    return pkgutil.resolve_name(path)


def unknown_name(what: str, name: object, known: list[str]) -> UsageError:
    """Make the error for a name that is not among `known`; the message begins with the nearest names."""
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UsageError(f"There is no {what} {name!r}.", f"{hint}Known: {', '.join(known) or 'none'}.")


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"circuitkit.{kind}"):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise CircuitKitError(
                f"Two packages register the {_SINGULAR[kind]} {entry.name!r}: "
                f"{_describe_origin(other)}, {_describe_origin(entry)}.",
                "Uninstall one of the two packages, or rename its entry point.",
            )
        found[entry.name] = entry
    return found


def _describe_origin(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    return f"{entry.value} ({package})"


def _entry(kind: str, name: str) -> EntryPoint:
    known = _entries(kind)
    if name in known:
        return known[name]
    raise unknown_name(_SINGULAR[kind], name, sorted(known))


def refuse_file(name: str, kind: str = "") -> None:
    """Refuse a file where a class path is wanted.

    Args:
        name: what was given.
        kind: what kind of class is wanted; empty: of any kind, or a file of prompts.

    Raises:
        UsageError: it is the path of a file.
    """
    if not os.path.isfile(name):  # noqa: PTH113  no error for long names
        return
    path = Path(name)
    if path.suffix == ".py":
        remedy = f"Name the class, from the folder of the file: {path.stem}.MyClass."
    elif kind in ("", "tasks"):
        remedy = "A prompt file ends in .csv, .jsonl or .json."
    else:
        remedy = "Give a name, or a path such as my_package.MyClass."
    raise UsageError(f"{quote(name)} is a file, not a class path.", remedy)
