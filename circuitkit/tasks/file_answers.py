"""The answers in the rows of a prompt file: their forms, and how a cell is read."""

import json
import re
from typing import Any

from circuitkit.errors import UsageError, quote
from circuitkit.tasks.file_rows import Row

TEXT = ("answer", "wrong_answer")
IDS = ("correct_idx", "incorrect_idx")
CHOICES = ("choices", "label")
YEAR = ("label",)
FORMS = (TEXT, IDS, CHOICES, YEAR)
"""The columns of each form; `prompt_file` describes them. Of those that a file has, the first counts."""
NEEDED = "one of: answer with wrong_answer; correct_idx with incorrect_idx; choices with label; label"
_SURROGATE = re.compile("[\ud800-\udfff]")

Form = tuple[str, ...]


def read_answers(row: Row, form: Form) -> tuple[list[Any], list[Any]]:
    """Read what is right and what is wrong in a row: texts, token ids or, in the form `YEAR`, one number and nothing.

    Raises:
        UsageError: a cell cannot be read so, or something is both right and wrong.
    """
    if form == YEAR:
        return _read_numbers(row, "label"), []
    right: list[Any]
    wrong: list[Any]
    if form == CHOICES:
        right, wrong = _read_choices(row)
    elif form == IDS:
        right, wrong = (_read_numbers(row, name) for name in form)
    else:
        right, wrong = (_read_texts(row, name) for name in form)
    if both := [value for value in right if value in wrong]:
        raise in_both(row, quote(both[0]), form)
    return right, wrong


def check_unicode(row: Row, name: str, text: str) -> None:
    """Refuse half of a surrogate pair, which no tokenizer can read.

    Raises:
        UsageError: the text has one.
    """
    if _SURROGATE.search(text):
        raise UsageError(
            f"{row.where} has half of a surrogate pair in {name!r}: {quote(text)}.",
            "Write the character itself, in UTF-8.",
        )


def in_both(row: Row, what: str, form: Form) -> UsageError:
    """Make the error for something that is both an answer and a wrong answer."""
    if form == CHOICES:
        return UsageError(f"{row.where} has {what} both as the right choice and as another.", "Name each choice once.")
    return UsageError(f"{row.where} has {what} both as {form[0]} and as {form[1]}.", "Remove it from one of the two.")


def _read_texts(row: Row, name: str) -> list[str]:
    """Read a text, or a list of texts; in CSV, as JSON."""
    value = row.values[name]
    if isinstance(value, str) and value.lstrip().startswith("[") and isinstance(parsed := _parse_json(value), list):
        value = parsed
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"{row.where} has {quote(value)} as {name!r}.", "Write text, or a list of texts as in JSON.")
    for text in texts:
        check_unicode(row, name, text)
    return texts


def _read_numbers(row: Row, name: str) -> list[int]:
    """Read a token id, a list of token ids, or in a column of years a number that another one can exceed."""
    value = row.values[name]
    listed = _parse_json(value) if isinstance(value, str) else value
    numbers = listed if isinstance(listed, list) else [listed]
    if not numbers or not all(type(number) is int for number in numbers):
        what = "a number from 0 to 98" if name in YEAR else "a token id, or a list of them such as [262, 257]"
        raise UsageError(f"{row.where} has {quote(value)} as {name!r}.", f"Write {what}.")
    if name in YEAR and (len(numbers) != 1 or not 0 <= numbers[0] <= 98):
        raise UsageError(
            f"{row.where} has {quote(value)} as {name!r}.", "Write a number from 0 to 98: 99 has no larger one."
        )
    return numbers


def _read_choices(row: Row) -> tuple[list[str], list[str]]:
    """Read the label of the right choice, and those of the others, as they continue the prompt."""
    value = row.values["choices"]
    listed = _parse_json(value) if isinstance(value, str) else value
    labels = listed.get("label") if isinstance(listed, dict) else listed
    if (
        not isinstance(labels, list)
        or len(labels) < 2
        or not all(isinstance(one, str) and one.strip() for one in labels)
    ):
        raise UsageError(
            f"{row.where} has {quote(value)} as 'choices'.",
            'Write their labels, at least two, such as ["A", "B", "C"].',
        )
    for label in labels:
        check_unicode(row, "choices", label)
    given = row.values["label"]
    written = str(given) if type(given) is int else given
    number = labels.index(written) if written in labels else _parse_json(given) if isinstance(given, str) else given
    if type(number) is not int or not 0 <= number < len(labels):
        raise UsageError(
            f"{row.where} has {quote(given)} as the right choice, and the choices {quote(labels)}.",
            f"Write one of these, or its number from 0 to {len(labels) - 1}.",
        )
    before = "" if row.values["clean"][-1].isspace() or row.values["clean"].endswith("(") else " "
    words = [before + label.strip() for label in labels]
    return [words[number]], words[:number] + words[number + 1 :]


def _parse_json(text: str) -> Any:
    """Parse JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
