"""What a page reads from a folder: of a comparison or of a run, finished or not, and of neither."""

import os
import shutil
from pathlib import Path

import pytest

from circuitkit.comparison.grid import Grid
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.page.content import Content, choose_shown, to_records
from circuitkit.page.grid_labels import list_labels
from circuitkit.run.result import Result
from circuitkit.storage.text import parse_yaml, to_yaml

GRID = {
    "models": {"toy": "toy"},
    "tasks": {"ioi": "ioi"},
    "strategies": {"eap": "eap", "acdc": "acdc"},
    "seeds": [0, 1],
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"precision": {"full": "full", "int8": "pahq"}},
        {"exclude": [{"strategies": "eap", "seeds": [1]}]},
        {"include": [{"strategies": ["acdc"]}]},
        {"exclude": [{"seeds": [0], "strategies": ["eap", "acdc"]}]},
        {"strategies": {"eap": "eap", "chance": "random_edges"}},
    ],
    ids=str,
)
def test_the_labels_are_those_of_the_grid(changed: dict[str, object]) -> None:
    grid = Grid(**{**GRID, **changed})
    wanted = [cell.labels for cell in grid.cells]
    assert list_labels(parse_yaml(to_yaml(grid.to_dict()), "it"), wanted) == wanted


def test_a_config_that_names_unknown_code_is_read_without_importing_it() -> None:
    config = {**Grid(**GRID).to_dict(), "strategies": {"mine": {"class_path": "nowhere.at.all.Mine"}}}
    assert [one["strategy"] for one in list_labels(config, [])] == ["mine", "random control"] * 2


def test_a_comparison(compared: Path) -> None:
    content = Content.load(compared)
    assert content.kind == "comparison"
    assert [cell.state for cell in content.cells] == ["finished"] * 6
    assert {len(record) for record in to_records(content.frame)} == {len(content.frame.columns)}
    assert content.conclusions[0].startswith("ioi in toy")
    assert len(content.agreement) == 6  # of 4 cells, the controls left out
    assert set(content.results) == {cell.folder for cell in content.cells if cell.labels["seed"] == 0}
    cell = content.cell_of(next(iter(content.results)))
    assert cell.reproduce == f"circuitkit discover --config {compared}/{cell.folder}/config.yaml --out NEW"


def test_the_best_are_shown_first(compared: Path) -> None:
    content = Content.load(compared)
    found = {}
    for name in choose_shown(content.frame):
        points = Result.load(compared / name).evaluations["test"][0].curve("absolute")
        found[name] = sum(abs(1 - (point.faithfulness or 0.0)) for point in points)
    assert len(found) == 3
    assert list(found.values()) == sorted(found.values())


def test_a_grid_that_is_half_finished(copied: Path) -> None:
    frame = Content.load(copied).frame
    frame = frame[(frame["strategy"] != "acdc")]
    frame.to_parquet(copied / "results.parquet", index=False)
    content = Content.load(copied)
    assert [cell.state for cell in content.cells] == ["finished", "unfinished", "finished"] * 2
    assert content.cells[1].reproduce == f"circuitkit compare --out {copied} --resume"


def test_a_grid_without_a_row(copied: Path) -> None:
    for name in ("results.parquet", "agreement.csv", "conclusions.txt"):
        (copied / name).unlink()
    content = Content.load(copied)
    assert {cell.state for cell in content.cells} == {"unfinished"}
    assert content.frame.empty
    assert content.agreement.empty
    assert not content.results


def test_a_run(compared: Path) -> None:
    folder = compared / Content.load(compared).cells[1].folder
    content = Content.load(folder)
    assert (content.kind, content.title, list(content.results)) == ("run", "acdc on ioi in toy", ["."])
    assert set(content.frame["folder"]) == {"."}
    wanted = Content.load(compared).frame
    wanted = wanted[wanted["folder"] == content.folder.relative_to(compared).as_posix()]
    assert content.frame["faithfulness_test"].tolist() == wanted["faithfulness_test"].tolist()


def test_a_run_without_evaluation(compared: Path, tmp_path: Path) -> None:
    result = Result.load(compared / Content.load(compared).cells[1].folder)
    bare = Result(result.circuits, {}, result.metrics, result.config, result.environment)
    bare.save(tmp_path / "bare")
    content = Content.load(tmp_path / "bare")
    assert content.frame.empty
    assert "circuitkit evaluate" in content.notes[0]


def test_a_run_that_is_not_finished(compared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(compared / Content.load(compared).cells[1].folder, tmp_path / "run"))
    (folder / "result.json").unlink()
    content = Content.load(folder)
    assert [cell.state for cell in content.cells] == ["unfinished"]


@pytest.mark.parametrize("what", ["missing", "file", "empty", "other"])
def test_a_folder_that_is_neither(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if what == "file":
        folder.write_text("text")
    elif what != "missing":
        folder.mkdir()
    if what == "other":
        (folder / "notes.txt").write_text("text")
    with pytest.raises(UsageError) as caught:
        Content.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["results.parquet", "config.yaml", "environment.json", "agreement.csv"])
def test_a_damaged_file_is_named(copied: Path, name: str) -> None:
    (copied / name).write_bytes(os.urandom(100))
    with pytest.raises(CircuitKitError) as caught:
        Content.load(copied)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_cell_is_a_note(copied: Path) -> None:
    name = next(iter(Content.load(copied).results))
    (copied / name / "circuit.safetensors").write_bytes(b"damaged")
    content = Content.load(copied)
    assert name not in content.results
    assert len(content.results) == 2
    assert name in content.notes[0]
