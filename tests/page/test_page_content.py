"""What a page reads from a folder: of a comparison or of a run, finished or not, and of neither."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
from support.page_reader import read_page

from circuitkit.cli.main import main
from circuitkit.comparison.grid import Grid
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.page.content import Content, choose_shown, to_records
from circuitkit.page.grid_labels import list_labels
from circuitkit.page.page import write_report
from circuitkit.run.result import Result
from circuitkit.storage.text import parse_yaml, to_yaml

GRID = {
    "models": {"toy": "toy"},
    "tasks": {"ioi": "ioi"},
    "strategies": {"eap": "eap", "acdc": "acdc"},
    "seeds": [0, 1],
}
ASKED = "--splits '[train,test]'"


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
    assert content.notes[0].endswith(f"circuitkit discover --config {tmp_path}/bare/config.yaml --out NEW {ASKED}")


def test_the_advice_for_a_run_without_evaluation_leads_to_figures(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compared / Content.load(compared).cells[0].folder / "config.yaml"
    assert main(["discover", "--config", str(config), "--sizes", "[]", "--out", str(tmp_path / "bare")]) == 0
    (note,) = Content.load(tmp_path / "bare").notes
    assert note.endswith(f"--out NEW {ASKED} --sizes null")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(note.partition("circuitkit ")[2])) == 0
    content = Content.load(Path("NEW"))
    assert not content.notes
    assert len(content.frame)


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
    assert "DIR" not in str(caught.value)
    if name in ("results.parquet", "agreement.csv"):
        assert f"circuitkit compare --out {copied} --resume" in str(caught.value)


def test_a_damaged_cell_is_a_note(copied: Path) -> None:
    name = next(iter(Content.load(copied).results))
    (copied / name / "circuit.safetensors").write_bytes(b"damaged")
    content = Content.load(copied)
    assert name not in content.results
    assert len(content.results) == 2
    assert name in content.notes[0]


# What is read lies in the folder


def _rename_cell(folder: Path, name: str) -> str:
    """Give the first cell another folder in the rows; return the old one."""
    frame = Content.load(folder).frame
    old = str(frame["folder"].iloc[0])
    frame.loc[frame["folder"] == old, "folder"] = name
    frame.to_parquet(folder / "results.parquet", index=False)
    return old


@pytest.mark.parametrize("way", ["absolute", "up", "link", "link above", "link in it", "null", "long", "gone", "empty"])
def test_a_cell_is_read_from_its_own_folder_alone(
    way: str, compared: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Path(shutil.copytree(compared / Content.load(compared).cells[0].folder, tmp_path / "elsewhere" / "cell"))
    names = {
        "absolute": str(cell),
        "up": "../elsewhere/cell",
        "link": "cells/link",
        "link above": "linked/cell",
        "null": "cells/a\0b",
        "long": "cells/" + "x" * 5000,
        "gone": "cells/gone",
    }
    if way == "empty":
        (copied / Content.load(copied).cells[0].folder / "result.json").unlink()
    elif way == "link in it":
        file = copied / Content.load(copied).cells[0].folder / "circuit.json"
        file.unlink()
        file.symlink_to(cell / "circuit.json")
    else:
        _rename_cell(copied, names[way])
    (copied / "cells" / "link").symlink_to(cell)
    (copied / "linked").symlink_to(cell.parent)
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: opened.append(str(file.resolve())) or read(file))
    content = Content.load(copied)
    assert not [file for file in opened if str(cell) in file]
    assert opened
    found = content.cells[0]
    assert found.folder not in content.results
    if way == "link in it":
        assert (found.state, "is a link out of its folder" in content.notes[0]) == ("finished", True)
        return
    reasons = {"gone": "its folder is gone", "long": "its folder is gone", "empty": "its folder has no result.json"}
    reason = reasons.get(way, "its folder lies outside of the comparison's")
    assert (found.state, found.error, found.reproduce) == ("lost", reason, "")
    assert f"{reason} ({found.folder})." in content.notes[0]


def test_cells_may_link_to_each_other_and_the_folder_may_be_a_link(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copied)
    assert [cell.state for cell in Content.load(tmp_path / "link").cells] == ["finished"] * 6
    old = _rename_cell(copied, "cells/new")
    (copied / "cells" / "new").symlink_to(copied / old)
    content = Content.load(copied)
    assert content.cells[0].state == "finished"
    assert "cells/new" in content.results


@pytest.mark.parametrize("name", ["conclusions.txt", "config.yaml", "environment.json", "agreement.csv"])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(copied: Path, tmp_path: Path, name: str) -> None:
    (copied / name).rename(tmp_path / "secret")
    (copied / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=f"{name} is a link to a file outside"):
        Content.load(copied)


def test_the_page_of_lost_cells_has_their_figures_and_says_so(copied: Path) -> None:
    shutil.rmtree(copied / "cells")
    write_report(copied)
    text = read_page(copied).text
    assert "The result of 6 cells was not read, and the figures are those of results.parquet" in text
    assert "0 of 6 cells finished, 6 lost" in text
    assert text.count("lost: its folder is gone") == 6
    assert "circuitkit discover" not in text
    assert "have no result" not in text
    assert "Edges that hold" in (copied / "report.md").read_text()


def test_a_result_cannot_name_a_circuit_outside_of_its_folder(copied: Path) -> None:
    name = next(iter(Content.load(copied).results))
    (copied / "cells" / "circuit.json").write_text("{}")
    file = copied / name / "result.json"
    file.write_text(file.read_text().replace('"circuit"', '"../circuit"'))
    assert "its circuit '../circuit' lies in another folder" in Content.load(copied).notes[0]
