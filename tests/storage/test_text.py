"""YAML, strict JSON and CSV: what is written reads back, and what cannot be read is named."""

import json
import math
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from circuitkit.errors import UsageError
from circuitkit.storage.text import (
    as_cell,
    parse_yaml,
    read_csv,
    read_yaml,
    to_csv,
    to_finite,
    to_json,
    to_plain,
    to_yaml,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"))
"""Any text but surrogates, which UTF-8 does not have, and the line break U+0085, which PyYAML reads as a space."""
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inside: st.lists(inside) | st.dictionaries(TEXT, inside), max_leaves=12)


def test_to_plain_keeps_what_json_holds_and_turns_the_rest_into_text() -> None:
    given = OrderedDict(a=(1, 2.5, None), b={"c": Path("x/y")}, d=1 + 2j)
    assert to_plain(given) == {"a": [1, 2.5, None], "b": {"c": "x/y"}, "d": "(1+2j)"}
    assert type(to_plain(given)) is dict


# YAML


@given(st.dictionaries(TEXT, VALUES))
def test_yaml_reads_back_with_its_keys_in_order(value: dict[str, Any]) -> None:
    back = parse_yaml(to_yaml(value), "It")
    assert back == value
    assert list(back) == list(value)


def test_yaml_is_plain_and_readable() -> None:
    text = to_yaml({"b": {"c": [1, 2]}, "a": "größer", "path": Path("x")})
    assert text == "b:\n  c: [1, 2]\na: größer\npath: x\n"


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: größer\nb: [1]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a.yaml") == {"a": "größer", "b": [1]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: 1\nb: [}\n", r"'.*a\.yaml' is not YAML: .* \(line 2, column 5\)\. Correct it there\."),
        (b"a: !!python/object/apply:os.getcwd []\n", r"is not YAML: could not determine a constructor .* \(line 1"),
        (b"a: \x00\n", "is not YAML"),
        (b"- a\n", "does not hold a mapping"),
        (b"text\n", "does not hold a mapping"),
        (b"", "does not hold a mapping"),
        (b"a: \xff\n", "cannot be read: .*utf-8"),
    ],
)
def test_yaml_that_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=problem) as raised:
        read_yaml(tmp_path / "a.yaml")
    assert len(str(raised.value).splitlines()) == 1


def test_yaml_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file '.*missing\.yaml'"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match=r"cannot be read: .*Is a directory"):
        read_yaml(tmp_path)


# JSON


def test_numbers_that_are_not_finite_become_null() -> None:
    given = {"a": math.inf, "b": [math.nan, (1.5, -math.inf)], "c": {"d": 2, "e": "inf"}, "f": None}
    assert to_finite(given) == {"a": None, "b": [None, [1.5, None]], "c": {"d": 2, "e": "inf"}, "f": None}
    text = to_json(given)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(text, parse_constant=refuse) == to_finite(given)
    assert text.endswith(b"}\n")
    assert b'\n  "a": null' in text
    assert json.loads(to_json({"path": Path("x")})) == {"path": "x"}


@given(VALUES)
def test_json_reads_back(value: Any) -> None:
    assert json.loads(to_json(value)) == to_finite(value)


# CSV


def test_csv_has_all_columns_in_the_order_of_their_first_appearance(tmp_path: Path) -> None:
    rows = [{"b": 1, "a": "x, y"}, {"c": None, "a": 'say "ü"\n'}, {}]
    text = to_csv(rows)
    assert text.splitlines()[0] == "b,a,c"
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read_csv(tmp_path / "a.csv") == [
        {"b": "1", "a": "x, y", "c": ""},
        {"b": "", "a": 'say "ü"\n', "c": ""},
        {"b": "", "a": "", "c": ""},
    ]


def test_a_csv_file_without_rows_or_that_is_not_there(tmp_path: Path) -> None:
    assert read_csv(tmp_path / "missing.csv") == []
    (tmp_path / "empty.csv").write_text(to_csv([]))
    assert read_csv(tmp_path / "empty.csv") == []


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1+1", "'\t=1+1"),
        (" \r\n=1+1", "' \r\n=1+1"),
        ("\uff1d1", "'\uff1d1"),
        ("-", "'-"),
        ("-0.5", "-0.5"),  # a number that was read as text
        ("+1e-05", "+1e-05"),
        ("-inf", "-inf"),
        ("a=1", "a=1"),
        ("'=1", "'=1"),
        ("", ""),
    ],
)
def test_a_text_that_a_spreadsheet_would_compute_is_quoted(text: str, cell: str, tmp_path: Path) -> None:
    assert as_cell(text) == as_cell(as_cell(text)) == cell
    path = tmp_path / "file.csv"
    path.write_text(to_csv([{"x": text, "y": -1.5}]), encoding="utf-8", newline="")
    assert read_csv(path) == [{"x": cell, "y": "-1.5"}]


def test_files_are_utf_8_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(to_csv([{"a": "ü"}]).encode())
    (tmp_path / "a.yaml").write_bytes(to_yaml({"a": "ü"}).encode())
    code = (
        "import locale, sys; from pathlib import Path; from circuitkit.storage.text import read_csv, read_yaml; "
        "assert 'utf' not in locale.getencoding().lower(); folder = Path(sys.argv[1]); "
        "assert read_csv(folder / 'a.csv') == [read_yaml(folder / 'a.yaml')] == [{'a': '\\u00fc'}]"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=plain, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_yaml_of_this_package_is_loaded_by_others() -> None:
    value = {"a": [1, {"b": None}], "c": "no", "d": "1e3", "e": ""}
    assert yaml.safe_load(to_yaml(value)) == value
