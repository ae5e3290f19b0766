"""A comparison as an object: rows, results, tables, and what it was made of."""

import csv
import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import yaml
from support.cells import make_grid, scripted
from support.page_reader import PageReader

import circuitkit
from circuitkit.cli.main import main
from circuitkit.comparison.comparison import Comparison
from circuitkit.comparison.executors import ProcessExecutor
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.grid_arguments import to_grid
from circuitkit.comparison.rows import COLUMNS
from circuitkit.comparison.runner import compare
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.run.result import Result

HOSTILE = {
    "<script>alert(1)</script>": "eap",
    "[red]loud[/red] :smile:": {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}},
    '=HYPERLINK("http://x")': "random_edges",
    "+1": scripted("refuse"),
    "-1-1": scripted("raise"),
}
GRID = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"eap": "eap"}}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("comparison") / "out"
    return compare(make_grid(strategies=HOSTILE), out, accelerator="cpu")


def test_a_comparison_is_read_as_it_was_returned(hostile: Comparison) -> None:
    read = Comparison.load(hostile.folder)
    assert read.rows == hostile.rows
    assert [*map(type, read.rows[0].values())] == [*map(type, hostile.rows[0].values())]
    assert (read.conclusions, read.errors) == (hostile.conclusions, hostile.errors)
    assert (str(read), repr(read)) == (str(hostile), repr(hostile))
    assert len(read.conclusions) > 1
    assert list(read) == read.rows
    assert len(read) == len(read.rows)
    cells = len({row["folder"] for row in read})
    assert cells == len(HOSTILE)
    assert repr(read) == f"Comparison(5 cells, {len(read)} rows, 2 failed, in {str(read.folder)!r})"


def test_the_table_of_a_comparison_has_its_columns_and_types(hostile: Comparison) -> None:
    frame = hostile.to_pandas()
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == dict(COLUMNS)
    pandas.testing.assert_frame_equal(frame, pandas.read_parquet(hostile.folder / "results.parquet").astype(COLUMNS))
    assert frame["strategy"].tolist() == [row["strategy"] for row in hostile]
    assert frame["faithfulness_test"].isna().sum() == 2
    assert frame["seed"].eq(0).all()


def test_results_are_read_by_the_folder_of_a_row(hostile: Comparison) -> None:
    acdc = hostile.to_pandas().query("strategy.str.startswith('[red]') and ranking == 'own'")
    assert len(acdc) == 2
    result = hostile.results[acdc["folder"].iloc[0]]
    assert [len(circuit) for circuit in result.circuits] == acdc["edges_asked"].tolist()
    assert set(hostile.results) | set(hostile.errors) == {row["folder"] for row in hostile}
    assert len(hostile.results) == 3
    assert all(isinstance(found, Result) for found in hostile.results.values())
    assert hostile.results.get("nothing") is None
    for folder in ("nothing", next(iter(hostile.errors))):
        with pytest.raises(UsageError, match=rf"no result '{re.escape(folder)}'\. Give a row's `folder`"):
            hostile.results[folder]
    assert hostile.errors[next(iter(hostile.errors))] == "There is no luck. Try again."


def test_cells_that_are_identical_have_one_result(tmp_path: Path) -> None:
    comparison = compare(make_grid(strategies={"a": "eap", "b": "eap"}), tmp_path / "out", accelerator="cpu")
    assert repr(comparison).startswith("Comparison(3 cells")
    assert len(comparison.results) == 2


def test_a_comparison_prints_what_the_command_prints(hostile: Comparison, capsys: pytest.CaptureFixture[str]) -> None:
    printed = str(hostile)
    assert main(["compare", "--resume", "--out", str(hostile.folder)]) == 1  # tries the failed cells again
    assert capsys.readouterr().out.startswith(printed)
    for label in ("<script>alert(1)</script>", "[red]loud[/red] :smile:, threshold 0.1, signed"):
        assert f" {label} " in printed
    assert "Failed: +1 (full), seed 0: There is no luck. Try again." in printed
    words = " ".join(printed.split())
    assert all(" ".join(line.split()) in words for line in hostile.conclusions)


