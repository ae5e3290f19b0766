"""The Python of the README and of docs/python.md runs, and prints what they show."""

import csv
import doctest
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import circuitkit
from circuitkit.tasks import IOI

README = Path(__file__).parent.parent / "README.md"
PYTHON = README.parent / "docs" / "python.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
_FLAGS = doctest.ELLIPSIS | doctest.REPORT_NDIFF


class Step(NamedTuple):
    """A block of Python, and the output shown below it; None if none is shown."""

    code: str
    output: str | None


def steps(page: Path) -> Iterator[Step]:
    blocks = [(found[1], found[2]) for found in _BLOCK.finditer(page.read_text())]
    for (kind, code), (next_kind, text) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if kind == "python":
            yield Step(code, text if next_kind == "text" else None)


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


def run_python(page: Path) -> tuple[dict[str, Any], int]:
    """Run the Python of a page, and compare what it prints; return its variables, and the number of outputs shown."""
    found, shown = dict[str, Any](), 0
    for number, step in enumerate(steps(page)):
        text = io.StringIO()
        with redirect_stdout(text):
            exec(compile(step.code, f"{page.name}, block {number + 1}", "exec"), found)
        if step.output is not None:
            shown += 1
            example = doctest.Example(step.code, step.output)
            checker = doctest.OutputChecker()
            assert checker.check_output(step.output, text.getvalue(), _FLAGS), checker.output_difference(
                example, text.getvalue(), _FLAGS
            )
    return found, shown


def test_the_python_of_the_readme_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_prompts(Path("prompts.csv"))
    found, shown = run_python(README)
    assert shown >= 3
    assert issubclass(found["MyStrategy"], circuitkit.DiscoveryStrategy)
    assert repr(circuitkit.discover("toy", "ioi", found["MyStrategy"](), examples=4)).startswith("Result(MyStrategy on")


def test_the_page_on_python_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    found, shown = run_python(PYTHON)
    assert shown == 7
    assert Path("circuit.svg").read_text().startswith("<?xml")
    assert 0.5 < found["result"].faithfulness < 1.5
    assert found["scores"]["kept"].sum() == len(found["circuit"])
    assert found["again"].rows == found["comparison"].rows
