"""Runs a grid of discoveries, each evaluated on the test split.

Cells with the same model, task and seed have the same prompts, ablation and random control. The cells run one after
another in one process.

A comparison's folder holds

- `config.yaml`: the resolved grid; `circuitkit compare --config` accepts it;
- `results.csv`: one row per circuit, ranking and size (`COLUMNS`), rewritten after every cell;
- `cells/`: the run folder of every cell, numbered;
- `environment.json`: versions and machine;
- `errors.log`: the tracebacks of cells that failed with an exception from outside the package.
"""

import json
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from circuitkit.compare.grid import Cell, Grid
from circuitkit.config import specs
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.evaluator import Evaluator, make_evaluator
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.report.tables import NOTES
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.environment import describe_environment
from circuitkit.run.result import Result
from circuitkit.run.run_config import load_model, move_to
from circuitkit.run.run_folder import RunFolder
from circuitkit.storage.files import write_atomically
from circuitkit.storage.owned_folder import OwnedFolder, cannot_write
from circuitkit.storage.text import to_csv, to_finite, to_json, to_yaml

COLUMNS = (
    "model",
    "task",
    "strategy",
    "precision",
    "seed",
    "operating_point",
    "ranking",
    "fraction",
    "edges",
    "edges_asked",
    "faithfulness",
    "value",
    "cpr",
    "cmd",
    "full",
    "ablated",
    "prompts",
    "edges_tested",
    "wall_s",
    "peak_mb",
    "notes",
    "error",
)
"""Columns of `results.csv`. `operating_point`: how the circuit was selected, such as its threshold. `ranking`: `signed`
(CPR's), `absolute` (CMD's), `random`, or `own` for the edges that the method chose itself. `fraction`: the requested
fraction of the edges; `edges`: the number left after unconnected ones were dropped. `value`, `full`, `ablated`: the
objective of this circuit, of the full model and of the ablated one. `wall_s` (seconds) and `peak_mb` (2**20 bytes): the
cost of the cell's discovery, repeated in each of its rows. `notes`: caveats of the discovery and of this evaluation,
separated by ` | `."""
CONTROL = "random control"
"""Value of the strategy column in the control's rows; there is one control per model, task and seed."""
RESULTS = "results.csv"
CELLS = "cells"
_OURS = ("config.yaml", "environment.json", "errors.log", RESULTS)

Row = dict[str, Any]


class ComparisonRunner:
    """Runs cells, and keeps the last model and evaluator for the next cell.

    Args:
        grid: the grid, for the options that all cells share.
        accelerator, devices, callbacks: as in `Discoverer`.
    """

    def __init__(
        self,
        grid: Grid,
        accelerator: str = "auto",
        devices: int = 1,
        callbacks: Sequence[Any] | None = None,
    ) -> None:
        self._grid = grid
        self._discoverer = {"accelerator": accelerator, "devices": devices, "callbacks": callbacks}
        self.device = self._make_discoverer(0).device
        self._model: tuple[str, CircuitModel | CircuitKitError] | None = None
        self._evaluator: tuple[str, Evaluator] | None = None

    def run(self, cell: Cell, folder: Path | None = None) -> list[Row]:
        """Run one cell: discover and evaluate.

        Args:
            cell: the cell.
            folder: the cell's run folder; None writes none.

        Returns:
            One row per circuit, ranking and size, then the random control's rows.
        """
        shared, model = self._grid, self.model(cell)
        result = self._make_discoverer(cell.seed).run(
            model,
            cell.task_spec,
            cell.strategy_spec,
            precision=cell.precision_spec,
            objective=shared.objective,
            ablation=shared.ablation,
            examples=shared.examples,
            sizes=(),
        )
        if folder is not None:
            result.save(folder)  # before the evaluation, which may fail
        evaluator = self.evaluator(cell, model)
        result.evaluations["test"] = [evaluator.evaluate(circuit, shared.sizes) for circuit in result.circuits]
        if folder is not None:
            result.save(folder, overwrite=True)
        return list(_rows(cell, result))

    def model(self, cell: Cell) -> CircuitModel:
        """Load the cell's model, or reuse the last cell's; loading that failed there is not tried again."""
        key = json.dumps(cell.model_spec, sort_keys=True)
        if self._model is None or self._model[0] != key:
            self._model = self._evaluator = None  # frees memory before the next model is loaded
            try:
                self._model = key, move_to(self.device, load_model(cell.model_spec))
            except CircuitKitError as error:
                self._model = key, error
        found = self._model[1]
        if isinstance(found, CircuitKitError):
            raise found
        return found

    def evaluator(self, cell: Cell, model: CircuitModel) -> Evaluator:
        """Make the evaluator for the test split, or reuse the last cell's."""
        key = json.dumps([cell.model_spec, cell.task_spec, cell.seed], sort_keys=True)
        if self._evaluator is None or self._evaluator[0] != key:
            self._evaluator = None
            shared = self._grid
            objective, ablation = (specs.make(f"{kind}s", getattr(shared, kind)) for kind in ("objective", "ablation"))
            task = specs.make("tasks", cell.task_spec)
            found = make_evaluator(model, task, objective, ablation, examples=shared.examples, seed=cell.seed)
            self._evaluator = key, found
        return self._evaluator[1]

    def _make_discoverer(self, seed: int) -> Discoverer:
        return Discoverer(seed=seed, **self._discoverer)  # type: ignore[arg-type]


