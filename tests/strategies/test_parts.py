"""Searches within a search: finished ones are read, the interrupted one goes on, what does not fit is refused."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.parts import Steps, outer, start
from support.scripted import Case, Scripted

from circuitkit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import CircuitKitError
from circuitkit.storage.state import load_state, save_state
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import read_circuit, run_strategy, save_circuit, search_part


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def run(case: Case, strategy: Scripted, folder: Path | None = None, **more: Any) -> dict[str, Any]:
    options = {"sizes": (), "out": folder, "resume": folder is not None, **more}
    return case.run(strategy, **options).metrics


pytestmark = pytest.mark.filterwarnings("ignore:. noted")
STEPS_OF_B = ["setup b", "b 0", "b 1", "b 2", "teardown b"]
STEPS = ["setup {0}", "{0} 0", "{0} 1", "{0} 2", "teardown {0}"]


def test_each_part_is_a_search_of_its_own(case: Case) -> None:
    log: list[str] = []
    found = run(case, outer(["a", "b"], log))
    assert log == [one.format(name) for name in "ab" for one in STEPS]
    assert found["metrics"] == [{"steps": 3, "steps_of_a": 3}, {"steps": 3, "steps_of_b": 3}]
    assert found["of_parts"] == [["a noted."], ["b noted."]]
    assert "steps" not in found
    assert found["found"][0] == found["found"][1]  # each begins with the run's seed


@pytest.mark.parametrize(
    ("names", "stop_in", "left"),
    [
        (["a", "b"], ("a", 0), ["setup a", "a 0", "a 1", "a 2", "teardown a", *STEPS_OF_B]),
        (["a", "b"], ("a", 2), ["setup a", "a 2", "teardown a", *STEPS_OF_B]),
        (["a", "b"], ("b", 0), STEPS_OF_B),
        (["a", "b"], ("b", 1), ["setup b", "b 1", "b 2", "teardown b"]),
        (
            ["a/c", "b"],
            ("c", 1),
            ["within a/c", "setup c", "c 1", "c 2", "teardown c", *STEPS_OF_B],
        ),
        (["a/c", "b/d"], ("d", 2), ["within b/d", "setup d", "d 2", "teardown d"]),
    ],
)
def test_finished_parts_are_read_and_the_interrupted_one_goes_on(
    case: Case, names: list[str], stop_in: tuple[str, int], left: list[str], tmp_path: Path
) -> None:
    whole = run(case, outer(names, []))
    stopped: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(case, outer(names, stopped, stop_in), tmp_path / "run")
    assert stopped[-1] == f"teardown {stop_in[0]}"  # whatever happens
    log: list[str] = []
    if stop_in == ("a", 0):  # nothing was saved
        assert not (tmp_path / "run" / "checkpoint").exists()
    resumed = run(case, outer(names, log), tmp_path / "run")
    assert log == left
    for name in ("found", "metrics", "of_parts"):
        assert resumed[name] == whole[name]


def test_what_is_saved_of_a_part_inside_another_is_in_its_folder(case: Case, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(case, outer(["a/c", "b/d"], [], ("d", 2)), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    saved = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*.safetensors")}
    assert saved == {
        "a/finished.safetensors",
        "a/c/finished.safetensors",
        "a/c/state.safetensors",
        "b/d/state.safetensors",
    }
    run(case, outer(["a/c", "b/d"], []), tmp_path / "run")
    assert not checkpoint.exists()


@pytest.fixture(scope="module")
def halted(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was interrupted in its second part."""
    folder = tmp_path_factory.mktemp("halted") / "run"
    with pytest.raises(KeyboardInterrupt):
        run(case, outer(["a", "b"], [], ("b", 1)), folder)
    return folder


