"""Every public entry with what people give it by mistake, and what it says.

Each case is an entry of the tables in `support/mistakes_*.py`: what is done, the exit status of the command line (2:
wrong usage, 1: failure), and what the message must quote and advise. Whatever is refused leaves no file behind. More
such tables, for single formats, are in `cli/test_errors.py`, `cli/test_hostile_configs.py`,
`cli/test_hostile_folders.py`, `tasks/test_hostile_files.py` and `run/test_hostile_state.py`; `fuzz/` damages files at
random.
"""

import os
import shutil
from pathlib import Path

import pytest
from support.mistakes import Case, D, Patch
from support.mistakes_in_commands import COMMANDS
from support.mistakes_with_circuits import CIRCUITS, PARTS
from support.mistakes_with_runs import COMPARISONS, RUNS

from circuitkit.cli.main import main
from circuitkit.errors import CircuitKitError

CASES = {
    **{f"Python, {name}": case for table in (RUNS, COMPARISONS, CIRCUITS, PARTS) for name, case in table.items()},
    **{f"command, {name}": case for name, case in COMMANDS.items()},
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stock")
    assert main([*D, "--sizes", "[0.1]", "--out", str(home / "run")]) == 0
    (home / "plain.txt").write_text("x")
    (home / "empty").mkdir()
    return home


def test_there_are_a_hundred_and_fifty() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("name", CASES)
def test_what_goes_wrong_is_said_in_one_line(
    name: str, stock: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    case, here = CASES[name], tmp_path / "here"
    shutil.copytree(stock, here)
    monkeypatch.chdir(here)
    case.before(monkeypatch)
    before = snapshot(here)
    if isinstance(case.do, list):
        assert main(case.do) == case.status
        shown, text = capsys.readouterr()
        assert shown == ""
        assert text.startswith("circuitkit: ")
        assert text.count("\n") == 1
    else:
        with pytest.raises(CircuitKitError) as raised:
            case.do()
        text = str(raised.value)
        assert "\n" not in text
        assert raised.value.exit_code == case.status, text
        assert raised.value.problem.rstrip().endswith((".", ")")), text
        assert raised.value.remedy.endswith("."), text
    assert "Traceback" not in text
    assert len(text) < 1000
    for part in case.said:
        assert part in text, text
    assert snapshot(here) == before
    record(name, case, text)


def snapshot(folder: Path) -> dict[str, bytes]:
    """What every file holds, and which folders there are; not the empty cache of fetched models."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if path.name != "cache"
    }


def record(name: str, case: Case, text: str) -> None:
    """Write down what a case prints, if asked: `CIRCUITKIT_ERRORS=table.txt pytest tests/errors`."""
    if table := os.environ.get("CIRCUITKIT_ERRORS"):
        with Path(table).open("a") as file:
            file.write(f"{name} [{case.status}]\n    {text.strip()}\n")
