"""How a check of a class ends: passed, failed with what to do, or not applicable with the reason."""

import contextlib
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
import transformers

from circuitkit.errors import CircuitKitError

_LIBRARIES = tuple(Path(inspect.getfile(module)).parent for module in (torch, transformers))
_PYTHON = Path(contextlib.__file__).parent
_OURS = Path(__file__).parents[1]


class ContractError(CircuitKitError):
    """A class does not do what all of its kind must do."""


class NotApplicableError(Exception):
    """A check says nothing about a class; the message says why."""


class Outcome(NamedTuple):
    """How a check ended.

    Attributes:
        what: what the class must do, as a sentence about it, such as `gives the same circuit for the same seed`.
        state: how it ended.
        text: what to do, if it failed; why it says nothing, if it is not applicable; empty or a remark, if it passed.
    """

    what: str
    state: Literal["passed", "failed", "not applicable"]
    text: str = ""


def refuse(problem: str, remedy: str) -> NoReturn:
    """End a check: the class does not keep the contract.

    Raises:
        ContractError: always.
    """
    raise ContractError(problem, remedy)


def run_check(what: str, check: Callable[[], Any]) -> Outcome:
    """Run a check, and say how it ended; an exception out of the class is a failure too.

    Args:
        what: what the class must do.
        check: raises `ContractError` or `NotApplicableError`; a text that it returns is a remark.
    """
    try:
        remark = check()
    except NotApplicableError as reason:
        return Outcome(what, "not applicable", str(reason))
    except CircuitKitError as error:
        return Outcome(what, "failed", " ".join(str(error).split()))
    except Exception as error:  # whatever a class of somebody else's raises
        return Outcome(what, "failed", f"{describe(error)} Mend that, or raise a UsageError if a user caused it.")
    return Outcome(what, "passed", remark if isinstance(remark, str) else "")


def describe(error: Exception) -> str:
    """Say what code that is not ours has raised, and where in it."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(_OURS)]
    of_the_class = [frame for frame in outside if not _is_library(Path(frame.filename))]
    at = (of_the_class or outside or frames)[-1]
    said = " ".join(str(error).split())
    return (
        f"It raised {type(error).__name__}{f': {said}' if said else ''} ({Path(at.filename).name}, line {at.lineno})."
    )


def _is_library(file: Path) -> bool:
    """Tell whether a file is Python's own, torch's or transformers'."""
    if str(file).startswith("<"):  # such as <frozen importlib._bootstrap>
        return True
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return any(file.is_relative_to(it) for it in _LIBRARIES) or (file.is_relative_to(_PYTHON) and not installed)
