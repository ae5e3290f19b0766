"""Comparisons: the cells of a grid, their rows and folders, and cells that fail."""

import csv
import json
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import circuitkit
from circuitkit import Circuit, DiscoveryStrategy
from circuitkit.compare.grid import Cell, Grid
from circuitkit.compare.runner import COLUMNS, CONTROL, ComparisonRunner, compare
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.evaluation.sizes import SIZES
from circuitkit.report.tables import comparison_tables
from circuitkit.run.result import Result
from circuitkit.strategies.base import Discovery

ACDC = {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}}
FEW = [0.02, 0.1, 0.5, 1.0]


class Broken(DiscoveryStrategy):
    """Fails in a way the package does not know, or in one it does."""

    def __init__(self, known: bool = False) -> None:
        self.known = known

    def discover(self, run: Discovery) -> Circuit:
        if self.known:
            raise CircuitKitError("There is no luck.", "Try\nagain.")
        raise ZeroDivisionError("by nought\nand more")


class Counting(DiscoveryStrategy):
    """Counts how often it runs."""

    ran = 0

    def __init__(self, extra: int = 0) -> None:
        self.extra = extra

    def discover(self, run: Discovery) -> Circuit:
        type(self).ran += 1
        return Circuit.from_scores(run.model.graph, torch.ones(len(run.model.graph)))


def make_grid(**parts: Any) -> Grid:
    default: dict[str, Any] = {"models": {"toy": "toy"}, "tasks": {"ioi": "ioi"}, "strategies": {"eap": "eap"}}
    return Grid(**{**default, "examples": 8, "sizes": FEW, **parts})


def run(grid: Grid, out: Path, **options: Any) -> list[dict[str, Any]]:
    return compare(grid, ComparisonRunner(grid, "cpu", callbacks=[]), out, **options)


