"""The answers in the rows of a prompt file: their forms, how a cell is read, and their tokens."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitkit.errors import UsageError, quote
from circuitkit.tasks.file_rows import Row
from circuitkit.tasks.text import continuation

TEXT = ("answer", "wrong_answer")
IDS = ("correct_idx", "incorrect_idx")
CHOICES = ("choices", "label")
YEAR = ("label",)
FORMS = (TEXT, IDS, CHOICES, YEAR)
"""The columns of each form; `prompt_file` describes them. Of those that a file has, the first counts."""
NEEDED = "one of: answer with wrong_answer; correct_idx with incorrect_idx; choices with label; label"
_SURROGATE = re.compile("[\ud800-\udfff]")

Form = tuple[str, ...]
Tokens = list[list[int]]


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
        raise _in_both(row, quote(both[0]), form)
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


def find_answer_tokens(
    rows: Sequence[Row], all_rows: Sequence[Row], form: Form, tokenizer: PreTrainedTokenizerBase
) -> tuple[Tokens, Tokens]:
    """Return token ids of answers and wrong answers, one list per row.

    Args:
        rows: those to find tokens for.
        all_rows: of the whole file: an answer has the same token in every split.
        form: of the answers.
        tokenizer: of the model.

    Raises:
        UsageError: an answer is not one token, or both right and wrong as a token.
    """
    found = [read_answers(row, form) for row in rows]
    if form == YEAR:
        years = _year_tokens(tokenizer)
        return [years[label + 1 :] for (label,), _ in found], [years[: label + 1] for (label,), _ in found]
    right, wrong = [right for right, _ in found], [wrong for _, wrong in found]
    if form == IDS:
        for row, tokens in zip([*rows, *rows], [*right, *wrong], strict=True):
            _check_ids(row, tokens, tokenizer)
        return right, wrong
    token_of = _tokens_of_texts(all_rows, form, tokenizer)
    for row, texts, others in zip(rows, right, wrong, strict=True):
        wrong_tokens = {token_of[text] for text in others}
        if both := [text for text in texts if token_of[text] in wrong_tokens]:
            raise _in_both(row, f"the token of {quote(both[0])}", form)
    return _to_tokens(right, token_of), _to_tokens(wrong, token_of)


def _to_tokens(cells: list[list[str]], token_of: Mapping[str, int]) -> Tokens:
    return [[token_of[text] for text in texts] for texts in cells]


def _tokens_of_texts(rows: Sequence[Row], form: Form, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Find the token of every answer in the whole file."""
    first_row: dict[str, Row] = {}
    for row in rows:
        for texts in read_answers(row, form):
            for text in texts:
                first_row.setdefault(text, row)
    tokens = {text: continuation(tokenizer, text, prompt="\n") for text in first_row}
    if None in tokens.values():
        tokens = {text: continuation(tokenizer, f" {text.removeprefix(' ')}", prompt="\n") for text in first_row}
    for text, row in first_row.items():
        if tokens[text] is None:
            raise UsageError(
                f"{row.where} has the answer {quote(text)}, which is not one token that this tokenizer knows, "
                "with a leading space or without.",
                "Choose another answer, or remove the row.",
            )
    return {text: token for text, token in tokens.items() if token is not None}


def _in_both(row: Row, what: str, form: Form) -> UsageError:
    if form == CHOICES:
        return UsageError(f"{row.where} has {what} both as the right choice and as another.", "Name each choice once.")
    return UsageError(f"{row.where} has {what} both as {form[0]} and as {form[1]}.", "Remove it from one of the two.")


def _check_ids(row: Row, tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    for token in tokens:
        if not 0 <= token < len(tokenizer):
            raise UsageError(
                f"{row.where} has the token id {token}, and this tokenizer has {len(tokenizer)} tokens.",
                "Use the tokenizer that the ids were made with, or give answers as text.",
            )


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


def _year_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    tokens: list[int] = []
    for year in range(100):
        token = continuation(tokenizer, f"{year:02d}", prompt="\n")
        if token is None:
            raise UsageError(
                f"The digits '{year:02d}' are not one token for this tokenizer, and labels need such tokens.",
                "Use a tokenizer that has them (GPT-2's), or give answer and wrong_answer as text.",
            )
        tokens.append(token)
    return tokens
