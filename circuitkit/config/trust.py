"""Whether specs may import any class, or only those that installed packages register."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from circuitkit.errors import UsageError, quote

_DATA = (str, int, float, bool, Path, None, type(None))
_CONTAINERS = (Union, UnionType, list, tuple, dict, Sequence, Mapping)
ALLOW_CODE = "If you trust whoever made it, allow its code to run: --allow_code (allow_code=True)."
"""The remedy where registered classes only is the default."""
_LEAVE_OUT = "If you trust whoever wrote it, leave --trusted_only (trusted_only=True) out."
_remedy: ContextVar[str | None] = ContextVar("remedy", default=None)
"""The remedy of a refused class inside `trust_registered_only`."""


@contextmanager
def trust_registered_only(wanted: bool, remedy: str = _LEAVE_OUT) -> Iterator[None]:
    """Inside a `with`, let specs name registered classes only, also those that a constructor makes.

    Args:
        wanted: False changes nothing.
        remedy: what the message about another class advises.

    Raises:
        UsageError: `wanted` is neither true nor false.
    """
    if not isinstance(wanted, bool):
        raise UsageError(f"trusted_only={quote(wanted)} is neither True nor False.", "Give one of the two.")
    if not wanted:
        yield
        return
    token = _remedy.set(remedy)
    try:
        yield
    finally:
        _remedy.reset(token)


def trusts_registered_only() -> bool:
    """Tell whether specs may name registered classes only, here and now."""
    return _remedy.get() is not None


def refuse(problem: str) -> UsageError:
    """Make the error for a spec that names, or could name, code that no installed package registers."""
    return UsageError(problem, _remedy.get() or ALLOW_CODE)


def may_name_code(value: Any) -> bool:
    """Tell whether a value could name something to import: a text, or an object that is no plain data."""
    if isinstance(value, Mapping):
        return any(map(may_name_code, value.values()))
    if isinstance(value, list | tuple):
        return any(map(may_name_code, value))
    return value is not None and not isinstance(value, bool | int | float)


def holds_data(annotation: Any) -> bool:
    """Tell whether values of this type are data: texts, numbers, paths, and containers of these."""
    if get_origin(annotation) is Literal:
        return True
    if inner := [argument for argument in get_args(annotation) if argument is not Ellipsis]:
        return get_origin(annotation) in _CONTAINERS and all(map(holds_data, inner))
    return annotation in _DATA
