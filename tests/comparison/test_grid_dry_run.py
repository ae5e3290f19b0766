"""Dry runs of comparisons: every cell with its memory and time, and nothing is written."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.cells import make_grid

from circuitkit.cli.main import main
from circuitkit.comparison import dry_run
from circuitkit.comparison.dry_run import predict_cells
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.report.dry_run import DryRun, grid_dry_run_table
from circuitkit.run.discoverer import Discoverer

GATES = {"class_path": "edge_pruning", "init_args": {"trainer": {"max_steps": 5}}}


def test_every_cell_is_predicted_as_its_run_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    load = dry_run.load_model
    monkeypatch.setattr(dry_run, "load_model", lambda spec: loads.append(spec) or load(spec))
    overrides = [{"cells": {"strategies": "acdc"}, "set": {"examples": 4}}]
    models = {"toy": "toy", "heads": {"name": "toy", "kv": "head"}}
    grid = make_grid(models=models, strategies={"acdc": "acdc", "eap": "eap", "same": "eap"}, overrides=overrides)
    found = list(predict_cells(grid, "cpu"))
    assert [(one.cell.model, one.cell.strategy) for one in found] == [
        (model, strategy) for model in models for strategy in ("acdc", "eap", CONTROL)
    ]
    assert len(loads) == 2
    for one in found:
        alone = Discoverer("cpu").dry_run(one.cell.model_spec, "ioi", one.cell.config["strategy"], examples=8)
        assert one.dry_run is not None
        assert one.dry_run.edges == alone.edges
        assert one.dry_run.prompts == (4 if one.cell.strategy == "acdc" else alone.prompts)


def test_a_cell_that_would_be_refused_says_why() -> None:
    grid = make_grid(strategies={"eap": "eap", "acdc": "acdc"}, objectives={"kl": "kl"})
    found = {one.cell.strategy: one for one in predict_cells(grid, "cpu")}
    assert found["eap"].dry_run is None
    assert "its gradient vanishes" in found["eap"].error
    assert found["acdc"].dry_run is not None


def test_a_note_says_which_task_and_model_it_is_about() -> None:
    def made(*notes: str) -> DryRun:
        return DryRun("eap", "toy", 1, 2, 3, {}, 4, None, {}, None, CostEstimate(), notes=notes)

    cells = [("one", "a in toy", made("All.", "Near."), ""), ("two", "a in toy", made("All."), "")]
    console = Console(width=140, force_terminal=False)
    with console.capture() as text:
        console.print(grid_dry_run_table(cells))
        console.print(grid_dry_run_table([*cells, ("three", "b in toy", made("All."), ""), ("no", "c", None, "No.")]))
    lines = text.get().splitlines()
    assert [line for line in lines if line.startswith("Note")] == [
        *("Note: All.", "Note: Near."),
        *("Note (a in toy, b in toy): All.", "Note (a in toy): Near."),
    ]


def test_the_command_prints_a_table_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--dry_run", "--examples", "8", "--seeds", "[0, 1]"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("acdc (full) on ioi, toy, logit_difference, seed") == 2
    assert "6 cells; searches:" in shown
    assert list(tmp_path.iterdir()) == []
