"""Evaluating the circuits of a run folder again: what is refused, and what it leaves in the folder."""

from pathlib import Path
from typing import Any

import pytest

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.reevaluate import reevaluate
from circuitkit.storage.owned_folder import lock_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reevaluate") / "run"
    spec = {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}}
    Discoverer("cpu", callbacks=[]).run("toy", "ioi", spec, examples=4, sizes=(), out=folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rankings": None}, "The rankings None are not a list"),
        ({"splits": None}, "The splits None are not a list"),
        ({"splits": []}, "No split is given"),
        ({"memory_budget": "much"}, "The memory budget 'much' is not a size"),
        ({"memory_budget": "1kB"}, "may be used"),
    ],
)
def test_what_it_refuses(run: Path, arguments: dict[str, Any], said: str) -> None:
    before = files(run)
    with pytest.raises(CircuitKitError, match=said):
        reevaluate(run, **arguments)
    assert files(run) == before


def test_a_folder_that_another_process_writes_to(run: Path) -> None:
    before = files(run)
    with lock_folder(run), pytest.raises(UsageError, match="Another process is writing to the folder"):
        reevaluate(run, sizes=[0.5])
    assert files(run) == before  # and the lock is gone


def test_its_progress_covers_all_splits_and_circuits(run: Path) -> None:
    told: list[tuple[int, int]] = []
    reevaluate(run, sizes=[0.5], rankings=["signed"], report=lambda done, total: told.append((done, total)))
    assert told == [(done, 12) for done in range(1, 13)]  # two circuits and splits: a size, the own edges, the others


def test_memory_that_runs_out_is_explained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(*_: Any, **__: Any) -> None:
        raise MemoryError

    before = files(run)
    monkeypatch.setattr(Evaluator, "evaluate", exhaust)
    with pytest.raises(CircuitKitError, match="Memory ran out"):
        reevaluate(run)
    assert files(run) == before


def test_a_note_says_that_other_train_prompts_were_drawn(run: Path) -> None:
    """Only about the train split: another number of prompts draws test prompts too, but all of those are held out."""
    said = "These 6 train prompts were drawn anew"
    assert not any("drawn anew" in note for one in notes(run, examples=None).values() for note in one)
    fewer = notes(run, examples=[6, 4, 4])
    assert any(said in note for note in fewer["train"])
    assert not any(said in note for note in fewer["test"])
    assert not any("drawn anew" in note for note in notes(run, examples=[4, 4, 6])["train"])  # the same train prompts


def notes(run: Path, examples: list[int] | None) -> dict[str, list[str]]:
    evaluations = reevaluate(run, sizes=[], splits=["train", "test"], examples=examples)[1]
    return {split: [note for one in found for note in one.notes] for split, found in evaluations.items()}
