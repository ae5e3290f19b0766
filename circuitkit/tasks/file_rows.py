"""Reads the rows of a prompt file: CSV with a header, JSON Lines, or JSON with a list of objects; all in UTF-8."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from circuitkit.errors import UsageError, quote

COLUMNS = (
    *("clean", "corrupted", "answer", "wrong_answer", "correct_idx", "incorrect_idx", "choices", "label"),
    *("split", "template"),
)
"""Columns that mean something; `prompt_file` says what."""
_OTHER_NAMES = {
    "corrupt": "corrupted",
    "answers": "answer",
    "wrong_answers": "wrong_answer",
    "answerKey": "label",
}
"""Names of columns in auto-circuit's and MIB's files, and ours for them."""
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Row:
    """One pair.

    Attributes:
        where: its row and file, for error messages.
        given: its cells by column, as the file names it.
        line: the number of its line in the file, from 1; None where the format has no lines.
        problem: why it cannot be read; None if it can.
    """

    where: str
    given: Mapping[str, Any]
    line: int | None = None
    problem: UsageError | None = None

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """Return the cells by our names of the columns; a column that has our name wins."""
        return {_OTHER_NAMES.get(name, name): value for name, value in self.given.items()} | dict(self.given)


def scan_rows(path: Path) -> list[Row]:
    """Read the rows of a file; one that cannot be read has a `problem`.

    Raises:
        UsageError: it is missing, has another suffix, or nothing of it can be parsed.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        *most, last = readers
        raise UsageError(
            f"The prompt file {quote(str(path))} ends in {quote(path.suffix)}.",
            f"Give a file that ends in {', '.join(most)} or {last}.",
        )
    try:
        return list(reader(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{quote(str(path))} is not UTF-8 text: {error.reason}.", "Save it as UTF-8.") from error
    except (OSError, ValueError) as error:  # a name with a NUL
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UsageError(
            f"The prompt file {quote(str(path))} cannot be read: {why}.", "Give the path of a file."
        ) from error


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        _check_header(path, file.readline())
        file.seek(0)
        reader = csv.DictReader(file, strict=True)
        try:
            for name in COLUMNS:
                if (reader.fieldnames or []).count(name) > 1:
                    raise UsageError(f"{quote(str(path))} has the column {name!r} twice.", "Remove one of the two.")
            for number, values in enumerate(reader, 1):
                where, problem = f"Row {number} (line {reader.line_num}) of {quote(str(path))}", None
                if values.pop(cast("str", None), None) is not None:  # what is beyond the header
                    problem = UsageError(
                        f"{where} has more cells than the header.", "Quote cells that contain a comma, as in CSV."
                    )
                yield Row(where, values, reader.line_num, problem)
        except csv.Error as error:  # the rest of the file cannot be read
            line = reader.reader.line_num
            where = f"Line {line} of {quote(str(path))}"
            problem = UsageError(
                f"{where} is not CSV: {error}.",
                'Repair that line; close every quote, and write a quote inside a quoted cell twice (").',
            )
            yield Row(where, {}, line, problem)


def _check_header(path: Path, line: str) -> None:
    """Refuse a header of something else than text separated by commas.

    Raises:
        UsageError: it has NUL characters, or another separator.
    """
    if "\0" in line:
        raise UsageError(f"{quote(str(path))} is not UTF-8 text: it has NUL characters.", "Save it as UTF-8.")
    for separator, what in _SEPARATORS.items():
        if separator in line and "clean" in (name.strip(' "') for name in line.strip().split(separator)):
            raise UsageError(
                f"{quote(str(path))} is separated by {what}.",
                'Save it as CSV separated by commas: as "CSV UTF-8", or with pandas.',
            )


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            number += 1
            where, problem = f"Line {line_number} of {quote(str(path))}", None
            try:
                values = _parse_json(line.rstrip(), where, "Write one object per line.")
            except UsageError as error:
                values, problem = {}, error
            if not isinstance(values, dict):
                remedy = "Write one object per line, or call the file .json if it is one list."
                values, problem = {}, UsageError(f"{where} is not a JSON object: {quote(values)}.", remedy)
            if problem is None:
                where = f"Row {number} (line {line_number}) of {quote(str(path))}"
            yield Row(where, values, line_number, problem)


def _read_json(path: Path) -> Iterator[Row]:
    shape = '{"prompts": [{"clean": ..., "corrupted": ...}, ...]}'
    remedy = f"Write {shape}; a file with one object per line ends in .jsonl."
    found = _parse_json(path.read_text(encoding="utf-8-sig"), quote(str(path)), remedy)
    prompts = found.get("prompts") if isinstance(found, dict) else found
    if not isinstance(prompts, list):
        raise UsageError(f"{quote(str(path))} has no list of prompts.", remedy)
    for number, values in enumerate(prompts, 1):
        where = f"Prompt {number} of {quote(str(path))}"
        if isinstance(values, dict):
            yield Row(where, values)
        else:
            yield Row(where, {}, problem=UsageError(f"{where} is not an object: {quote(values)}.", f"Write {shape}."))


def _parse_json(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error)
        if isinstance(error, json.JSONDecodeError) and "\n" not in text:  # it counts lines from this one
            why = f"{error.msg} at column {error.colno}"
        raise UsageError(f"{where} is not JSON: {why}.", remedy) from error
