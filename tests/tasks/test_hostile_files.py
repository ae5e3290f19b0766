"""Prompt files as people bring them: each gives one line that says what is wrong, or the right prompts."""

import csv
import errno
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from support.prompt_rows import row
from transformers import PreTrainedTokenizerBase

from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split
from circuitkit.tasks.ioi import NAMES
from circuitkit.tasks.prompt_file import PromptFile

Made = bytes | Callable[[Path], None]


def as_csv(rows: list[dict[str, Any]], **options: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def auto_circuit(rows: list[dict[str, Any]]) -> str:
    prompts = [
        {"clean": one["clean"], "corrupt": one["corrupted"], "answers": [one["answer"]],
         "wrong_answers": [one["wrong_answer"]], "kind": 3}
        for one in rows
    ]  # fmt: skip
    return json.dumps({"seq_labels": ["a", "b"], "word_idxs": {"a": 1}, "prompts": prompts})


def lines(rows: list[Any]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


ROWS = [row(0), row(1), row(2), row(3)]
PAIR = {"clean": "Then, Mary", "corrupted": "Then, John"}

RIGHT: dict[str, tuple[str, Made]] = {
    "a byte order mark": ("p.csv", as_csv(ROWS).encode("utf-8-sig")),
    "a byte order mark in JSONL": ("p.jsonl", lines(ROWS).encode("utf-8-sig")),
    "a byte order mark in JSON": ("p.json", json.dumps(ROWS).encode("utf-8-sig")),
    "lines that end in LF": ("p.csv", as_csv(ROWS, lineterminator="\n").encode()),
    "lines that end in CR": ("p.csv", as_csv(ROWS, lineterminator="\r").encode()),
    "JSONL lines that end in CRLF": ("p.jsonl", lines(ROWS).replace("\n", "\r\n").encode()),
    "no line end at the end": ("p.jsonl", lines(ROWS).rstrip().encode()),
    "empty lines": ("p.csv", as_csv(ROWS).replace("\r\n", "\r\n\r\n").encode()),
    "empty lines in JSONL": ("p.jsonl", lines(ROWS).replace("\n", "\n \n\n").encode()),
    "all cells quoted": ("p.csv", as_csv(ROWS, quoting=csv.QUOTE_ALL).encode()),
    "an index column": ("p.csv", as_csv([{"": n, **one} for n, one in enumerate(ROWS)]).encode()),
    "further columns": ("p.csv", as_csv([{**one, "corrupted_hard": "x", "clean ": "y"} for one in ROWS]).encode()),
    "further keys": ("p.jsonl", lines([{**one, "meta": {"a": [1, {}]}} for one in ROWS]).encode()),
    "auto-circuit's JSON": ("p.json", auto_circuit(ROWS).encode()),
    "a list as JSON": ("p.json", json.dumps(ROWS, indent=2).encode()),
    "corrupt as CSV": ("p.csv", as_csv(ROWS).replace("clean,corrupted,", "clean,corrupt,", 1).encode()),
    "corrupt beside corrupted": ("p.jsonl", lines([{**one, "corrupt": "no"} for one in ROWS]).encode()),
    "answers as sets": ("p.jsonl", lines([{**one, "answer": [one["answer"]]} for one in ROWS]).encode()),
    "answers twice": (
        "p.jsonl",
        lines([{**one, "answer": [one["answer"], one["answer"].strip()]} for one in ROWS]).encode(),
    ),
    "capitals in the suffix": ("p.CSV", as_csv(ROWS).encode()),
    "a link": ("p.csv", lambda path: (path.with_name("q.csv").write_text(as_csv(ROWS)), path.symlink_to("q.csv"))),
    "a space in its name": ("my prompts.csv", as_csv(ROWS).encode()),
    "duplicates": ("p.csv", as_csv([*ROWS, *ROWS]).encode()),
}

DEEP = "[" * 5_000 + "]" * 5_000
WRONG: dict[str, tuple[str, Made, str]] = {
    "empty": ("p.csv", b"", "has no rows"),
    "empty JSONL": ("p.jsonl", b"", "has no rows"),
    "empty JSON": ("p.json", b"", "is not JSON"),
    "spaces only": ("p.csv", b"  \n \n", "has the columns '  '"),
    "a byte order mark only": ("p.jsonl", b"\xef\xbb\xbf", "has no rows"),
    "a header only": ("p.csv", b"clean,corrupted,answer,wrong_answer\r\n", "has no rows"),
    "an empty list": ("p.json", b"[]", "has no rows"),
    "an empty list of prompts": ("p.json", b'{"prompts": []}', "has no rows"),
    "no header": ("p.csv", as_csv(ROWS).partition("\r\n")[2].encode(), "has the columns"),
    "no header, very wide": ("p.csv", (",".join("x" * 200 for _ in range(300)) + "\na\n").encode(), "has the columns"),
    "another header": ("p.csv", as_csv([{"prompt": "x", "target": "y"}]).encode(), "columns 'prompt', 'target'"),
    "a missing column": ("p.csv", as_csv([{**PAIR, "answer": "x"}]).encode(), "It needs clean, corrupted and one of"),
    "spaces in the header": ("p.csv", b"clean, corrupted, answer, wrong_answer\na, b, c, d\n", "without spaces"),
    "capitals in the header": ("p.csv", b"Clean,Corrupted,Answer,Wrong_Answer\na,b,c,d\n", "small letters"),
    "a column twice": (
        "p.csv",
        b"clean,corrupted,answer,answer,wrong_answer\na,b,c,d,e\n",
        "has the column 'answer' twice",
    ),
    "semicolons": ("p.csv", as_csv(ROWS, delimiter=";").encode(), "is separated by semicolons"),
    "semicolons, all quoted": ("p.csv", as_csv(ROWS, delimiter=";", quoting=csv.QUOTE_ALL).encode(), "by semicolons"),
    "semicolons after a mark": ("p.csv", as_csv(ROWS, delimiter=";").encode("utf-8-sig"), "by semicolons"),
    "tabs": ("p.csv", as_csv(ROWS, delimiter="\t").encode(), "separated by tabs"),
    "bars": ("p.csv", as_csv(ROWS, delimiter="|").encode(), "separated by bars"),
    "unquoted commas": (
        "p.csv",
        b"clean,corrupted,answer,wrong_answer\nThen, Mary,Then, John,a,b\n",
        "more cells than the header",
    ),
    "too few cells": ("p.csv", b"clean,corrupted,answer,wrong_answer\na,b\n", "has no 'answer'"),
    "a quote that is not closed": ("p.csv", b'clean,corrupted,answer,wrong_answer\n"a,b,c,d\ne,f,g,h\n', "is not CSV"),
    "text after a quote": ("p.csv", b'clean,corrupted,answer,wrong_answer\n"a"x,b,c,d\n', "Line 2 of .* is not CSV"),
    "a huge cell": ("p.csv", as_csv([row(clean="x " * 100_000)]).encode(), "Line 2 of .* is not CSV"),
    "a huge prompt": ("p.jsonl", lines([row(clean="Mary " * 100_000)]).encode(), "clean and 15 corrupted tokens"),
    "a huge answer": ("p.jsonl", lines([row(answer="x" * 10**6)]).encode(), "not one token"),
    "a huge wrong type": ("p.jsonl", lines([row(clean=list(range(10**5)))]).encode(), "as 'clean'"),
    "NUL bytes": ("p.csv", b"\0" * 4096, "it has NUL characters"),
    "NUL bytes in JSONL": ("p.jsonl", b"\0" * 4096 + b"\n", "is not JSON"),
    "a NUL in an answer": ("p.csv", as_csv([row(answer=" Ma\0ry")]).encode(), "not one token"),
    "random bytes": ("p.csv", bytes(range(256)) * 64, "is not UTF-8"),
    "Latin-1": ("p.csv", as_csv([row(clean="é")]).encode("latin-1"), "is not UTF-8"),
    "Latin-1 late in the file": ("p.jsonl", (lines(ROWS) * 2000).encode() + b"\xe9\n", "is not UTF-8"),
    "Latin-1 in JSON": ("p.json", '["é"]'.encode("latin-1"), "is not UTF-8"),
    "UTF-16": ("p.csv", as_csv(ROWS).encode("utf-16"), "is not UTF-8"),
    "UTF-16 without a mark": ("p.csv", as_csv(ROWS).encode("utf-16-le"), "it has NUL characters"),
    "UTF-16 JSON": ("p.json", json.dumps(ROWS).encode("utf-16"), "is not UTF-8"),
    "gzip": ("p.csv.gz", gzip.compress(as_csv(ROWS).encode()), r"ends in '\.gz'"),
    "gzip by the wrong name": ("p.csv", gzip.compress(as_csv(ROWS).encode()), "is not UTF-8"),
    "a spreadsheet": ("p.xlsx", b"PK\3\4" + bytes(100), r"ends in '\.xlsx'"),
    "a spreadsheet by the wrong name": ("p.csv", b"PK\3\4\x14\0\xff" + bytes(100), "is not UTF-8"),
    "TSV": ("p.tsv", as_csv(ROWS, delimiter="\t").encode(), r"ends in '\.tsv'.*\.csv, \.jsonl or \.json"),
    "no suffix": ("prompts", as_csv(ROWS).encode(), "ends in ''"),
    "JSON as CSV": ("p.csv", json.dumps(ROWS).encode(), "CSV|columns"),
    "JSONL as JSON": ("p.json", lines(ROWS).encode(), r"is not JSON.*\.jsonl"),
    "JSON as JSONL": ("p.jsonl", json.dumps(ROWS).encode(), r"is not a JSON object.*\.json"),
    "auto-circuit's JSON as JSONL": ("p.jsonl", auto_circuit(ROWS).encode(), r"columns 'seq_labels'.*\.json"),
    "JSON without prompts": ("p.json", b'{"data": []}', "no list of prompts"),
    "JSON with prompts that are no list": ("p.json", b'{"prompts": {"a": 1}}', "no list of prompts"),
    "JSON that is a number": ("p.json", b"3", "no list of prompts"),
    "JSON with prompts that are no objects": ("p.json", b'{"prompts": ["x"]}', "Prompt 1 of .* is not an object: 'x'"),
    "single quotes": ("p.jsonl", b"{'clean': 'x'}\n", "Line 1 of .* is not JSON"),
    "half a line": ("p.jsonl", lines(ROWS).encode()[:-20], "Line 4 of .* is not JSON"),
    "a comment": ("p.jsonl", b"# mine\n" + lines(ROWS).encode(), "Line 1 of .* is not JSON"),
    "deep nesting": ("p.jsonl", DEEP.encode(), "Line 1 of .* is not JSON"),
    "deep nesting in JSON": ("p.json", DEEP.encode(), "is not JSON"),
    "deep nesting in a cell": (
        "p.jsonl",
        lines([row(answer="%")]).replace('"%"', "[" * 400 + "]" * 400).encode(),
        "as 'answer'",
    ),
    "deep nesting in ids": (
        "p.csv",
        as_csv([{**PAIR, "correct_idx": DEEP, "incorrect_idx": 3}]).encode(),
        "as 'correct_idx'",
    ),
    "half of a surrogate pair": (
        "p.jsonl",
        lines([row(clean="\ud83d" + row()["clean"])]).encode(),
        "Row 1 .*half of a surrogate pair in 'clean'",
    ),
    "half of a surrogate pair in an answer": (
        "p.json",
        json.dumps([row(answer=["\ude00"])]).encode(),
        "surrogate pair in 'answer'",
    ),
    "half of a surrogate pair as a split": ("p.jsonl", lines([row(split="\ude00")]).encode(), "split"),
    "numbers as prompts": ("p.jsonl", lines([row(clean=3)]).encode(), "has 3 as 'clean'"),
    "null": ("p.jsonl", lines([row(corrupted=None)]).encode(), "has no 'corrupted'"),
    "objects as answers": ("p.jsonl", lines([row(answer={"a": 1})]).encode(), "as 'answer'"),
    "numbers as answers": ("p.jsonl", lines([row(answer=[1, 2])]).encode(), "as 'answer'"),
    "an empty set": ("p.jsonl", lines([row(answer=[])]).encode(), "has no 'answer'"),
    "NaN as an id": (
        "p.jsonl",
        b'{"clean":"x","corrupted":"y","correct_idx":NaN,"incorrect_idx":1}\n',
        "nan as 'correct_idx'",
    ),
    "an endless number as an id": (
        "p.jsonl",
        lines([{**PAIR, "correct_idx": 1, "incorrect_idx": 2}]).replace("1,", "1" * 5000 + ",").encode(),
        "is not JSON",
    ),
    "a negative id": ("p.csv", as_csv([{**PAIR, "correct_idx": -3, "incorrect_idx": 3}]).encode(), "token id -3"),
    "a huge id": ("p.csv", as_csv([{**PAIR, "correct_idx": 2**70, "incorrect_idx": 3}]).encode(), f"token id {2**70}"),
    "an id as a fraction": (
        "p.jsonl",
        lines([{**PAIR, "correct_idx": 3.0, "incorrect_idx": 3}]).encode(),
        "3.0 as 'correct_idx'",
    ),
    "an unknown split": ("p.csv", as_csv([row(split="dev")]).encode(), "split 'dev'"),
    "a split in capitals": ("p.csv", as_csv([row(split="Train")]).encode(), "split 'Train'"),
    "a list as a split": ("p.jsonl", lines([row(split=["train"])]).encode(), r"split \['train'\]"),
    "zero as a split": ("p.jsonl", lines([row(split="train"), row(1, split=0)]).encode(), "Row 2 .*the split 0"),
    "false as a split": ("p.json", json.dumps([row(split=False)]).encode(), "the split False"),
    "one answer for both": (
        "p.csv",
        as_csv([row(wrong_answer=" Mary")]).encode(),
        "' Mary' both as answer and as wrong_answer",
    ),
    "one answer in both sets": (
        "p.jsonl",
        lines([row(answer=[" Mary", " Paul"], wrong_answer=[" John", " Paul"])]).encode(),
        "' Paul' both",
    ),
    "one token for both": (
        "p.csv",
        as_csv([row(wrong_answer="Mary")]).encode(),
        "Row 1 .*both as answer and as wrong_answer",
    ),
    "one id for both": (
        "p.csv",
        as_csv([{**PAIR, "correct_idx": "[3, 4]", "incorrect_idx": "4"}]).encode(),
        "4 both as correct_idx",
    ),
    "an answer of two words": ("p.csv", as_csv([row(answer=" Mary John")]).encode(), "not one token"),
    "pairs of different lengths": ("p.csv", as_csv([row(corrupted="Then, Mary")]).encode(), "has 15 clean and"),
    "twelve copies": ("p.csv", as_csv([row()] * 12).encode(), "12 in all; 11 are duplicates"),
    "one clean prompt": (
        "p.csv",
        as_csv([row(wrong_answer=f" {name}") for name in NAMES[2:8]]).encode(),
        "one clean prompt",
    ),
    "missing": ("nothing.csv", lambda path: None, "cannot be read: No such file"),
    "a folder": ("p.csv", lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "a link to nothing": ("p.csv", lambda path: path.symlink_to("nothing.csv"), "cannot be read: No such file"),
    "a link to itself": ("p.csv", lambda path: path.symlink_to(path.name), "cannot be read: Too many levels"),
    "a file in a file": ("a/p.csv", lambda path: path.parent.write_text("x"), "cannot be read: Not a directory"),
    "a NUL in the name": ("p\0.csv", lambda path: None, "contains a null character"),
    "a name that is too long": ("p" * 300 + ".csv", lambda path: None, "cannot be read: File name too long"),
}


def bring(tmp_path: Path, name: str, made: Made) -> Path:
    path = tmp_path / name
    if callable(made):
        made(path)
    else:
        path.write_bytes(made)
    return path


def all_prompts(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, ...]]:
    """Read every split: clean and corrupted prompt, answers and wrong answers, as text."""
    found = []
    for split in get_args(Split):
        batch = PromptFile(path).prompts(tokenizer, split, 99, seed=0)
        parts = batch.clean, batch.corrupted, batch.answers[:, 0], batch.wrong_answers[:, 0]
        found += [tuple(tokenizer.decode(ids) for ids in one) for one in zip(*parts, strict=True)]
    return sorted(found)


def test_there_are_enough_of_them() -> None:
    assert len(RIGHT) + len(WRONG) >= 100


@pytest.mark.parametrize(("name", "made"), RIGHT.values(), ids=RIGHT)
def test_a_file_that_can_be_read_gives_its_prompts(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: str, made: Made
) -> None:
    path = bring(tmp_path, name, made)
    assert all_prompts(path, tokenizer) == sorted(tuple(one.values()) for one in ROWS)


@pytest.mark.parametrize(("name", "made", "said"), WRONG.values(), ids=WRONG)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: str, made: Made, said: str
) -> None:
    path = bring(tmp_path, name, made)
    with pytest.raises(UsageError, match=said) as caught:
        all_prompts(path, tokenizer)
    text = str(caught.value).replace(str(path), path.name)
    assert text.isprintable()
    assert len(text) < 700


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:  # file modes do not stop root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    path = bring(tmp_path, "p.csv", as_csv(ROWS).encode())
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        PromptFile(path)


def test_a_home_folder_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        PromptFile("~nobody-of-this-name/prompts.csv")
