"""Reads token ids and positions from lists, tensors, NumPy arrays and pandas columns."""

from collections.abc import Iterable, Mapping
from typing import Any

from circuitkit.errors import UsageError, quote

_WHOLE = "Give whole numbers: lists, a tensor or an array of them."
_SETS = "Give token ids: one per prompt, or sets of them, one per prompt or one per answer position."


def read_rows(given: Any, name: str) -> list[list[int]]:
    """Read rows of token ids, one per prompt.

    Args:
        given: lists, a tensor, an array, columns.
        name: `clean` or `corrupted`, for messages.

    Raises:
        UsageError: these are not rows, or something in them is no token id.
    """
    rows = _to_lists(given)
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise UsageError(f"The {name} prompts are not rows of token ids.", "Give a list of lists, or a [B, T] tensor.")
    for number, row in enumerate(rows):
        for token in row:
            if not is_id(token):
                raise UsageError(
                    f"Prompt {number} has {quote(token)} among its {name} token ids.",
                    "Give whole numbers from 0, the ids of the model's tokenizer.",
                )
    return rows


def read_sets(given: Any, prompts: int, name: str) -> list[list[list[int]]]:
    """Read one token or set of tokens per prompt, or one set per answer position, without duplicates and -1.

    Args:
        given: lists, a tensor, an array, columns.
        prompts: number of prompts.
        name: `answers` or `wrong_answers`, for messages.

    Raises:
        UsageError: something in them is no token id, or their number is not that of the prompts.
    """
    return [
        [_read_set(tokens, number, name) for tokens in _by_position(row)]
        for number, row in enumerate(_read_list(given, prompts, name, _SETS))
    ]


def read_positions(given: Any, prompts: int) -> list[list[int]]:
    """Read one answer position per prompt, or several, as they were given.

    Raises:
        UsageError: something in them is no whole number, or their number is not that of the prompts.
    """
    name = "answer_positions"
    rows = [row if isinstance(row, list) else [row] for row in _read_list(given, prompts, name, _WHOLE)]
    for number, row in enumerate(rows):
        for position in row:
            if type(position) is not int:
                raise UsageError(f"Prompt {number} has {quote(position)} among its {name}.", _WHOLE)
    return rows


def is_id(token: Any) -> bool:
    """Tell whether this can be a token id of some vocabulary: a whole number from 0 that fits into 64 bits."""
    return type(token) is int and 0 <= token < 2**63  # type(True) is bool


def _read_list(given: Any, prompts: int, name: str, remedy: str) -> list[Any]:
    found = _to_lists(given)
    if not isinstance(found, list):
        raise UsageError(f"The {name} are {quote(given)}.", remedy)
    if len(found) != prompts:
        raise UsageError(f"There are {len(found)} {name} for {prompts} prompts.", f"Give {name} for every prompt.")
    return found


def _by_position(row: Any) -> list[Any]:
    if not isinstance(row, list):
        return [[row]]
    return row if any(isinstance(tokens, list) for tokens in row) else [row]


def _read_set(tokens: Any, number: int, name: str) -> list[int]:
    found = tokens if isinstance(tokens, list) else [tokens]
    for token in found:
        if not isinstance(tokens, list) or not (is_id(token) or (type(token) is int and token == -1)):
            raise UsageError(f"Prompt {number} has {quote(token)} among its {name}.", _SETS)
    return list(dict.fromkeys(token for token in found if token >= 0))


def _to_lists(value: Any) -> Any:
    """Convert tensors, arrays, columns and sequences, also inside each other, to nested lists; keep anything else."""
    if isinstance(value, int | float | str | bytes | Mapping):
        return value
    for method in ("tolist", "to_list", "to_numpy"):  # of tensors, arrays and columns; of other columns; of tables
        if callable(convert := getattr(value, method, None)):
            found = convert()
            return found if type(found) is type(value) else _to_lists(found)
    return [_to_lists(item) for item in value] if isinstance(value, Iterable) else value
