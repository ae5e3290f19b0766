"""A run touches only its own files, one run at a time, and a process killed at any moment loses nothing."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scripted import Case, Scripted

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.run.result import Result, UnsavedResultError
from circuitkit.run.run_folder import RunFolder
from circuitkit.storage import owned_folder


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def contents(folder: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def never(run: Any) -> None:
    raise AssertionError("the search has begun")


# Other people's files

FOREIGN = [
    {"checkpoint/state.safetensors": "mine"},
    {"metrics.csv": "mine"},
    {"result.json": "mine"},
    {"circuit_mine.json": "mine"},
    {"notes.txt": "mine"},
    {"sub/notes.txt": "mine"},
    {".hidden": "mine"},
]


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("files", FOREIGN, ids=lambda files: "".join(files))
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}, {"overwrite": True, "resume": True}])
def test_a_folder_with_other_files_is_refused_and_left_as_it_was(
    case: Case, tmp_path: Path, files: dict[str, str], options: dict[str, bool]
) -> None:
    put(tmp_path, files)
    before = contents(tmp_path)
    with pytest.raises(CircuitKitError):
        case.run(Scripted(never), out=tmp_path, **options)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("files", FOREIGN, ids=lambda files: "".join(files))
@pytest.mark.parametrize("overwrite", [False, True])
def test_saving_a_result_refuses_it_too(case: Case, tmp_path: Path, files: dict[str, str], overwrite: bool) -> None:
    result = case.run(sizes=())
    put(tmp_path, files)
    before = contents(tmp_path)
    with pytest.raises(UsageError):
        result.save(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_circuit_saved_beside_the_results_is_not_overwritten(case: Case, tmp_path: Path) -> None:
    result = case.run(out=tmp_path / "run")
    result.circuit.save(tmp_path / "run", "circuit_2")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"holds 'circuit_2\.json'"):
        case.run(Scripted(never), out=tmp_path / "run", overwrite=True)
    assert contents(tmp_path) == before


def test_a_file_among_saved_states_is_not_deleted(case: Case, tmp_path: Path) -> None:
    case.run(out=tmp_path / "run")
    (tmp_path / "run" / "checkpoint").mkdir()
    (tmp_path / "run" / "checkpoint" / "mine.safetensors").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"holds 'checkpoint/mine\.safetensors'"):
        case.run(Scripted(never), out=tmp_path / "run", overwrite=True)
    assert contents(tmp_path) == before


def test_a_file_that_appears_during_a_run_is_left(case: Case, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def write_beside(run: Any) -> None:
        (out / "circuit.json").write_text("mine")

    with pytest.raises(UnsavedResultError, match=r"circuit\.json' was written by someone else") as raised:
        case.run(Scripted(write_beside), out=out)
    assert (out / "circuit.json").read_text() == "mine"
    shutil.rmtree(str(raised.value).rpartition("saved in ")[2].rstrip("."))


# Folders that cannot be written are found before the search


def unwritable(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "further")
    return {
        "a name of 300 characters": tmp_path / ("x" * 300),
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "run",
        "a dangling link": tmp_path / "dangling",
        "a null character": tmp_path / "a\0b",
        "an unwritable parent": Path("/proc/self/run"),
    }


@pytest.mark.parametrize("which", list(unwritable(Path(tempfile.mkdtemp()))))
@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_an_unwritable_folder_is_refused_before_the_search(
    case: Case, tmp_path: Path, which: str, options: dict[str, bool]
) -> None:
    out = unwritable(tmp_path)[which]
    before = contents(tmp_path)
    with pytest.raises(CircuitKitError):
        case.run(Scripted(never), out=out, **options)
    with pytest.raises(CircuitKitError):
        case.run(sizes=()).save(out)
    assert contents(tmp_path) == before


def test_the_current_folder(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = case.run(out=".")
    assert Result.load(".").circuits == result.circuits
    case.run(out=".", overwrite=True).save(".", overwrite=True)


def test_nothing_is_written_outside_the_folder(case: Case, tmp_path: Path) -> None:
    """A folder that is a mount point has another device than its parent."""
    out = tmp_path / "run"
    out.mkdir()
    seen = set()
    case.run(Scripted(lambda run: seen.update(path.name for path in tmp_path.iterdir())), out=out)
    assert seen == {"run"}
    renames: list[tuple[str, str]] = []
    rename = Path.rename

    def recording(self: Path, target: Path) -> Path:
        renames.append((str(self), str(target)))
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", recording)
        case.run(out=out, overwrite=True)
    assert renames
    assert all(name.startswith(f"{out}{os.sep}") for pair in renames for name in pair)


def full(self: Any, write: Any, **plan: Any) -> None:
    raise CircuitKitError(f"{str(self.path)!r} cannot be written: No space left on device.", "Free disk space.")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("broken", ["full", "removed"])
def test_a_result_that_cannot_be_written_is_saved_elsewhere(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool, broken: str
) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    if earlier:
        case.run(out=out)
    before = contents(out) if earlier else {}

    def remove(run: Any) -> None:
        shutil.rmtree(out)
        out.write_text("a file in the way")

    commit = owned_folder.OwnedFolder._commit
    if broken == "full":
        monkeypatch.setattr(
            owned_folder.OwnedFolder,
            "_commit",
            lambda self, *args, **plan: (full if self.path == out else commit)(self, *args, **plan),
        )
    with pytest.raises(UnsavedResultError, match="The result is saved in") as raised:
        case.run(Scripted(remove if broken == "removed" else None), out=out, overwrite=earlier, sizes=())
    where = Path(str(raised.value).rpartition("saved in ")[2].rstrip("."))
    assert where.parent == elsewhere
    assert Result.load(where).circuits == raised.value.result.circuits
    if broken == "full":
        assert {name: contents(out).get(name) for name in before} == before


def test_where_nothing_can_be_saved_nothing_is_left(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.chdir(here)
    monkeypatch.setattr(owned_folder.OwnedFolder, "_commit", full)
    with pytest.raises(UnsavedResultError, match="could not be saved elsewhere either"):
        case.run(Scripted(), out=tmp_path / "run", sizes=())
    assert not [*elsewhere.iterdir(), *here.iterdir()]


# One run at a time


def test_the_second_run_of_a_folder_is_refused(case: Case, tmp_path: Path) -> None:
    out, refusals = tmp_path / "run", []

    def start_another(run: Any) -> None:
        code = f"from circuitkit import discover; discover('toy', 'ioi', 'eap', examples=2, out={str(out)!r})"
        refusals.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True))
        with pytest.raises(UsageError, match="Another process is writing"), RunFolder(out).open():
            pass

    result = case.run(Scripted(start_another), out=out)
    assert refusals[0].returncode == 1
    assert "BusyError: Another process is writing to the folder" in refusals[0].stderr
    assert Result.load(out).circuits == result.circuits


def test_a_run_that_waited_for_another_one_does_not_replace_its_results(case: Case, tmp_path: Path) -> None:
    waiting = RunFolder(tmp_path / "run")
    case.run(out=tmp_path / "run")
    with pytest.raises(UsageError, match="already holds results"), waiting.open():
        pass


# Killed while results are written


def kill_at(monkeypatch: pytest.MonkeyPatch, operation: int) -> list[str]:
    """Stop the process at the n-th change of the file system that `OwnedFolder` makes after the files are written."""
    done: list[str] = []

    def count(name: str, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if len(done) == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(name)
            return function(*arguments, **options)

        return counted

    for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, count(name, getattr(owner, name)))
    return done


def overwrite_and_die(out: Path, operation: int) -> int:
    """Replace the results in a folder, in a process that is killed at its n-th change of the file system."""
    result = Result.load(out)
    result.notes.append("new")
    del result.circuits[1:]
    result.evaluations.clear()
    child = os.fork()
    if child == 0:
        try:
            with RunFolder(out, overwrite=True).open() as folder, pytest.MonkeyPatch.context() as patch:
                kill_at(patch, operation)
                folder.fill(result.write)
            os._exit(0)
        except BaseException:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(
    not hasattr(os, "fork"),
    reason="forks a process per change of the file system, to kill it there; this system has no os.fork",
)
def test_killed_at_any_moment_of_replacing_results(case: Case, tmp_path: Path) -> None:
    original = tmp_path / "original"
    old = case.run({"class_path": "acdc", "init_args": {"threshold": [0.01, 0.1]}}, out=original)
    (original / "checkpoint").mkdir()
    (original / "checkpoint" / "config.yaml").write_text("{}")
    outcomes = []
    for operation in range(200):
        out = tmp_path / "run"
        shutil.copytree(original, out)
        status = overwrite_and_die(out, operation)
        found = Result.load(out)
        outcomes.append("new" in found.notes)
        assert found.circuits == (old.circuits[:1] if outcomes[-1] else old.circuits)
        names = {path.name for path in out.iterdir()} - {".circuitkit.lock"}
        if outcomes[-1]:
            assert names == {
                *(".circuitkit.json", "circuit.json", "circuit.safetensors"),
                *("config.yaml", "metrics.csv", "result.json"),
            }
        found.save(out, overwrite=True)  # the folder is usable, and what the dead process left is gone
        assert not any(name.startswith(".") and name != ".circuitkit.json" for name in os.listdir(out))  # noqa: PTH208
        shutil.rmtree(out)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    else:
        raise AssertionError("no process came to its end")
    assert outcomes == sorted(outcomes)  # old, then new
    assert len(outcomes) > 15
    assert outcomes[0] is False


# A finished search is saved before it is evaluated


def crash(self: Any, *arguments: Any, **options: Any) -> Any:
    raise ValueError("the evaluation broke")


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt])
def test_a_search_survives_its_evaluation(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exception: type[BaseException]
) -> None:
    def crash(*arguments: Any, **more: Any) -> None:
        raise exception

    whole = case.run()
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", crash)
        with pytest.raises(exception):
            case.run(out=tmp_path / "run")
    searched = []
    resumed = case.run(Scripted(searched.append), out=tmp_path / "run", resume=True)
    assert not searched
    assert resumed.circuits == whole.circuits
    assert resumed.evaluations == whole.evaluations
    assert resumed.history
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert Result.load(tmp_path / "run").evaluations == whole.evaluations


# --overwrite with --resume


def test_overwrite_and_resume(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, searched = tmp_path / "run", []
    case.run("eap", out=out)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", crash)
        with pytest.raises(ValueError, match="the evaluation broke"):
            case.run(Scripted(), out=out, overwrite=True)
    assert Result.load(out).config["strategy"]["class_path"].endswith("EAP")  # stays until it is replaced
    options = {"out": out, "overwrite": True, "resume": True}
    case.run(Scripted(searched.append), **options)
    assert not searched  # continued, not compared with the old run
    assert Result.load(out).config["strategy"]["class_path"].endswith("Scripted")
    case.run(Scripted(searched.append), **options)
    assert searched  # nothing is interrupted: started afresh


# Threads


def test_runs_in_threads_take_turns(case: Case) -> None:
    wanted = [case.run("random_edges"), case.run("eap", precision="pahq")]
    before = torch.get_rng_state()
    found: dict[int, Result] = {}
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        barrier.wait()
        strategy, options = [("random_edges", {}), ("eap", {"precision": "pahq"})][number]
        found[number] = case.run(strategy, **options)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[number].circuits for number in range(2)] == [one.circuits for one in wanted]
        assert [found[number].evaluations for number in range(2)] == [one.evaluations for one in wanted]
        found.clear()
    assert torch.equal(torch.get_rng_state(), before)