@pytest.fixture
def folder(halted: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(halted, tmp_path / "run")


@pytest.mark.parametrize("key", [8, "7", [7], None, {"seven": 7}, 7.5])
def test_a_part_of_another_key_is_refused(case: Case, folder: Path, key: Any) -> None:
    file = folder / "checkpoint" / "a" / "finished.safetensors"
    before = file.read_bytes()
    with pytest.raises(CircuitKitError, match=r"'key' of the finished search is 7, not .*Start from scratch"):
        run(case, outer(["a", "b"], [], key=key), folder)
    assert file.read_bytes() == before


@pytest.mark.parametrize("key", [None, "x", [1, [2, 3]], {"rows": [0, 5], "seed": 2**63 + 1, "x": 0.1 + 0.2, "y": []}])
def test_plain_data_is_recognized_after_it_was_saved(case: Case, tmp_path: Path, key: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(case, outer(["a", "b"], [], ("b", 0), key), tmp_path / "run")
    log: list[str] = []
    run(case, outer(["a", "b"], log, key=key), tmp_path / "run")
    assert log == STEPS_OF_B


def _spoil(state: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Change one entry of a nested state; `value` None removes it."""
    first, _, rest = path.partition("/")
    if rest:
        _spoil(state[int(first)] if isinstance(state, list) else state[first], rest, value)
    elif value is None:
        del state[first]
    else:
        state[first] = value
    return state


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("strategy/circuits", {}, "'circuits' of the finished search is .*, not a list"),
        ("strategy/circuits", None, "the finished search has no entry 'circuits'"),
        ("strategy/more", 1, "the finished search has an unknown entry 'more'"),
        ("strategy/circuits/0/kept", None, "a circuit has no entry 'kept'"),
        ("strategy/circuits/0/scores", torch.zeros(3, dtype=torch.float64), "does not fit.*scores"),
        ("strategy/circuits/0/scores", "high", "does not fit.*scores"),
        ("strategy/circuits/0/score_sources", torch.full((1,), 9, dtype=torch.int8), "does not fit.*score_sources"),
        ("metrics", [], "'metrics' of the state is .*not a mapping"),
        ("notes", [1], "'notes' of the state is .*not a list of texts"),
    ],
)
def test_a_finished_part_of_another_form_is_refused(case: Case, folder: Path, path: str, value: Any, said: str) -> None:
    file = folder / "checkpoint" / "a" / "finished.safetensors"
    save_state(file, _spoil(load_state(file), path, value))
    with pytest.raises(CircuitKitError, match=f"(?s){said}"):
        run(case, outer(["a", "b"], []), folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped"])
@pytest.mark.parametrize("which", ["a/finished", "b/state"])
def test_a_damaged_file_is_refused(case: Case, folder: Path, which: str, damage: str) -> None:
    file = folder / "checkpoint" / f"{which}.safetensors"
    data = file.read_bytes()
    file.write_bytes(
        {"cut": data[: len(data) // 2], "empty": b"", "text": b"{}", "flipped": bytes(b ^ 0xFF for b in data[:64])}[
            damage
        ]
    )
    with pytest.raises(CircuitKitError, match=rf"{which}.safetensors cannot be read.*Start from scratch"):
        run(case, outer(["a", "b"], []), folder)


def test_a_part_keeps_its_memory_budget_unless_the_user_gives_another(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free changes from one start to the next, and with it how prompts are split: so it is saved."""
    budgets: list[int | None] = []

    def act(run: Discovery) -> None:
        for name in "ab":
            one = replace(run, memory_budget=run.memory_budget)
            part = search_part(one, name, 1, lambda part: run_strategy(Steps(part_name(part), []), part))[1]
            budgets.append(part.memory_budget)

    def part_name(part: Discovery) -> str:
        assert part.checkpoint_file is not None
        return part.checkpoint_file.parent.name

    monkeypatch.setattr("circuitkit.engine.memory.budget", lambda device: 2**28)
    with pytest.raises(KeyboardInterrupt):
        run(case, outer(["a", "b"], [], ("b", 1), key=1), tmp_path / "run")
    monkeypatch.setattr("circuitkit.engine.memory.budget", lambda device: 2**29)
    result = case.run(Scripted(act), sizes=(), out=tmp_path / "run", resume=True)
    assert budgets == [2**28, 2**28]
    assert not any("memory budget" in note for note in result.notes)


def test_a_circuit_is_saved_and_read_without_a_change(case: Case) -> None:
    graph = case.model.graph
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(len(graph), generator=random, dtype=torch.float64)
    ranking = Circuit.from_scores(graph, scores, ScoreSource.ESTIMATED)
    for circuit in (ranking, ranking.top(7), ranking.top(9).prune(), replace(ranking.top(3), tie=True)):
        assert read_circuit(graph, save_circuit(circuit)) == circuit


# A killed process


def test_a_killed_run_goes_on_in_the_part_in_which_it_was_killed(case: Case, tmp_path: Path) -> None:
    whole = run(case, outer(["a/c", "b"], []))
    folder = tmp_path / "run"
    first = start(folder, ["a/c", "b"], "c 2")
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = start(folder, ["a/c", "b"], "b 1")
    assert second.returncode == -signal.SIGKILL, second.stderr
    assert second.stdout.split("\n")[:3] == ["within a/c", "setup c", "c 2"]
    log: list[str] = []
    resumed = run(case, outer(["a/c", "b"], log), folder)
    assert log == ["setup b", "b 1", "b 2", "teardown b"]
    for name in ("found", "metrics", "of_parts"):
        assert resumed[name] == whole[name]
