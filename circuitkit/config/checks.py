"""Checks of plain values that several rooms take."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from circuitkit.errors import UsageError, quote


class Examples(NamedTuple):
    """The maximum number of prompts of each split.

    Attributes:
        train: to find circuits on.
        validation: to choose sizes, thresholds and rankings on.
        test: to report.
    """

    train: int
    validation: int
    test: int

    def of(self, split: str) -> int:
        """Return the number for a split.

        Raises:
            UsageError: there is no such split.
        """
        return int(getattr(self, check_split(split)))

    @property
    def plain(self) -> int | list[int]:
        """The form for configurations: one number if all are equal, otherwise the three in a list."""
        return self.train if len(set(self)) == 1 else list(self)


def check_examples(examples: Any) -> Examples:
    """Return the numbers of prompts per split.

    Args:
        examples: one number for all splits, or three, for train, validation and test.

    Raises:
        UsageError: it is neither a positive integer nor three of them.
    """
    if _is_positive(examples):
        return Examples(examples, examples, examples)
    if isinstance(examples, Sequence) and len(examples) == 3 and all(map(_is_positive, examples)):
        return Examples(*examples)
    raise UsageError(
        f"examples={quote(examples)} is neither a positive integer nor three of them.",
        "Give one for all splits, such as 64, or one each for train, validation and test, such as [64, 32, 64].",
    )


def _is_positive(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def is_number(value: object) -> bool:
    """Tell whether a value is a number; truth values are none here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_flags(**given: Any) -> None:
    """Check arguments that turn something on or off.

    Raises:
        UsageError: one is neither true nor false.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name}={quote(value)} is neither True nor False.", "Give one of the two.")


def check_split(split: Any) -> str:
    """Return the name of a split.

    Raises:
        UsageError: it is not one.
    """
    if split not in Examples._fields:
        raise UsageError(f"There is no split {quote(split)}.", f"Choose one of {', '.join(Examples._fields)}.")
    return str(split)


def check_seed(seed: Any) -> int:
    """Return a seed.

    Raises:
        UsageError: it is not an integer of 32 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"The seed {seed!r} is not an integer from 0 to 2**32 - 1.", "Give one such as 0.")
    return seed
