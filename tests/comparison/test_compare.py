"""Comparisons: rows, folders, cells that fail, and comparisons that go on."""

import csv
import json
import shlex
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import yaml
from rich.console import Console
from support.cells import FEW, make_grid, scripted

import circuitkit
from circuitkit.cli.main import main
from circuitkit.comparison.comparison_folder import reproduce_command
from circuitkit.comparison.grid import Grid
from circuitkit.comparison.progress import GridProgress
from circuitkit.comparison.rows import COLUMNS, rows_of
from circuitkit.comparison.runner import compare
from circuitkit.errors import UsageError
from circuitkit.evaluation.sizes import SIZES
from circuitkit.report.comparison_tables import CONTROL, comparison_tables
from circuitkit.run.result import Result

ACDC = {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}}
TIMES = ("wall_s", "peak_mb", "evaluation_s")


def run(grid: Grid, out: Path, **options: Any) -> list[dict[str, Any]]:
    return compare(grid, out, accelerator="cpu", **options).rows


def read(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def runs_of(mark: Path) -> int:
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def test_one_row_per_cell_ranking_and_size(tmp_path: Path) -> None:
    grid = make_grid(strategies={"eap": "eap", "acdc": ACDC}, seeds=[0, 1])
    rows = run(grid, tmp_path / "out", workers=2)
    assert all(tuple(row) == tuple(COLUMNS) for row in rows)
    counted = Counter((row["strategy"], row["seed"], row["operating_point"], row["ranking"]) for row in rows)
    expected = {}
    for seed in (0, 1):
        for strategy in ("eap", CONTROL):
            expected |= {(strategy, seed, "all edges", ranking): len(FEW) for ranking in ("signed", "absolute")}
        for operating_point in ("threshold 0.1, signed", "threshold 1, signed"):
            expected |= {("acdc", seed, operating_point, ranking): len(FEW) for ranking in ("signed", "absolute")}
            expected |= {("acdc", seed, operating_point, ranking): 1 for ranking in ("own", "complement")}
    assert counted == expected
    assert list(dict.fromkeys(row["strategy"] for row in rows)) == ["eap", "acdc", CONTROL]  # the order of the grid
    for row in rows:
        assert row["cpr"] is None  # over these sizes it is none
        assert (row["prompts_train"], row["prompts_test"], row["precision"], row["error"]) == (8, 8, "full", "")
        assert row["wall_s"] > 0
        assert 10 < row["peak_mb"] < 500
    written = read(tmp_path / "out")
    assert tuple(written[0]) == tuple(COLUMNS)
    assert [row["faithfulness_test"] for row in written] == [str(row["faithfulness_test"]) for row in rows]
    frame = pandas.read_parquet(tmp_path / "out" / "results.parquet")
    assert list(frame.columns) == list(COLUMNS)
    assert frame["faithfulness_test"].tolist() == [row["faithfulness_test"] for row in rows]
    assert frame["seed"].tolist() == [row["seed"] for row in rows]
    assert frame["cpr"].isna().all()


def test_the_figures_are_those_of_evaluate(tmp_path: Path) -> None:
    rows = run(make_grid(seeds=[3], sizes=list(SIZES)), tmp_path / "out")
    model = circuitkit.CircuitModel.from_pretrained("toy")
    for strategy, label in (("eap", "eap"), ("random_edges", CONTROL)):
        circuit = circuitkit.discover(model, "ioi", strategy, examples=8, seed=3).circuit
        expected = circuitkit.evaluate(model, circuit, "ioi", examples=8, seed=3)
        train = circuitkit.evaluate(model, circuit, "ioi", examples=8, seed=3, split="train")
        for ranking in ("signed", "absolute"):
            own = [row for row in rows if row["strategy"] == label and row["ranking"] == ranking]
            for row, point, of_train in zip(own, expected.curve(ranking), train.curve(ranking), strict=True):
                for name, figure in {
                    "faithfulness_test": point.searched.faithfulness,
                    "faithfulness_train": of_train.searched.faithfulness,
                    "logit_difference_faithfulness_test": point.measures["logit_difference"].faithfulness,
                    "kl_faithfulness_train": of_train.measures["kl"].faithfulness,
                    "accuracy_circuit": point.measures["accuracy"].value,
                    "accuracy_circuit_train": of_train.measures["accuracy"].value,
                    "accuracy_model": expected.full["accuracy"],
                    "kl": point.measures["kl"].value,
                    "cpr": expected.areas[ranking].cpr,
                    "cmd": expected.areas[ranking].cmd,
                }.items():
                    found = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
                    assert found == pytest.approx(list(figure), abs=1e-6), name
                assert row["logit_difference"] == pytest.approx(-point.measures["logit_difference"].value.value)
                assert row["logit_difference_model_low"] == pytest.approx(-expected.full["logit_difference"].high)


def test_every_cell_has_its_run_folder_and_every_row_names_it(tmp_path: Path) -> None:
    grid = make_grid(strategies={"eap": "eap", "../../evil [red]": ACDC})
    rows = run(grid, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    folders = list(dict.fromkeys(row["folder"] for row in rows))
    assert folders == [f"cells/{cell.name}" for cell in grid.cells]
    assert sorted(folders) == sorted(f"cells/{path.name}" for path in (tmp_path / "out" / "cells").iterdir())
    result = Result.load(tmp_path / "out" / folders[1])
    assert len(result.circuits) == 2
    environment = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert "torch" in environment["versions"]
    assert environment["workers"] == 1


def test_the_config_of_a_comparison_repeats_it(tmp_path: Path) -> None:
    first = run(make_grid(strategies={"random": "random_edges"}), tmp_path / "a")
    again = Grid(**yaml.safe_load((tmp_path / "a" / "config.yaml").read_text()))
    assert without_times(run(again, tmp_path / "b")) == without_times(first)


def test_a_printed_command_repeats_the_rows_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("it's out")
    grid = make_grid(strategies={"acdc": ACDC}, seeds=[5], objectives={"kl": "kl"}, memory_budget="1GB")
    rows = run(grid, out)
    folder = out / rows[0]["folder"]
    command = reproduce_command(folder)
    assert main([part.replace("NEW", "again") for part in shlex.split(command)[1:]]) == 0
    found, again = Result.load(folder), Result.load("again")
    assert found.config == again.config
    for one, other in zip(found.circuits, again.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.kept, other.kept)
    of_cell = [row for row in rows if row["strategy"] == "acdc"]
    assert without_times(rows_of(grid.cells[0], rows[0]["folder"], again)) == without_times(of_cell)


FAILING = {
    "raises": (scripted("raise"), "ZeroDivisionError: by nought (see errors.log)"),
    "refuses": (scripted("refuse"), "There is no luck. Try again."),
    "killed": (scripted("kill"), "Its process was killed (SIGKILL): the system probably ran out of memory."),
    "crashes": (scripted("crash"), "Its process was ended by the signal SIGSEGV (see errors.log)."),
    "exits": (scripted("exit"), "Its process ended with status 3 (see errors.log)."),
    "hangs": (scripted("hang"), "It was stopped after its time limit of 1 s."),
}


def test_a_failed_cell_becomes_a_row_with_its_reason_and_the_others_run(tmp_path: Path) -> None:
    overrides = [{"cells": {"strategies": "hangs"}, "set": {"time_limit": 1}}]
    strategies = {name: spec for name, (spec, _) in FAILING.items()} | {"eap": "eap"}
    rows = run(make_grid(strategies=strategies, overrides=overrides), tmp_path / "out", workers=2)
    errors = {row["strategy"]: row["error"] for row in rows if row["error"]}
    assert errors == {name: reason for name, (_, reason) in FAILING.items()}
    counts = Counter(row["strategy"] for row in rows)
    assert counts == dict.fromkeys(FAILING, 1) | {"eap": 2 * len(FEW), CONTROL: 2 * len(FEW)}
    assert [row["error"] for row in read(tmp_path / "out")] == [row["error"] for row in rows]
    log = (tmp_path / "out" / "errors.log").read_text()
    for said in ("ZeroDivisionError", "in discover", "Fatal Python error: Segmentation fault"):
        assert said in log
    assert "luck" not in log
    failures = [json.loads(file.read_text()) for file in (tmp_path / "out" / "cells").glob("*.failure.json")]
    assert {found["strategy"]: found["error"] for found in failures} == errors
    assert all(found["time"].startswith("20") for found in failures)
    assert not list((tmp_path / "out" / "cells").glob("*.output"))


def test_a_process_that_ignores_its_time_limit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitkit.comparison.executors.GRACE", 0.2)
    rows = run(make_grid(strategies={"hangs": scripted("hang_on")}, time_limit=1), tmp_path / "out")
    assert rows[0]["error"] == "It was stopped after its time limit of 1 s."


def test_a_model_that_cannot_be_loaded_fails_only_its_own_cells(tmp_path: Path) -> None:
    models = {"bad": str(tmp_path / "nothing"), "toy": "toy"}
    rows = run(make_grid(models=models), tmp_path / "out")
    bad = [row for row in rows if row["model"] == "bad"]
    assert [(row["strategy"], "There is no model" in row["error"]) for row in bad] == [("eap", True), (CONTROL, True)]
    assert not any(row["error"] for row in rows if row["model"] == "toy")


def test_identical_cells_are_computed_once_and_have_rows_under_every_label(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    strategies = {"a": scripted(mark=mark), "same": scripted("nothing", mark=mark)}
    rows = run(make_grid(strategies=strategies, precision={"none": "full", "full": "full"}), tmp_path / "out")
    assert runs_of(mark) == 1
    labels = {(row["strategy"], row["precision"]) for row in rows if row["strategy"] != CONTROL}
    assert labels == {(strategy, precision) for strategy in strategies for precision in ("none", "full")}


def test_resume_runs_what_is_missing_or_failed_and_reads_the_rest(tmp_path: Path) -> None:
    out, mark, other = tmp_path / "out", tmp_path / "mark", tmp_path / "other"
    known = {"broken": scripted("raise", other), "done": scripted(mark=mark)}
    first = run(make_grid(strategies=known), out)
    grid = make_grid(strategies={"new": "eap", **known, "renamed": known["done"]}, seeds=[0, 1])
    rows = run(grid, out, resume=True)
    assert (runs_of(mark), runs_of(other)) == (2, 3)  # `done` for seed 1 alone, `broken` again
    done = [row for row in rows if row["strategy"] == "done" and row["seed"] == 0]
    assert done == [row for row in first if row["strategy"] == "done"]
    assert {row["strategy"] for row in rows} == {*grid.strategies, CONTROL}
    whole = run(grid, tmp_path / "whole")
    assert without_times(rows) == without_times(whole)
    assert yaml.safe_load((out / "config.yaml").read_text())["seeds"] == [0, 1]
    fewer = run(make_grid(strategies={"done": known["done"]}), out, resume=True)
    assert fewer == [row for row in first if row["strategy"] in ("done", CONTROL)]  # only the cells of the grid
    assert runs_of(mark) == 2 + 2  # two of `whole`


def test_a_cell_that_succeeds_the_second_time_is_no_failure_any_more(tmp_path: Path) -> None:
    switch, out = tmp_path / "switch", tmp_path / "out"
    spec = {"class_path": "support.cells.FailsOnce", "init_args": {"switch": str(switch)}}
    rows = run(make_grid(strategies={"twice": spec}), out)
    assert rows[0]["error"] == "Not yet. Again."
    rows = run(make_grid(strategies={"twice": spec}), out, resume=True)
    assert not any(row["error"] for row in rows)
    assert not list(out.glob("cells/*.failure.json"))


def test_prompts_that_have_changed_are_not_mixed_with_finished_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = Path(__file__).parents[2].joinpath("examples/prompts.csv").read_text().splitlines(keepends=True)
    Path("own.csv").write_text("".join(lines))
    run(make_grid(tasks={"own": "own.csv"}, examples=4), Path("out"))
    Path("own.csv").write_text("".join([lines[0], *reversed(lines[1:])]))
    grid = make_grid(tasks={"own": "own.csv"}, examples=4, strategies={"eap": "eap", "gim": "gim"})
    rows = run(grid, Path("out"), resume=True)
    assert {row["strategy"] for row in rows if not row["error"]} == {"eap", CONTROL}
    (failed,) = (row["error"] for row in rows if row["error"])
    assert failed.startswith("This cell has other prompts in the train split than cells that are finished.")


def test_cells_on_the_same_prompts_may_start_from_different_folders(tmp_path: Path) -> None:
    strategies: dict[str, Any] = {}
    for name in ("eap", "random_edges"):
        circuitkit.discover("toy", "ioi", name, examples=4, sizes=(), out=tmp_path / name)
        start = {"start": str(tmp_path / name), "start_size": 0.2, "threshold": 1e9}
        strategies[name] = {"class_path": "acdc", "init_args": start}
    rows = run(make_grid(strategies=strategies, examples=4), tmp_path / "out")
    assert not [row["error"] for row in rows if row["error"]]


def test_a_comparison_that_goes_on_elsewhere_says_that_times_do_not_compare(tmp_path: Path) -> None:
    grid, out = make_grid(strategies={"random": "random_edges"}), tmp_path / "out"
    run(grid, out)
    (cell,) = (path for path in (out / "cells").iterdir() if path.is_dir())
    said = []
    for device in ("cpu", "NVIDIA H200"):
        made = (cell / "result.json").read_text()
        (cell / "result.json").write_text(made.replace('"device": "cpu"', f'"device": "{device}"'))
        shown = StringIO()
        run(grid, out, resume=True, progress=GridProgress(Console(file=shown)))
        said.append(shown.getvalue())
    assert "another device" not in said[0]
    assert "Cells that are finished ran on another device (NVIDIA H200): times and memory do not compare." in said[1]


def test_a_folder_with_results_is_refused_unless_asked(tmp_path: Path) -> None:
    grid = make_grid(strategies={"random": "random_edges"})
    run(grid, tmp_path / "out")
    with pytest.raises(UsageError, match=r"already holds results.*--resume.*--overwrite"):
        run(grid, tmp_path / "out")
    with pytest.raises(UsageError, match="exclude each other"):
        run(grid, tmp_path / "out", resume=True, overwrite=True)
    run(make_grid(), tmp_path / "out", overwrite=True)
    assert {row["strategy"] for row in read(tmp_path / "out")} == {"eap", CONTROL}
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 2
    with pytest.raises(UsageError, match="holds a run, not a comparison"):
        run(grid, next((tmp_path / "out" / "cells").iterdir()), overwrite=True)


@pytest.mark.parametrize("content", [None, {}, {"version": 1}, {"version": 99}])
def test_a_folder_of_another_version_is_refused(content: dict[str, Any] | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_grid(strategies={"random": "random_edges"}), out)
    (out / "environment.json").unlink()
    if content is not None:
        (out / "environment.json").write_text(json.dumps(content))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"a comparison in files of version (1|99), not 2"):
        run(make_grid(), out, resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    run(make_grid(), out, overwrite=True)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_a_wrong_number_of_workers(workers: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"workers={workers}"):
        run(make_grid(), tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()


def test_the_table(tmp_path: Path) -> None:
    rows = run(
        make_grid(strategies={"eap [bold]": "eap", "acdc": ACDC}, sizes=list(SIZES), seeds=[0, 1]), tmp_path / "out"
    )
    shown = StringIO()
    for table in comparison_tables(rows):
        Console(file=shown, width=140).print(table)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "ioi in toy, logit_difference: faithfulness on 8 test prompts, mean over 2 seeds"
    assert lines[1].startswith("The full model: right on 100% [")
    rule = next(number for number, line in enumerate(lines) if "───" in line)
    names = ["eap [bold]", "acdc, threshold 0.1, signed", "acdc, threshold 1, signed", CONTROL]
    for name, line in zip(names, lines[rule + 1 :: 2], strict=False):  # the intervals are below the figures
        assert line.startswith(f" {name} ")
        assert "±" in line
    for column in ("2%", "50%", "CPR", "CMD", "time", "peak"):
        assert column in "".join(lines[:rule])
    chosen = next(line for line in lines[rule + 10 :] if "train" in line)
    assert [head for head in ("train", "test", "difference", "KL", "accuracy") if head in chosen]


def test_the_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    precisions = {"full": "full", "the same again": "full"}
    rows = run(
        make_grid(strategies={"eap": "eap", "acdc": ACDC}, sizes=list(SIZES), precision=precisions), tmp_path / "out"
    )
    shown = StringIO()
    for table in comparison_tables(rows, width=80):
        Console(file=shown, width=80).print(table)
    control = next(line for line in shown.getvalue().splitlines() if CONTROL in line)
    areas = {row["ranking"]: row for row in rows if row["strategy"] == CONTROL}
    assert f"{areas['signed']['cpr']:.2f} {areas['absolute']['cmd']:.2f}" in control
    assert "…" not in shown.getvalue()


def test_objectives_have_tables_of_their_own(tmp_path: Path) -> None:
    objectives = {"difference": "logit_difference", "divergence": "kl"}
    rows = run(make_grid(strategies={"acdc": ACDC}, objectives=objectives), tmp_path / "out")
    shown = StringIO()
    for table in comparison_tables(rows):
        Console(file=shown, width=140).print(table)
    assert [line for line in shown.getvalue().splitlines() if line.startswith("ioi in")] == [
        f"ioi in toy, {label}: faithfulness on 8 test prompts" for label in objectives
    ]


def test_a_comparison_that_was_killed_can_be_replaced(tmp_path: Path) -> None:
    grid, out = make_grid(strategies={"random": "random_edges"}), tmp_path / "out"
    run(grid, out)
    (cell,) = (path for path in (out / "cells").iterdir() if path.is_dir())
    for left in (f".{cell.name}.output", f".{cell.name}.failure.json.0a1b.tmp", f"{cell.name}.failure.json"):
        (out / "cells" / left).write_text("")
    run(grid, out, overwrite=True)
    assert [path.name for path in (out / "cells").iterdir()] == [cell.name]
    (out / "cells" / "notes.md").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.md is not a file of this comparison"):
        run(grid, out, overwrite=True)
    assert (cell / "result.json").exists()
    assert len(read(out)) == 2 * len(FEW)


def test_cells_run_on_one_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="devices=2, but a cell runs on one device"):
        run(make_grid(), tmp_path / "out", devices=2)
    assert not (tmp_path / "out").exists()


def test_prompts_of_two_numbers_are_not_compared_with_each_other(tmp_path: Path) -> None:
    overrides = [{"cells": {"strategies": "eap"}, "set": {"examples": 6}}]
    run(make_grid(strategies={"eap": "eap", "hisp": "hisp"}, overrides=overrides), tmp_path / "out")
    assert "were measured on different prompts" in (tmp_path / "out" / "conclusions.txt").read_text()


def test_a_cell_whose_evaluation_failed_is_tried_again(tmp_path: Path) -> None:
    grid, out = make_grid(strategies={"random": "random_edges"}), tmp_path / "out"
    first = run(grid, out)
    (cell,) = (path for path in (out / "cells").iterdir() if path.is_dir())
    result = Result.load(cell)
    result.evaluations.clear()
    result.save(cell, overwrite=True)
    assert without_times(run(grid, out, resume=True)) == without_times(first)
