"""What is wrong with the rows of a prompt file, whatever the tokenizer: every problem, not only the first."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from circuitkit.errors import UsageError, quote
from circuitkit.tasks.base import Split
from circuitkit.tasks.file_answers import FORMS, NEEDED, Form, check_unicode, read_answers
from circuitkit.tasks.file_rows import COLUMNS, Row

PROMPTS = ("clean", "corrupted")
_NEEDED = f"clean, corrupted and {NEEDED}"
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_SHOWN = 8


def find_form(name: str, rows: Sequence[Row]) -> Form:
    """Find the form of the answers of a file.

    Args:
        name: of the file, for the message.
        rows: of the file.

    Raises:
        UsageError: there are no rows, or a column is missing.
    """
    if not rows:
        raise UsageError(f"The prompt file {name} has no rows.", f"Write some, with the columns {_NEEDED}.")
    columns = {name for row in rows for name in row.values}
    forms: list[Form] = [form for form in FORMS if columns.issuperset(form)]
    if not forms or not columns.issuperset(PROMPTS):
        raise _wrong_columns(name, list(dict.fromkeys(name for row in rows for name in row.given)))
    return forms[0]


def used_columns(rows: Sequence[Row], form: Form) -> list[str]:
    """Return the columns that are read."""
    columns = {name for row in rows for name in row.values}
    return [*PROMPTS, *form, *(name for name in ("split", "template") if name in columns)]


def row_problems(row: Row, form: Form, used: Sequence[str]) -> Iterator[UsageError]:
    """Find what is wrong with a row for every tokenizer.

    Args:
        row: the row.
        form: of the answers.
        used: the columns that are read.
    """
    if row.problem is not None:
        yield row.problem
        return
    cells = [problem for name in used if (problem := _cell_problem(row, name)) is not None]
    yield from cells
    if not cells:
        try:
            read_answers(row, form)
        except UsageError as problem:
            yield problem
    if "split" in used and (split := row.values.get("split")) not in (*_EMPTY, *get_args(Split)):
        yield UsageError(f"{row.where} has the split {quote(split)}.", f"Write one of {', '.join(get_args(Split))}.")


def split_problems(rows: Sequence[Row]) -> Iterator[tuple[Row, UsageError]]:
    """Find rows whose clean prompt is in another split too, where there is a column `split`."""
    seen: dict[str, tuple[str, Row]] = {}
    for row in rows:
        split = row.values["split"]
        other, first = seen.setdefault(row.values["clean"], (split, row))
        if other != split:
            problem = (
                f"{row.where} is in the split {split!r}, and in {other!r} {first.where} has the same clean prompt."
            )
            yield row, UsageError(problem, "Put both into one split.")


def _cell_problem(row: Row, name: str) -> UsageError | None:
    value = row.values.get(name)
    if value in _EMPTY:
        return UsageError(f"{row.where} has no {name!r}.", "Fill it in, or remove the row.")
    if name in PROMPTS and not isinstance(value, str):
        return UsageError(f"{row.where} has {quote(value)} as {name!r}.", "Write the prompt as text.")
    if name == "template" and type(value) not in (str, int):
        return UsageError(f"{row.where} has {quote(value)} as 'template'.", "Write a text or a number.")
    try:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_unicode(row, name, text)
    except UsageError as problem:
        return problem
    return None


def _wrong_columns(name: str, columns: list[str]) -> UsageError:
    shown = ", ".join(map(quote, columns[:_SHOWN])) or "none"
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    hint = ""
    if "correct_idx" in columns and "incorrect_idx" not in columns:
        hint = " If correct_idx holds two-digit years, call that column label."
    elif "prompts" in columns:
        hint = " A file that is one JSON object ends in .json."
    elif any(name not in COLUMNS and name.strip().lower() in COLUMNS for name in columns):
        hint = " Write their names in small letters, without spaces."
    return UsageError(f"{name} has the columns {shown}{more}.", f"It needs {_NEEDED}.{hint}")
