"""Checks of plain values that several rooms take."""

from typing import Any

from circuitkit.errors import UsageError


def check_examples(examples: Any) -> int:
    """Return a number of prompts.

    Raises:
        UsageError: it is not a positive integer.
    """
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise UsageError(f"examples={examples!r} is not a positive integer.", "Ask for at least one prompt.")
    return examples


def check_seed(seed: Any) -> int:
    """Return a seed.

    Raises:
        UsageError: it is not an integer of 32 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError(f"The seed {seed!r} is not an integer from 0 to 2**32 - 1.", "Give one such as 0.")
    return seed
