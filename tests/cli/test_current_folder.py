"""Code in the current folder: `discover` and `compare` may import it, the other commands do not."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from circuitkit.cli.main import main
from circuitkit.config import specs
from circuitkit.errors import UsageError
from circuitkit.run.reevaluate import reevaluate
from circuitkit.run.result import Result
from circuitkit.tasks.ioi import IOI

DISCOVER = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "4"]
OWN = """
import pathlib
pathlib.Path("imported").touch()
from circuitkit.strategies.random_edges import RandomEdges
from circuitkit.tasks.ioi import IOI
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
class Strategy(RandomEdges): pass
class Task(IOI): pass
class Objective(LogitDifference): pass
class Ablation(Resample): pass
"""
SCRIPT = "import sys\nfrom circuitkit.cli.main import main\nsys.exit(main())\n"
"""What pip installs as the command `circuitkit`."""


class TakesCode(IOI):
    """A task with an argument that jsonargparse would import, and one of data."""

    def __init__(self, words: Callable[[], list[str]], names: Sequence[str | float] | None = None) -> None:
        super().__init__()
        self.words, self.names = words, names


@pytest.fixture(autouse=True)
def in_a_folder_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    Path("own_code.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_code", raising=False)


def received_run(**parts: str) -> None:
    """Make the current folder a run whose config names classes of the file beside it."""
    assert main([*DISCOVER, "--out", "run"]) == 0
    for file in Path("run").iterdir():
        file.rename(file.name)
    config = yaml.safe_load(Path("config.yaml").read_text())
    Path("config.yaml").write_text(yaml.safe_dump(config | {key: {"class_path": path} for key, path in parts.items()}))


def run(way: str, tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "script.py").write_text(SCRIPT)
    start = {"module": ["-m", "circuitkit"], "script": [str(tmp_path / "script.py")]}[way]
    return subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize("way", ["module", "script"])
def test_evaluating_a_received_folder_imports_nothing_from_it(way: str, tmp_path: Path) -> None:
    received_run(task="own_code.Task")
    Path("torch.py").write_text(OWN)  # found first, if the current folder were
    ran = run(way, tmp_path, "evaluate", ".")
    assert ran.returncode == 2
    assert not Path("imported").exists()
    assert len(ran.stderr.splitlines()) == 1
    assert "'own_code.Task'" in ran.stderr
    assert "--allow_code" in ran.stderr


@pytest.mark.parametrize("key", ["task", "objective", "ablation"])
def test_evaluating_imports_registered_classes_only_unless_asked(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    received_run(**{key: f"own_code.{key.capitalize()}"})
    sys.path.insert(0, str(Path.cwd()))  # not even code that Python would find
    capsys.readouterr()
    assert main(["evaluate", "."]) == 2
    assert "no installed package registers" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no installed package registers"):
        reevaluate(".")
    assert not Path("imported").exists()
    del sys.path[0]
    assert main(["evaluate", ".", "--allow_code"]) == 0
    assert Path("imported").exists()


def test_an_argument_that_could_name_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a registered class: jsonargparse would import what a text names, where a function is expected."""
    path = f"{__name__}.TakesCode"
    monkeypatch.setattr("circuitkit.config.registry.names", lambda kind: ["takes_code"])
    monkeypatch.setattr("circuitkit.config.registry.class_path", lambda kind, name: path)
    for hostile in ("own_code.Task", {"class_path": "own_code.Task"}, ["own_code.Task"]):
        with pytest.raises(UsageError, match="argument 'words'"):
            specs.restrict("tasks", {"class_path": path, "init_args": {"words": hostile}})
    data = {"words": None, "names": ["a", 1.5]}
    assert specs.restrict("tasks", {"class_path": path, "init_args": data})["init_args"] == data
    assert not Path("imported").exists()


@pytest.mark.parametrize("way", ["module", "script"])
def test_discover_finds_a_file_in_the_current_folder(way: str, tmp_path: Path) -> None:
    ran = run(way, tmp_path, *DISCOVER, "--strategy", "own_code.Strategy", "--out", "run")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert Result.load("run").config["strategy"]["class_path"] == "own_code.Strategy"


def test_compare_finds_a_file_in_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(sys.path)
    arguments = ["--strategies", "{mine: own_code.Strategy}", "--tasks", "{mine: own_code.Task}", "--examples", "4"]
    assert main(["compare", *arguments, "--out", "out"]) == 0
    assert "mine on" not in capsys.readouterr().out
    assert sys.path == before