def test_texts_are_no_formulas_for_a_spreadsheet_and_numbers_stay_numbers(hostile: Comparison) -> None:
    with (hostile.folder / "results.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    for row, cells in zip(hostile, written, strict=True):
        for name, kind in COLUMNS.items():
            if kind != "string":
                assert cells[name] == ("" if row[name] is None else str(row[name]))
            else:
                assert not re.match(r"\s*[=+\-@](?!1$)", cells[name])  # the label +1 is a number
                assert cells[name].removeprefix("'") == row[name]
    assert {cells["strategy"][0] for cells in written} == {"<", "[", "'", "+"}
    assert any(float(cells["cpr"] or cells["value"] or 0) < 0 for cells in written)


def test_a_notebook_shows_the_curves_and_the_tables(hostile: Comparison, tmp_path: Path) -> None:
    page = PageReader(hostile._repr_html_())
    assert page.tags == ["div", "img", "pre"]
    assert page.text == str(hostile)
    assert str(page.find("img")["src"]).startswith("data:image/png;base64,")
    assert page.find("img")["alt"]
    failed = Comparison(tmp_path, [row for row in hostile if row["error"]])
    for empty in (failed, Comparison(tmp_path, [])):
        page = PageReader(empty._repr_html_())
        assert (page.tags, page.text) == (["div", "pre"], str(empty))


def test_in_a_notebook_its_text_displays_nothing(hostile: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = str(hostile)
    displayed: list[object] = []
    ipython = SimpleNamespace(display=lambda *things, **_: displayed.extend(things))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=ipython))
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    assert str(hostile) == expected
    assert displayed == []


