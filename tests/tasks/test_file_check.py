"""The check of a prompt file finds every problem, each in its line; and answers of several tokens."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.prompt_rows import row
from support.word_tokenizers import byte_level
from transformers import PreTrainedTokenizerBase

from circuitkit.engine.ablation import Resample
from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split
from circuitkit.tasks.file_check import check_file
from circuitkit.tasks.prompt_file import PromptFile


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def found(findings: Any) -> list[tuple[str, str]]:
    return [(finding.where, f"{finding.text} {finding.remedy}") for finding in findings]


def test_a_file_without_problems(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    check = check_file(write(tmp_path / "p.csv", [row(number) for number in range(8)]), tokenizer)
    assert (check.problems, check.warnings, check.rows, check.long_answers) == ([], [], 8, 0)
    assert check.splits == {"train": 4, "validation": 2, "test": 2}
    assert check.batch is not None
    assert len(check.batch) == 8


def test_every_problem_is_found_in_its_line(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    rows = [
        row(0, split="train"),
        row(1, split="dev", answer=""),
        row(2, split="train", corrupted="Then, Mary went", answer=" Gertrude"),
        row(0, split="test"),
        row(3, split="test", wrong_answer=" Mary"),
    ]
    check = check_file(write(tmp_path / "p.csv", rows), tokenizer)
    said = found(check.problems)
    assert [where for where, _ in said] == ["line 3", "line 3", "line 4", "line 4", "line 5", "line 6"]
    for part, (_, text) in zip(
        ["no 'answer'", "split 'dev'", "15 clean and 4", "' Gertrude'", "same clean prompt", "' Mary' both"],
        said,
        strict=True,
    ):
        assert part in text
    assert check.batch is not None
    assert len(check.batch) == 2  # the rows of lines 2 and 5, in different splits
    with pytest.raises(UsageError):
        PromptFile(tmp_path / "p.csv").prompts(tokenizer, "train", 9, 0)


@pytest.mark.parametrize(
    ("name", "text", "where", "said"),
    [
        ("p.csv", "clean,corrupted,answer,wrong_answer\na,b,c,d\na,b,c,d,e\n", "line 3", "more cells"),
        ("p.csv", 'clean,corrupted,answer,wrong_answer\na,b,c,d\na,b"",c,"d\n', "line 3", "not CSV"),
        ("p.jsonl", json.dumps(row(0)) + "\n{\n", "line 2", "is not JSON"),
        ("p.jsonl", json.dumps(row(0)) + "\n\n3", "line 3", "not a JSON object"),
        ("p.json", json.dumps([row(0), 3]), "prompt 2", "is not an object"),
        ("p.csv", "clean,corrupted\na,b\n", "", "It needs clean, corrupted and one of"),
        ("p.csv", "clean,corrupted,answer,wrong_answer\n", "", "has no rows"),
        ("p.csv", "clean,corrupted,label\na,b,42\n", "", "'00' are not one token"),
    ],
)
def test_what_cannot_be_read_is_a_problem(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: str, text: str, where: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    problems = found(check_file(tmp_path / name, tokenizer).problems)
    (text,) = [text for place, text in problems if place == where and said in text]
    assert not where or not re.search(rf"line \d|{where}|{name}", text, re.IGNORECASE)  # line and file are named once


def test_what_may_be_meant_otherwise_is_a_warning(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    one, two = row(0), row(1)
    rows = [
        one,
        two,
        one,
        row(2, corrupted=row(2)["clean"]),
        {**one, "clean": one["corrupted"], "corrupted": one["clean"], "answer": " James", "wrong_answer": " Mary"},
        *map(row, range(3, 6)),
    ]
    check = check_file(write(tmp_path / "p.csv", rows), tokenizer)
    assert not check.problems
    said = found(check.warnings)
    assert [where for where, _ in said] == ["line 4", "line 2", "line 4", "line 6", "line 5"]
    assert "repeats line 2" in said[0][1]
    assert "the clean one of line 6, which can be in another split" in said[1][1]
    assert "same clean and corrupted" in said[4][1]
    rows = [{**each, "split": "train" if number > 2 else "test"} for number, each in enumerate(rows) if number != 2]
    assert "which is in 'train'" in found(check_file(write(tmp_path / "p.csv", rows), tokenizer).warnings)[0][1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_needed_split_in_which_no_edge_matters_is_a_problem(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, split: Split
) -> None:
    """As in a run, which checks each split."""
    rows = [row(number, split="test" if number % 2 else "train") for number in range(6)]
    same = [{**each, "corrupted": each["clean"]} if each["split"] == split else each for each in rows]
    path = write(tmp_path / "p.csv", same)
    with pytest.raises(UsageError) as refused:
        Resample().check(PromptFile(path).prompts(tokenizer, split, 9, 0))
    (problem,) = check_file(path, tokenizer).problems
    assert problem == ("", f"In the split {split!r}: {refused.value.problem}", refused.value.remedy)
    (whole,) = check_file(write(path, [{**row(n), "corrupted": row(n)["clean"]} for n in range(6)]), tokenizer).problems
    assert whole.text.startswith("All 6 corrupted prompts are the same")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "number": st.integers(0, 3),
                "answer": st.sampled_from([" Mary", " Gertrude", "", " James", '["a"', "[1]"]) | st.just(" Mary"),
                "corrupted": st.sampled_from(["Then, Mary went", "Mary"]) | st.none() | st.none(),
                "split": st.sampled_from(["train", "test", "dev", "train"]),
            }
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_a_file_has_no_problems_exactly_if_it_can_be_used(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, drawn: list[dict[str, Any]], splits: bool
) -> None:
    rows = []
    for cells in drawn:
        given_cells = {key: value for key, value in cells.items() if key != "number" and value is not None}
        rows.append(row(cells["number"], **given_cells))
        if not splits:
            del rows[-1]["split"]
    path = write(tmp_path / "p.jsonl", rows)
    try:
        task = PromptFile(path)
        for split in ("train", "test"):
            task.prompts(tokenizer, split, 99, 0)
        usable = True
        if task.available(tokenizer, "validation", 0):
            task.prompts(tokenizer, "validation", 99, 0)
    except UsageError:
        usable = False
    assert (not check_file(path, tokenizer).problems) == usable


# Answers of several tokens


def several(tmp_path: Path, *pairs: tuple[str, str]) -> Path:
    cells = ({"answer": answer, "wrong_answer": wrong} for answer, wrong in pairs)
    rows = [{"clean": f"a red {n}", "corrupted": f"a pink {n}", **both} for n, both in enumerate(cells)]
    return write(tmp_path / "p.csv", rows)


def test_the_first_differing_token_of_long_answers_counts(tmp_path: Path) -> None:
    tokenizer = byte_level()
    path = several(tmp_path, (" red cup", " red box"), (" xcat", " xhat"), (" red", " pink"))
    task, shown = PromptFile(path, long_answers="first_differing"), {}
    for split in ("train", "test"):
        batch = task.prompts(tokenizer, split, 9, 0)
        for number in range(len(batch)):
            clean, corrupted = (
                tokenizer.decode(ids[number][batch.mask[number]]) for ids in (batch.clean, batch.corrupted)
            )
            assert corrupted == clean.replace("a red", "a pink")
            answers = (tokenizer.decode(tokens[number, 0]) for tokens in (batch.answers, batch.wrong_answers))
            shown[clean[:7]] = (clean[7:], *answers)
    assert shown == {"a red 0": (" red", " cup", " box"), "a red 1": (" x", "c", "h"), "a red 2": ("", " red", " pink")}
    with pytest.raises(UsageError, match="first differing token count"):
        PromptFile(path).prompts(tokenizer, "train", 9, 0)
    assert check_file(path, tokenizer, "first_differing").long_answers == 2
    refused = check_file(path, tokenizer)
    offers = [(where, "first_differing" in text) for where, text in found(refused.problems)]
    assert offers == [("line 2", True), ("line 3", True)]


def test_what_long_answers_become_is_noted(tmp_path: Path) -> None:
    path = several(tmp_path, (" red cup", " red box"), (" red", " pink"))
    task = PromptFile(path, long_answers="first_differing")
    notes = [note for split in ("train", "test") for note in task.prompts(byte_level(), split, 1, 0).notes]
    (note,) = [note for note in notes if "several tokens" in note]
    assert "in 1 of 1 prompts" in note
    assert "such as ' red', continues both prompts" in note


@pytest.mark.parametrize(
    ("answer", "wrong", "said"),
    [
        (" red", " red cup", "one begins with the other"),
        (" red cup", " red cup", "both as answer and as wrong_answer"),
        ('[" red cup", " red box"]', " red cat", None),
        ('[" red cat", " red box"]', '[" red cup", " blue"]', "the token of ' red cat' both"),
    ],
)
def test_long_answers_without_a_differing_token_are_refused(
    tmp_path: Path, answer: str, wrong: str, said: str | None
) -> None:
    path = several(tmp_path, (answer, wrong), (" red", " pink"))
    problems = found(check_file(path, byte_level(), "first_differing").problems)
    assert [where for where, _ in problems] == (["line 2"] if said else [])
    assert said is None or said in problems[0][1]


def test_an_unknown_choice_for_long_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no long_answers 'first'"):
        PromptFile(several(tmp_path, (" red", " pink")), long_answers="first")  # type: ignore[arg-type]