def read(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def spec(strategy: type, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{__name__}.{strategy.__name__}", "init_args": arguments}


def test_one_row_per_cell_ranking_and_size(tmp_path: Path) -> None:
    rows = run(make_grid(strategies={"eap": "eap", "acdc": ACDC}, seeds=[0, 1]), tmp_path / "out")
    assert all(tuple(row) == COLUMNS for row in rows)
    counted = Counter((row["strategy"], row["seed"], row["operating_point"], row["ranking"]) for row in rows)
    expected = {}
    for seed in (0, 1):
        expected |= {("eap", seed, "all edges", ranking): len(FEW) for ranking in ("signed", "absolute")}
        for operating_point in ("threshold 0.1, signed", "threshold 1, signed"):
            expected |= {("acdc", seed, operating_point, ranking): len(FEW) for ranking in ("signed", "absolute")}
            expected[("acdc", seed, operating_point, "own")] = 1
        expected[(CONTROL, seed, "", "random")] = len(FEW)
    assert counted == expected
    for row in rows:
        assert (row["wall_s"] == "") == (row["strategy"] == CONTROL)
        assert row["cpr"] is None  # over these sizes it is none
        assert row["prompts"] == 8
        assert row["precision"] in ("full", "")
    written = read(tmp_path / "out")
    assert [row["faithfulness"] for row in written] == [str(row["faithfulness"]) for row in rows]


def test_the_figures_are_those_of_evaluate(tmp_path: Path) -> None:
    rows = run(make_grid(seeds=[3], sizes=list(SIZES)), tmp_path / "out")
    model = circuitkit.CircuitModel.from_pretrained("toy")
    circuit = circuitkit.discover(model, "ioi", "eap", examples=8, seed=3).circuit
    expected = circuitkit.evaluate(model, circuit, "ioi", examples=8, seed=3)
    for ranking in ("signed", "absolute", "random"):
        found = [row["faithfulness"] for row in rows if row["ranking"] == ranking]
        assert found == pytest.approx([point.faithfulness for point in expected.curve(ranking)], abs=1e-6)
    for row in rows:
        cpr, cmd = ("random_cpr", "random_cmd") if row["strategy"] == CONTROL else ("cpr", "cmd")
        assert row["cpr"] == pytest.approx(getattr(expected, cpr), abs=1e-6)
        assert row["cmd"] == pytest.approx(getattr(expected, cmd), abs=1e-6)


def test_every_cell_has_its_run_folder(tmp_path: Path) -> None:
    grid = make_grid(strategies={"eap": "eap", "../../evil [red]": ACDC})
    run(grid, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    cells = sorted((tmp_path / "out" / "cells").iterdir())
    assert [path.name[:7] for path in cells] == ["000-toy", "001-toy"]
    result = Result.load(cells[1])
    assert len(result.circuits) == len(result.evaluations["test"]) == 2
    assert len(result.evaluations["test"][0].points) == 3 * len(FEW) + 2
    assert "torch" in json.loads((tmp_path / "out" / "environment.json").read_text())["versions"]


def test_the_config_of_a_comparison_repeats_it(tmp_path: Path) -> None:
    first = run(make_grid(strategies={"random": "random_edges"}, exclude=[]), tmp_path / "a")
    again = Grid(**yaml.safe_load((tmp_path / "a" / "config.yaml").read_text()))
    second = run(again, tmp_path / "b")
    assert [row["faithfulness"] for row in first] == [row["faithfulness"] for row in second]


def test_a_failed_cell_becomes_a_row_and_the_others_run(tmp_path: Path) -> None:
    strategies = {"broken": spec(Broken), "unlucky": spec(Broken, known=True), "eap": "eap"}
    told: list[tuple[int, str, str | None]] = []

    def report(number: int, cell: Cell, seconds: float, error: str | None) -> None:
        told.append((number, cell.strategy, error))

    rows = run(make_grid(strategies=strategies), tmp_path / "out", on_cell_end=report)
    errors = {row["strategy"]: row["error"] for row in rows if row["error"]}
    assert errors == {
        "broken": "ZeroDivisionError: by nought (see errors.log)",
        "unlucky": "There is no luck. Try again.",
    }
    assert told == [(0, "broken", errors["broken"]), (1, "unlucky", errors["unlucky"]), (2, "eap", None)]
    assert [row["ranking"] for row in rows if row["strategy"] == "broken"] == [""]
    assert len([row for row in rows if row["strategy"] == "eap"]) == 2 * len(FEW)
    assert len([row for row in rows if row["strategy"] == CONTROL]) == len(FEW)
    log = (tmp_path / "out" / "errors.log").read_text()
    assert "ZeroDivisionError" in log
    assert "in discover" in log
    assert "luck" not in log


def test_a_model_that_cannot_be_loaded_fails_only_its_own_cells(tmp_path: Path) -> None:
    models = {"bad": str(tmp_path / "nothing"), "toy": "toy"}
    rows = run(make_grid(models=models, strategies={"a": "eap", "b": "random_edges"}), tmp_path / "out")
    bad = [row for row in rows if row["model"] == "bad"]
    assert [(row["strategy"], "There is no model" in row["error"]) for row in bad] == [("a", True), ("b", True)]
    assert not any(row["error"] for row in rows if row["model"] == "toy")


def test_identical_cells_are_computed_once_and_have_rows_under_every_label(tmp_path: Path) -> None:
    Counting.ran = 0
    strategies = {"a": spec(Counting), "same": spec(Counting, extra=0), "other": spec(Counting, extra=1)}
    rows = run(make_grid(strategies=strategies, precision={"none": "full", "full": "full"}), tmp_path / "out")
    assert Counting.ran == 2
    labels = {(row["strategy"], row["precision"]) for row in rows if row["strategy"] != CONTROL}
    assert labels == {(strategy, precision) for strategy in strategies for precision in ("none", "full")}


def test_the_ends_and_the_control_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = Evaluator.__init__
    monkeypatch.setattr(Evaluator, "__init__", lambda self, *args, **more: made.append(0) or real(self, *args, **more))
    run(make_grid(strategies={"a": "eap", "b": "random_edges"}, seeds=[0, 1]), tmp_path / "out")
    assert len(made) == 2


def test_without_a_precision_a_strategy_uses_its_own() -> None:
    assert [cell.precision for cell in make_grid().cells] == ["full"]
    assert make_grid().cells[0].precision_spec is None
    assert make_grid().cells[0].key == make_grid(precision={"whatever": "full"}).cells[0].key


def test_excluded_cells_are_left_out() -> None:
    parts = {"tasks": {"abc": "ioi", "swap": {"class_path": "ioi", "init_args": {"corruption": "swap"}}}}
    parts |= {"strategies": {"eap": "eap", "acdc": ACDC}, "seeds": [0, 1]}
    cells = make_grid(**parts, exclude=[{"tasks": "swap", "strategies": ["acdc"]}, {"seeds": 1, "tasks": "abc"}]).cells
    assert [(cell.task, cell.seed, cell.strategy) for cell in cells] == [
        ("abc", 0, "eap"),
        ("abc", 0, "acdc"),
        ("swap", 0, "eap"),
        ("swap", 1, "eap"),
    ]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"strategies": {"a": "epa"}}, "no strategy 'epa'. Did you mean 'eap'"),
        ({"strategies": {"a": {"class_path": "acdc", "init_args": {"treshold": 1}}}}, "'treshold'"),
        ({"strategies": {"a": {"class_path": "acdc", "init_args": {"threshold": float("nan")}}}}, "nan"),
        ({"strategies": {"a": {"class": "acdc"}}}, "does not name"),
        ({"strategies": {}}, "has no strategies"),
        ({"seeds": []}, "has no seeds"),
        ({"precision": {"a": "ful"}}, "Did you mean 'full'"),
        ({"models": {"a": {"name": "toy", "dtyp": "float32"}}}, "unknown key 'dtyp'"),
        ({"models": {"a": {"kv": "group"}}}, "has no name"),
        ({"models": {"a": {"name": "toy", "kv": "heads"}}}, "kv='heads'"),
        ({"objective": "klm"}, "no objective 'klm'"),
        ({"exclude": [{"strategy": "eap"}]}, "Did you mean 'strategies'"),
        ({"exclude": [{"strategies": "epa"}]}, "no label under strategies 'epa'. Did you mean 'eap'"),
        ({"exclude": [{}]}, "is empty"),
        ({"exclude": [{"strategies": "eap"}]}, "no cells left"),
        ({"exclude": ["eap"]}, "is not a mapping"),
        ({"seeds": [0, -1]}, "The seed -1"),
        ({"seeds": [0, "one"]}, "The seed 'one'"),
        ({"seeds": [2**32]}, "The seed 4294967296"),
        ({"seeds": [True]}, "The seed True"),
        ({"examples": 0}, "examples=0"),
        ({"examples": "many"}, "examples='many'"),
        ({"sizes": []}, "sizes [] are not rising"),
        ({"sizes": [0.5, 0.1]}, "not rising fractions"),
        ({"sizes": [0.5, 1.5]}, "not rising fractions"),
        ({"sizes": [float("nan")]}, "not rising fractions"),
        ({"sizes": ["half"]}, "not rising fractions"),
        ({"sizes": 0.5}, "not rising fractions"),
        ({"models": {"a": 5}}, "does not name a model"),
        ({"tasks": {"a": None}}, "does not name"),
        ({"dtype": "float33"}, "'float33'"),
        ({"models": {"a": {"name": "toy", "dtype": "int8"}}}, "'int8'"),
    ],
)
def test_a_wrong_grid_is_refused_before_any_work(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        make_grid(**parts)
    assert said in str(raised.value)


def test_a_folder_with_results_is_refused_unless_asked(tmp_path: Path) -> None:
    grid = make_grid(strategies={"random": "random_edges"})
    run(grid, tmp_path / "out")
    with pytest.raises(UsageError, match="already holds results"):
        run(grid, tmp_path / "out")
    run(make_grid(strategies={"eap": "eap"}), tmp_path / "out", overwrite=True)
    assert {row["strategy"] for row in read(tmp_path / "out")} == {"eap", CONTROL}
    with pytest.raises(UsageError, match="holds a run, not a comparison"):
        run(grid, next((tmp_path / "out" / "cells").iterdir()), overwrite=True)


def test_the_table(tmp_path: Path) -> None:
    rows = run(
        make_grid(strategies={"eap [bold]": "eap", "acdc": ACDC}, sizes=list(SIZES), seeds=[0, 1]), tmp_path / "out"
    )
    shown = StringIO()
    for table in comparison_tables(rows):
        Console(file=shown, width=140).print(table)
    lines = shown.getvalue().splitlines()
    assert lines[0] == "ioi in toy: faithfulness on 8 test prompts, mean over 2 seeds"
    rule = next(number for number, line in enumerate(lines) if "───" in line)
    names = ["eap [bold]", "acdc, threshold 0.1, signed", "acdc, threshold 1, signed", CONTROL]
    for name, line in zip(names, lines[rule + 1 :], strict=False):
        assert line.startswith(f" {name} ")
    for column in ("2%", "50%", "CPR", "CMD", "time", "peak", "own"):
        assert column in "".join(lines[:rule])


def test_the_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    precisions = {"full": "full", "the same again": "full"}
    rows = run(
        make_grid(strategies={"eap": "eap", "acdc": ACDC}, sizes=list(SIZES), precision=precisions), tmp_path / "out"
    )
    shown = StringIO()
    for table in comparison_tables(rows):
        Console(file=shown, width=80).print(table)
    control = next(line for line in shown.getvalue().splitlines() if CONTROL in line)
    figures = [row for row in rows if row["strategy"] == CONTROL]
    assert f"{figures[0]['cpr']:.2f} {figures[0]['cmd']:.2f}" in control
    assert "…" not in shown.getvalue()