OnCellEnd = Callable[[int, Cell, float, str | None], None]


def compare(
    grid: Grid,
    runner: ComparisonRunner,
    out: str | Path,
    *,
    overwrite: bool = False,
    on_cell_end: OnCellEnd = lambda number, cell, seconds, error: None,
) -> list[Row]:
    """Run all cells; a cell that fails becomes a row with its error, and the others still run.

    Args:
        grid: the grid.
        runner: runs a cell.
        out: the folder for the results.
        overwrite: replace a comparison in that folder.
        on_cell_end: called after every cell with its number (from 0), the cell, its seconds, and its error or None.

    Returns:
        The rows of `results.csv`.

    Raises:
        UsageError: the folder holds results.
        CircuitKitError: the folder cannot be written.
    """
    owned = OwnedFolder(out, "comparison", (*_OURS, CELLS))
    with owned.hold():
        _prepare_folder(owned, overwrite)
        return _run_cells(grid, runner, owned.path, on_cell_end)


def _run_cells(grid: Grid, runner: ComparisonRunner, folder: Path, on_cell_end: OnCellEnd) -> list[Row]:
    """Run all cells, and write the files of the comparison."""
    write_atomically(folder / "config.yaml", to_yaml(grid.to_dict()).encode())
    write_atomically(folder / "environment.json", to_json(describe_environment(runner.device)))
    done: dict[str, list[Row]] = {}
    rows: list[Row] = []
    controlled: set[tuple[str, str, int]] = set()
    for number, cell in enumerate(grid.cells):
        started = time.perf_counter()
        if cell.key not in done:
            try:
                done[cell.key] = runner.run(cell, folder / CELLS / _folder_name(number, cell))
            except Exception as exception:  # a strategy from outside may raise anything
                done[cell.key] = [{"error": _error_line(exception, folder, cell)}]
        group = cell.model, cell.task, cell.seed
        for row in done[cell.key]:
            if row.get("strategy") != CONTROL or group not in controlled:  # every cell returns the control; keep one
                rows.append(dict.fromkeys(COLUMNS, "") | cell.labels | to_finite(row))
        if "error" not in done[cell.key][0]:
            controlled.add(group)
        write_atomically(folder / RESULTS, to_csv(rows).encode())
        on_cell_end(number, cell, time.perf_counter() - started, done[cell.key][0].get("error"))
    return rows


def _rows(cell: Cell, result: Result) -> Iterator[Row]:
    cost = {name: result.metrics.get(name) for name in ("edges_tested", "wall_s", "peak_mb")}
    for circuit, evaluation in zip(result.circuits, result.evaluations["test"], strict=True):
        areas: Row = {"cpr": evaluation.cpr, "cmd": evaluation.cmd}
        areas["notes"] = NOTES.join(dict.fromkeys([*result.notes, *evaluation.notes]))
        for ranking in ("signed", "absolute", "own"):
            for point in evaluation.curve(ranking):
                yield {"operating_point": circuit.selection} | _point(point, evaluation) | areas | cost
    first = result.evaluations["test"][0]
    control: Row = {"strategy": CONTROL, "precision": "", "cpr": first.random_cpr, "cmd": first.random_cmd}
    control["notes"] = NOTES.join(first.notes)
    for point in first.curve("random"):
        yield _point(point, first) | control


def _point(point: Point, evaluation: Evaluation) -> Row:
    ends: Row = {name: getattr(evaluation, name)[evaluation.objective].value for name in ("full", "ablated")}
    ends["prompts"] = evaluation.prompts
    names = ("ranking", "fraction", "edges", "edges_asked", "faithfulness", "value")
    return {name: getattr(point, name) for name in names} | ends


def _error_line(exception: Exception, folder: Path, cell: Cell) -> str:
    """Describe an exception in one line; append the traceback to `errors.log` unless it is a `CircuitKitError`."""
    if isinstance(exception, CircuitKitError):
        return " ".join(str(exception).split())
    with (folder / "errors.log").open("a", encoding="utf-8") as file:
        file.write(f"{cell}\n{''.join(traceback.format_exception(exception))}\n")
    lines = str(exception).strip().splitlines()
    return f"{type(exception).__name__}: {lines[0] if lines else ''} (see errors.log)"


def _prepare_folder(owned: OwnedFolder, overwrite: bool) -> None:
    """Remove an earlier comparison from a folder that is held.

    Raises:
        UsageError: it holds a comparison that may not be replaced, or a cell with files that no run wrote.
        CircuitKitError: it cannot be written.
    """
    folder = owned.path
    found = [name for name in (*_OURS, CELLS) if (folder / name).exists()]
    if found and not overwrite:
        raise UsageError(
            f"The folder {str(folder)!r} already holds results ({found[0]}).",
            "Give another one, or replace a comparison with --overwrite.",
        )
    cells = sorted((folder / CELLS).iterdir()) if CELLS in found else []
    for cell in cells:
        RunFolder(cell, overwrite=True)  # refuses other files
    try:
        for cell in cells:
            shutil.rmtree(cell)
        for name in found:
            if name == CELLS:
                (folder / name).rmdir()
            else:
                (folder / name).unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error


def _folder_name(number: int, cell: Cell) -> str:
    """Make a name such as `003-toy-ioi-eap-full-0`; characters that do not suit a file name become `_`."""
    name = "-".join(str(label) for label in cell.labels.values())
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', name)[:100]}"
