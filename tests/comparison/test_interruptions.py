"""Comparisons that are interrupted, killed, or cannot write: nothing is lost, and resuming completes them."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from grid_kills import attempt, table
from support.cells import FEW, make_grid, scripted

from circuitkit.cli.main import main
from circuitkit.comparison.comparison_folder import ComparisonFolder
from circuitkit.comparison.runner import compare
from circuitkit.errors import CircuitKitError
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.run.result import Result
from circuitkit.storage.owned_folder import BusyError
from circuitkit.storage.text import to_json

COUNTS = {"eap": "eap", "counts": scripted("count")}


def wait_for(what: Any, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def saved_states(out: Path) -> list[Path]:
    return list(out.glob("cells/*counts*/checkpoint/state.safetensors"))


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_stops_the_comparison_cleanly_and_it_goes_on_where_it_was(
    number: int, status: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    mark, out = tmp_path / "mark", Path("out")
    counts = scripted("count", mark)
    strategies = to_json({"eap": "eap", "counts": counts}).decode()
    arguments = ["compare", "--strategies", strategies, "--examples", "8", "--sizes", str(FEW), "--accelerator", "cpu"]

    def interrupt() -> None:
        wait_for(lambda: saved_states(out))
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main([*arguments, "--out", "out"]) == status
    thread.join()
    said = capsys.readouterr().err
    assert f"circuitkit: {word}. Continue with the same arguments and --out out --resume" in said
    assert not is_alive(int(mark.read_text()))
    assert set(table(out)["strategy"]) == {"eap"}  # what was finished is in the table
    assert not list(out.glob("cells/*.failure.json"))
    assert main([*arguments, "--out", "out", "--resume"]) == 0
    assert main([*arguments, "--out", "whole"]) == 0
    assert table(out).equals(table(Path("whole")))
    (folder,) = out.glob("cells/*counts*")
    assert Result.load(folder).metrics["begun"] > 0


def test_killed_at_any_moment_and_resumed(tmp_path: Path) -> None:
    """A quick form of `tools/grid_kills.py`."""
    mark = tmp_path / "mark"
    parts = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "examples": 8, "sizes": FEW}
    grid = parts | {"strategies": {"eap": "eap", "counts": scripted("count", mark)}}
    context = multiprocessing.get_context("forkserver")
    out = tmp_path / "out"
    for moment, group in ((0.3, False), (None, True), (None, False)):
        before = mark.read_text().split() if mark.exists() else []
        if moment is None:  # when the search of the next process has saved something
            killer = threading.Thread(target=kill_when_counting, args=(mark, len(before), out, group))
            killer.start()
        status, _ = attempt(context, out, grid, moment, group)
        assert status == -signal.SIGKILL
        pids = [int(line) for line in mark.read_text().split()] if mark.exists() else []
        wait_for(lambda pids=pids: not any(map(is_alive, pids)), 10.0)  # no cell outlives the comparison
    assert attempt(context, out, grid, None)[0] == 0
    (folder,) = out.glob("cells/*counts*")
    assert Result.load(folder).metrics["begun"] > 0
    compare(make_grid(strategies=COUNTS | {"counts": scripted("count", mark)}), tmp_path / "whole", accelerator="cpu")
    assert table(out).equals(table(tmp_path / "whole"))


def kill_when_counting(mark: Path, before: int, out: Path, group: bool) -> None:
    wait_for(lambda: mark.exists() and len(mark.read_text().split()) > before and saved_states(out))
    time.sleep(0.2)
    (process,) = multiprocessing.active_children()
    assert process.pid is not None
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)


def test_the_second_process_on_a_folder_is_refused(tmp_path: Path) -> None:
    grid = make_grid(strategies={"random": "random_edges"})
    with ComparisonFolder(tmp_path / "out").open(grid.to_dict(), {}, None):
        for how in ("resume", "overwrite"):
            with pytest.raises(BusyError, match="Another process is writing"):
                compare(grid, tmp_path / "out", accelerator="cpu", **{how: True})


def test_a_full_disk_ends_the_comparison_in_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, out = tmp_path / "mark", tmp_path / "out"
    grid = make_grid(strategies={"one": scripted(mark=mark), "two": scripted("count", mark), "three": "eap"})

    def fsync(descriptor: int) -> None:
        if mark.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)  # in this process, which writes the tables
        with pytest.raises(CircuitKitError, match=r"No space left on device.*free disk space.*--resume"):
            compare(grid, out, accelerator="cpu")
    assert mark.read_text().count("\n") == 1
    rows = compare(grid, out, accelerator="cpu", resume=True)
    assert mark.read_text().count("\n") == 2  # the first cell is read
    assert {row["strategy"] for row in rows if not row["error"]} == {"one", "two", "three", CONTROL}


def test_a_cell_that_cannot_be_written_is_a_row(tmp_path: Path) -> None:
    rows = compare(make_grid(strategies={"full": scripted("fill_disk"), "eap": "eap"}), tmp_path / "out")
    errors = {row["strategy"]: row["error"] for row in rows if row["error"]}
    assert list(errors) == ["full"]
    assert "No space left on device" in errors["full"]