def test_a_terminal_shows_the_tables(
    hostile: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile.show()
    folder = str(hostile.folder)
    said = f"Saved in {folder}; `circuitkit report {folder}` makes a page of it."
    assert capsys.readouterr().out == f"{hostile}\n{said}\n"
    displayed: list[object] = []
    shell = SimpleNamespace(kernel=1, display=SimpleNamespace(display=displayed.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=shell.display))
    hostile.show()
    assert displayed == [hostile]
    assert capsys.readouterr().out == ""


def test_agreement_has_no_formulas_either(tmp_path: Path) -> None:
    grid = make_grid(strategies={"@a": "eap", "=b": "hisp"})
    compare(grid, tmp_path / "out", accelerator="cpu")
    with (tmp_path / "out" / "agreement.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["strategy_a"], row["strategy_b"]) == ("'@a", "'=b")
    assert math.isfinite(float(row["rank_correlation"]))


def test_a_comparison_in_the_making_is_read_as_far_as_it_is(hostile: Comparison, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(hostile.folder, out)
    (out / "conclusions.txt").unlink()
    (out / "notes.md").write_text("mine")
    assert Comparison.load(out).rows == hostile.rows
    assert Comparison.load(out).conclusions == []
    (out / "results.parquet").unlink()
    empty = Comparison.load(out)
    assert (len(empty), bool(empty), dict(empty.results), len(empty.to_pandas())) == (0, True, {}, 0)
    assert list(empty.to_pandas().columns) == list(COLUMNS)
    assert repr(empty).startswith("Comparison(0 cells, 0 rows, in ")
    assert str(empty) == "No cell has ended yet."


def test_conclusions_are_about_the_cells_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a comparison goes on with more cells, and after it was interrupted, there are none of earlier cells."""
    out = tmp_path / "out"
    first = compare(make_grid(strategies={"eap": "eap", "hisp": "hisp"}), out, accelerator="cpu")
    again = compare(make_grid(strategies={"eap": "eap", "hisp": "hisp"}), out, accelerator="cpu", resume=True)
    assert again.conclusions == first.conclusions != []
    monkeypatch.setattr(ProcessExecutor, "start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        compare(make_grid(strategies={"eap": "eap", "gim": "gim"}), out, accelerator="cpu", resume=True)
    read = Comparison.load(out)
    assert {row["strategy"] for row in read} == {"eap", CONTROL}
    assert read.conclusions == []
    assert not (out / "agreement.csv").exists()


def break_version(out: Path) -> None:
    (out / "environment.json").write_text('{"version": 1}')


def break_parquet(out: Path) -> None:
    (out / "results.parquet").write_bytes(b"PAR1 and no more")


def drop_a_column(out: Path) -> None:
    frame = pandas.read_parquet(out / "results.parquet").drop(columns="cpr")
    frame.to_parquet(out / "results.parquet", index=False)


def change_a_type(out: Path) -> None:
    frame = pandas.read_parquet(out / "results.parquet").assign(seed="many")
    frame.to_parquet(out / "results.parquet", index=False)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, r"is not a comparison: it does not exist. Give a folder that `circuitkit compare --out` wrote"),
        (lambda out: (out / "environment.json").unlink(), "is not a comparison: it has no environment.json"),
        (break_version, "a comparison in files of version 1, not 2"),
        (break_parquet, r"results.parquet is damaged.*--resume"),
        (drop_a_column, r"results.parquet is damaged.*--resume"),
        (change_a_type, r"results.parquet is damaged.*--resume"),
    ],
)
def test_a_folder_that_is_no_comparison(damage: Any, said: str, hostile: Comparison, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(hostile.folder, out)
    damage(out)
    with pytest.raises(CircuitKitError, match=said):
        Comparison.load(out)


def test_a_run_is_no_comparison(hostile: Comparison, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds a run, not a comparison. Read it with `Result.load`"):
        Comparison.load(hostile.folder / next(iter(hostile.results)))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a comparison"):
        Comparison.load(tmp_path / "file")


def test_a_grid_may_be_a_file_or_a_mapping(tmp_path: Path) -> None:
    given: dict[str, Any] = {**GRID, "seeds": (1, 2), "sizes": [0.5, 1.0], "ablation": "zero"}
    expected = Grid(**{**given, "seeds": [1, 2]}).to_dict()
    grid = to_grid(given)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**given, "seeds": [1, 2]}))
    for again in (grid, given, tmp_path / "grid.yaml", str(tmp_path / "grid.yaml"), grid.to_dict()):
        assert json.dumps(to_grid(again).to_dict()) == json.dumps(expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({**GRID, "workers": 2}, "There is no argument of a grid 'workers'"),
        ({**GRID, "modells": {}}, "Did you mean 'models'"),
        ({**GRID, "models": "toy"}, "models is 'toy'. Give a mapping"),
        ({**GRID, "strategies": {"a": 3}}, "strategies is '3'. Give text or a mapping"),
        ({**GRID, "strategies": {"a": "eep"}}, "Did you mean 'eap'"),
        ({"models": {"toy": "toy"}}, "No tasks, no strategies is given"),
        ({**GRID, 3: 4}, "There is no argument of a grid '3'"),
        ("nothing.yaml", "There is no file 'nothing.yaml'"),
        (["eap"], r"\['eap'\] is no grid. Give a Grid, the path of a YAML file, or a mapping"),
        (None, "None is no grid"),
    ],
)
def test_what_is_no_grid(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        compare(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_folder_a_comparison_has_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    comparison = circuitkit.compare({**GRID, "examples": 4, "sizes": [1.0]}, accelerator="cpu")
    assert re.fullmatch(r"runs/compare-\d{8}-\d{6}", str(comparison.folder))
    assert {row["strategy"] for row in comparison} == {"eap", CONTROL}
    assert Comparison.load(comparison.folder).rows == comparison.rows
    with pytest.raises(UsageError, match="no folder to resume from"):
        circuitkit.compare(GRID, resume=True)
