"""The exceptions: every error a user can cause is one of these."""


class CircuitKitError(Exception):
    """Something the user can put right.

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
