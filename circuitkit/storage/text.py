"""YAML, strict JSON and CSV."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.storage.shapes import check_plain

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_plain(value: Any) -> Any:
    """Convert to lists, dicts, strings and numbers, which YAML and JSON can hold; anything else becomes text."""
    return json.loads(json.dumps(value, default=str))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        UsageError: the file is missing, unreadable, not YAML, or holds something other than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {str(path)!r}.", "Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"The file {str(path)!r} cannot be read: {why}.", "Give a YAML file.") from error
    return parse_yaml(text, f"The file {str(path)!r}")


def parse_yaml(text: str, what: str) -> dict[str, Any]:
    """Parse YAML that holds a mapping.

    Args:
        text: the YAML.
        what: how an error message names the text.

    Raises:
        UsageError: it is not YAML, or holds something other than a mapping.
    """
    try:
        found = yaml.safe_load(text)
        check_plain(found)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:  # impossible dates, keys, nesting, ...
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        raise UsageError(f"{what} cannot be read: {why}.", "Give plain `key: value` lines.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise UsageError(f"{what} is not YAML: {problem}{where}.", "Correct it there.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{what} does not hold a mapping.", "Give `key: value` lines.")
    return found


def to_yaml(value: Mapping[str, Any]) -> str:
    """Write a mapping as YAML; the keys stay in order."""
    text: str = yaml.safe_dump(to_plain(value), sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    return text


def to_finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, since JSON has no such numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: to_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_finite(item) for item in value]
    return value


def to_json(value: Any) -> bytes:
    """Write strict JSON, indented."""
    return (json.dumps(to_finite(value), indent=2, allow_nan=False, default=str) + "\n").encode()


def as_cell(text: str) -> str:
    """Return a text for a CSV file: where a spreadsheet would compute it as a formula, with a `'` before it.

    Formulas begin with `=`, `+`, `-` or `@`, also in full width and after white space. A number is left as it is.
    """
    if not text.lstrip().startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Write rows as CSV, texts as `as_cell` returns them.

    Args:
        rows: the rows.
        columns: by default in the order in which they first appear.
    """
    columns = columns or list(dict.fromkeys(column for row in rows for column in row))
    rows = [{name: as_cell(one) if isinstance(one, str) else one for name, one in row.items()} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV file with a header; no rows if there is no such file.

    Raises:
        CircuitKitError: it cannot be read, or is not such a file.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise CircuitKitError(f"{path} cannot be read: {why}.", "Give a CSV file, or remove it.") from error
    if any(None in row for row in rows):
        raise CircuitKitError(f"{path} has a row with more values than columns.", "Give a CSV file, or remove it.")
    return rows
