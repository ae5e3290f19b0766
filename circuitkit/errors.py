"""Exceptions for the errors that a user can cause and fix."""

import reprlib
from importlib.util import find_spec

NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says where memory runs out: on CPUs of Linux and others, and CUDA. Not all such errors have a class."""


class CircuitKitError(Exception):
    """An error that the user can fix.

    Args:
        problem: one sentence that says what was wrong and quotes the value.
        remedy: one sentence that says what to do.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class UsageError(CircuitKitError):
    """A wrong argument, name or configuration, found before any work is done."""

    exit_code = 2


class MissingPackageError(CircuitKitError):
    """A package of one of the extras is needed, and is not installed."""


def require_package(name: str, extra: str) -> None:
    """Raise a `MissingPackageError` if a package of an extra is not installed; to call before it is imported."""
    if find_spec(name) is None:
        raise MissingPackageError(f"{name} is not installed.", f'Install it: pip install "pahq-circuitkit[{extra}]".')


def quote(value: object) -> str:
    """Return the `repr` of a value for an error message, with its middle left out if it is long or deep."""
    text = _SHORT.repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def cannot_move(what: str, device: object, error: Exception) -> CircuitKitError:
    """Make the error for something that torch cannot move to a device: one that is full, or one that there is not."""
    problem = f"{what} cannot be moved to {quote(device)}: {_reason(error)}."
    if any(said in str(error) for said in NO_MEMORY):
        return CircuitKitError(problem, "Free memory there, or choose another device.")
    where = "cpu, cuda or another device that torch.device names"
    return UsageError(problem, f"Choose {where}.")


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(";")[0].rstrip(".")[:200]


_MOST = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
