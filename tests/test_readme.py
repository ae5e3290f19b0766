"""The Python of the README and of docs/python.md runs, and prints what they show."""

import csv
import tempfile
from pathlib import Path

import pytest
from support.pages import run_page

import circuitkit
from circuitkit.tasks import IOI

README = Path(__file__).parent.parent / "README.md"
PYTHON = README.parent / "docs" / "python.md"


def write_prompts(path: Path) -> None:
    """Write pairs that the toy model knows, in the columns that the README names."""
    tokenizer = circuitkit.CircuitModel.from_pretrained("toy").tokenizer
    batch = IOI().prompts(tokenizer, "train", 60, 0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clean", "corrupted", "answer", "wrong_answer"])
        for row in range(len(batch)):
            real = batch.mask[row]
            pair = [tokenizer.decode(ids[row][real]) for ids in (batch.clean, batch.corrupted)]
            writer.writerow([*pair, *(tokenizer.decode(ids[row, 0]) for ids in (batch.answers, batch.wrong_answers))])


def test_the_python_of_the_readme_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_prompts(Path("prompts.csv"))
    found, shown = run_page(README, python_only=True)
    assert shown >= 3
    assert issubclass(found["MyStrategy"], circuitkit.DiscoveryStrategy)
    assert repr(circuitkit.discover("toy", "ioi", found["MyStrategy"](), examples=4)).startswith("Result(MyStrategy on")


def test_the_page_on_python_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    found, shown = run_page(PYTHON, python_only=True)
    assert shown == 9
    assert Path("circuit.svg").read_text().startswith("<?xml")
    assert 0.5 < found["result"].faithfulness < 1.5
    assert found["scores"]["kept"].sum() == len(found["circuit"])
    assert found["again"].rows == found["comparison"].rows
