"""Output that cannot be written: a full device, a closed pipe, no stream at all."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest

from circuitkit.cli.main import main
from circuitkit.run.result import Result

TOY = ["--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "4"]
COMMANDS = {
    "discover": ["discover", *TOY, "--out", "new"],
    "dry run": ["discover", *TOY, "--dry_run"],
    "print_config": ["discover", *TOY, "--print_config"],
    "evaluate": ["evaluate", "run", "--sizes", "[0.5, 1.0]"],
    "compare": ["compare", "--strategies", "{eap: eap}", "--examples", "4", "--sizes", "[1.0]", "--out", "new"],
    "list": ["list", "strategies"],
    "help": ["--help"],
    "help of a command": ["discover", "--help"],
    "version": ["--version"],
}

_PROGRESS = ("2 cells to run.", "[1/2]", "[2/2]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert main(["discover", *TOY, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_with_a_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(run / "run")


@contextmanager
def closed_pipe() -> Iterator[TextIO]:
    """Open a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    with suppress(BrokenPipeError), os.fdopen(write, "w") as stream:
        yield stream


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full as a full disk; this system has none")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_device(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch, Path("/dev/full").open("w") as full:
        patch.setattr(sys, "stdout", full)
        assert main(COMMANDS[command]) == 1
    *progress, last = capsys.readouterr().err.splitlines()
    assert last == "circuitkit: The output cannot be written: No space left on device."
    assert all(line.startswith(_PROGRESS) for line in progress)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch, closed_pipe() as closed:
        patch.setattr(sys, "stdout", closed)
        assert main(COMMANDS[command]) == 0
    assert all(line.startswith(_PROGRESS) for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_no_output_at_all(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of `>&-`
    assert main(COMMANDS[command]) == 0


def test_a_search_is_saved_before_its_output_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, closed_pipe() as closed:
        patch.setattr(sys, "stdout", closed)
        assert main(COMMANDS["discover"]) == 0
    assert len(Result.load("new").circuits) == 1


@pytest.mark.parametrize("arguments", [COMMANDS["compare"], ["discver"]])
def test_messages_that_nobody_reads_end_nothing(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison goes on, and an error keeps its exit status."""
    with monkeypatch.context() as patch, closed_pipe() as closed:
        patch.setattr(sys, "stderr", closed)
        assert main(arguments) == (0 if arguments[0] == "compare" else 2)
    assert arguments[0] != "compare" or Path("new/results.csv").exists()
