"""`circuitkit check`: prompt files."""

import csv
from pathlib import Path
from typing import Any

import pytest
from support.mistakes import offline
from support.prompt_rows import row

from circuitkit.cli.main import main


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_a_file_that_can_be_used_fits_one_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(number, template=f"{number % 2}") for number in range(10)]
    assert main(["check", write(tmp_path / "p.csv", [*rows, rows[0]]), "--model", "toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120 + len(str(tmp_path))
    text = " ".join(" ".join(lines).split())
    for said in (
        "Pair 2: 15 tokens",
        "different pairs that can be used: 10",
        "5 train, 2 validation, 3 test",
        "right on 100%",
        "chance: 50%",
        "logit_difference (the default)",
        "kl, squared_error all but eap",
        "test prompts for 95% intervals of ±0.1",
        "square root of the number of prompts",
        "line 12 repeats line 2",
        "p.csv can be used.",
    ):
        assert said in text, said
    assert "Problems" not in text


def test_a_file_that_cannot_be_used_has_all_its_problems_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(0), *(row(1, answer=f" Gertrude {number}") for number in range(30)), row(2, corrupted="Mary")]
    assert main(["check", write(tmp_path / "p.csv", rows), "--model", "toy"]) == 1
    text = capsys.readouterr().out
    assert "Problems (31):" in text
    assert "line 3 has the answer ' Gertrude 0', which is not one token" in text
    assert "and 6 more: line 28, line 29, line 30, line 31, line 32, line 33" in text
    assert "cannot be used: mend the problems above" in text


def test_prompts_that_are_too_long_for_the_model_are_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {name: f"{'Then, ' * 40}{row(3)[name]}" for name in ("clean", "corrupted")}
    assert main(["check", write(tmp_path / "p.csv", [row(0), row(1), row(3, **long)]), "--model", "toy"]) == 1
    assert "positions for 64" in capsys.readouterr().out.partition("Problems (1):")[2]


def test_rows_in_which_no_edge_matters_do_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("circuitkit.cli.check._PROMPTS", 4)
    rows = [row(number, split="test" if number % 2 else "train") for number in range(12)]
    same = [{**each, "corrupted": each["clean"]} for each in rows]
    assert main(["check", write(tmp_path / "p.csv", [*same[:6], *rows[6:]]), "--model", "toy"]) == 0
    assert "p.csv can be used." in capsys.readouterr().out
    assert main(["check", write(tmp_path / "p.csv", same), "--model", "toy"]) == 1
    assert "Problems (1):" in capsys.readouterr().out


def test_answers_of_several_tokens_are_offered_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(number, **({"answer": " Mary James"} if number else {})) for number in range(4)]
    path = write(tmp_path / "p.csv", rows)
    assert main(["check", path, "--model", "toy"]) == 1
    assert "first differing token count (long_answers: first_differing)" in capsys.readouterr().out
    assert main(["check", path, "--model", "toy", "--long_answers", "first_differing"]) == 0
    assert "3 with answers of several tokens, of which the first differing" in " ".join(capsys.readouterr().out.split())
    run = ["discover", "--model", "toy", "--task", "prompt_file", "--task.path", path, "--strategy", "eap", "--sizes"]
    more = ["[0.1]", "--task.long_answers", "first_differing", "--out", str(tmp_path / "run")]
    assert main([*run, *more]) == 0
    assert "The first token counts at which right and wrong answers differ" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompts.csv"], "The model is missing"),
        (["prompts.csv", "--model", "toy"], "There is no file 'prompts.csv'"),
        (["p.csv", "--model", "toyy"], "There is no model 'toyy'"),
        (["p.csv", "--model", "toy", "--long_answers", "first"], "no long_answers 'first'"),
        (["p.csv", "--modell", "toy"], "modell"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    offline(monkeypatch)
    write(tmp_path / "p.csv", [row(number) for number in range(4)])
    assert main(["check", *arguments]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
