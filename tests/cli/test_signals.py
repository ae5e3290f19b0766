"""A signal ends a command with one line that says how to go on, and with the signal's exit status."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from circuitkit.cli.main import main
from circuitkit.errors import CircuitKitError
from circuitkit.run.result import Result
from circuitkit.strategies.discovery import Discovery

TRAINED = {
    "edge_pruning": ["--strategy.trainer", "{max_steps: 30}"],
    "annealed_pruning": ["--strategy.trainer", "{max_steps: 30}"],
    "matryoshka": ["--strategy.trainer", "{max_steps: 30}"],
    "subnetwork_probing": ["--strategy.trainer", "{max_steps: 30}"],
    "acdc": ["--strategy.threshold", "0.05"],
}


def arguments(strategy: str) -> list[str]:
    return [
        *("discover", "--model", "toy", "--task", "ioi", "--examples", "4", "--accelerator", "cpu", "--sizes", "[]"),
        *("--strategy", strategy, *TRAINED[strategy]),
    ]


def signal_at_report(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
    """Send this process a signal at the n-th report of progress."""
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    report, seen = Discovery.report, []

    def reporting(self: Discovery, *args: object, **figures: object) -> None:
        report(self, *args, **figures)
        seen.append(None)
        if len(seen) == at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Discovery, "report", reporting)


@pytest.mark.parametrize("strategy", list(TRAINED))
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_during_a_search(
    strategy: str,
    number: int,
    status: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_at_report(patch, number, at=7)
        assert main([*arguments(strategy), "--out", "run"]) == status
    said = capsys.readouterr().err
    assert f"circuitkit: {word}. Continue with" in said
    assert "--out run --resume" in said
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main([*arguments(strategy), "--out", "run", "--resume"]) == 0
    assert main([*arguments(strategy), "--out", "whole"]) == 0
    resumed, whole = Result.load("run"), Result.load("whole")
    assert len(resumed.circuits) == len(whole.circuits)
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.kept, other.kept)


def test_from_python_the_default_handler_ends_the_process() -> None:
    code = """
import os, signal
from circuitkit import Discoverer
class Terminate:
    def on_progress(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
Discoverer("cpu", callbacks=[Terminate()]).run(
    "toy", "ioi", {"class_path": "edge_pruning", "init_args": {"trainer": {"max_steps": 20}}}, examples=4
)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -signal.SIGTERM


def test_commands_started_together_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from circuitkit.storage.new_folder import output_folder

    monkeypatch.chdir(tmp_path)
    barrier, found = threading.Barrier(8), []

    def create() -> None:
        barrier.wait()
        with output_folder(None, "run") as folder:
            (folder / "file").touch(exist_ok=False)
            found.append(folder)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("runs").touch()
    with pytest.raises(CircuitKitError, match="'runs' cannot be written"), output_folder(None, "run"):
        pass
