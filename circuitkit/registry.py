"""Names of strategies, tasks, policies, ... found through entry points.

A package joins by being installed: an entry point in the group `circuitkit.strategies` (or `.tasks`,
`.policies`, `.families`, `.objectives`, `.ablations`) makes its class known by a short name.
"""

import difflib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from circuitkit.errors import CircuitKitError, UsageError

KINDS = ("strategies", "tasks", "policies", "families", "objectives", "ablations")
_SINGULAR = {
    "strategies": "strategy",
    "tasks": "task",
    "policies": "precision policy",
    "families": "model family",
    "objectives": "objective",
    "ablations": "ablation",
}


@cache
def _entries(kind: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=f"circuitkit.{kind}"):
        other = found.get(entry.name)
        if other is not None and other.value != entry.value:
            raise CircuitKitError(
                f"Two packages give a {_SINGULAR[kind]} the name {entry.name!r}: {_origin(other)}, {_origin(entry)}.",
                "Uninstall one of the two packages, or rename its entry point.",
            )
        found[entry.name] = entry
    return found


def _origin(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    return f"{entry.value} ({package})"


def names(kind: str) -> list[str]:
    """The registered short names of one kind (one of `KINDS`), sorted."""
    return sorted(_entries(kind))


def class_path(kind: str, name: str) -> str:
    """The dotted path behind a short name, such as `circuitkit.strategies.acdc.ACDC`."""
    return _entry(kind, name).value.replace(":", ".")


def load(kind: str, name: str) -> Any:
    """The class behind a short name.

    Raises:
        UsageError: the name is not registered (the message lists the nearest names).
        CircuitKitError: the class cannot be imported.
    """
    entry = _entry(kind, name)
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        raise CircuitKitError(
            f"The {_SINGULAR[kind]} {name!r} ({_origin(entry)}) cannot be imported: {error}.",
            "Reinstall the package that provides it.",
        ) from error


def _entry(kind: str, name: str) -> EntryPoint:
    known = _entries(kind)
    if name in known:
        return known[name]
    raise unknown_name(_SINGULAR[kind], name, sorted(known))


def unknown_name(what: str, name: object, known: list[str]) -> UsageError:
    """The error for a name that is not among `known`, with the nearest ones first."""
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UsageError(f"There is no {what} {name!r}.", f"{hint}Known: {', '.join(known) or 'none'}.")
