"""What a benchmark needs before it starts."""

from circuitkit.errors import UsageError
from circuitkit.models.fetch import locate


def require(name: str) -> None:
    """End the program with one line unless the model is fetched: at the start, not after minutes of other work."""
    try:
        locate(name)
    except UsageError as error:
        raise SystemExit(str(error)) from error
