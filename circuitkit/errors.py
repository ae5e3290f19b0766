"""Exceptions for the errors that a user can cause and fix."""


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
