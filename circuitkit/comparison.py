"""A grid of discoveries: models x tasks x seeds x strategies x precisions, each evaluated on the test split.

What differs between two cells is only what their labels say: prompts, ablation and random control of a model, task
and seed are the same for all. Here the cells run one after the other in one process; a cell is plain data, and
`Bench.run` makes its rows.

A comparison's folder holds

- `config.yaml`: the comparison, resolved; `circuitkit compare --config` takes it;
- `results.csv`: a row a cell and circuit size (`COLUMNS`), written anew after every cell;
- `cells/`: the run folder of every cell, numbered;
- `environment.json`: versions and machine;
- `errors.log`: the tracebacks of cells that failed in a way the package does not know.
"""

import json
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from circuitkit import specs
from circuitkit.circuit_files import write_atomically
from circuitkit.discoverer import Discoverer
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation import Evaluation, Evaluator, Point, make_evaluator
from circuitkit.grid import Cell, Comparison
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.result import Result, environment, finite, to_csv, to_json
from circuitkit.setting import evaluated, load_model, on_device

COLUMNS = (
    "model",
    "task",
    "strategy",
    "precision",
    "seed",
    "setting",
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
    "error",
)
"""Of `results.csv`. `setting`: how the circuit was selected, such as its threshold. `ranking`: `signed` (CPR's),
`absolute` (CMD's), `random`, or `own` for the edges the method chose itself. `fraction`: of the edges, as asked for;
`edges`: what was left when the unconnected were dropped. `value`, `full`, `ablated`: the objective of this circuit
and of the two ends. `wall_s` (seconds) and `peak_mb` (2**20 bytes): of the whole cell."""
CONTROL = "random control"
"""The strategy column of the control's rows; there is one control for each model, task and seed."""
RESULTS = "results.csv"
_OURS = ("config.yaml", "environment.json", "errors.log", RESULTS)

Row = dict[str, Any]


class Bench:
    """Runs cells, and keeps the last model and evaluator for the next.

    Args:
        comparison: what the cells have in common.
        accelerator, devices, callbacks: of the `Discoverer`.
    """

    def __init__(
        self,
        comparison: Comparison,
        accelerator: str = "auto",
        devices: int = 1,
        callbacks: Sequence[Any] | None = None,
    ) -> None:
        self._comparison = comparison
        self._discoverer = {"accelerator": accelerator, "devices": devices, "callbacks": callbacks}
        self.device = self._make_discoverer(0).device
        self._model: tuple[str, CircuitModel | CircuitKitError] | None = None
        self._evaluator: tuple[str, Evaluator] | None = None

    def run(self, cell: Cell, folder: Path | None = None) -> list[Row]:
        """Discover and evaluate.

        Args:
            cell: which.
            folder: its run folder; None writes none.

        Returns:
            A row for each circuit and size, the random control's among them.
        """
        shared, model = self._comparison, self.model(cell)
        result = self._make_discoverer(cell.seed).run(
            cell.strategy_spec,
            model,
            cell.task_spec,
            precision=cell.precision_spec,
            objective=shared.objective,
            ablation=shared.ablation,
            examples=shared.examples,
            sizes=(),
        )
        evaluator = self.evaluator(cell, model)
        result.evaluations.extend(evaluated(evaluator, circuit, shared.sizes) for circuit in result.circuits)
        if folder is not None:
            result.save(folder)
        return list(_rows(cell, result))

    def model(self, cell: Cell) -> CircuitModel:
        """The cell's model, loaded; one that cannot be loaded is not tried again."""
        key = json.dumps(cell.model_spec, sort_keys=True)
        if self._model is None or self._model[0] != key:
            self._model = self._evaluator = None  # before the next is loaded
            try:
                self._model = key, on_device(load_model(cell.model_spec), self.device)
            except CircuitKitError as error:
                self._model = key, error
        found = self._model[1]
        if isinstance(found, CircuitKitError):
            raise found
        return found

    def evaluator(self, cell: Cell, model: CircuitModel) -> Evaluator:
        """On the test split; what all strategies have in common is computed once."""
        key = json.dumps([cell.model_spec, cell.task_spec, cell.seed], sort_keys=True)
        if self._evaluator is None or self._evaluator[0] != key:
            self._evaluator = None
            shared = self._comparison
            objective, ablation = (specs.make(f"{kind}s", getattr(shared, kind)) for kind in ("objective", "ablation"))
            task = specs.make("tasks", cell.task_spec)
            found = make_evaluator(model, task, objective, ablation, examples=shared.examples, seed=cell.seed)
            self._evaluator = key, found
        return self._evaluator[1]

    def _make_discoverer(self, seed: int) -> Discoverer:
        return Discoverer(seed=seed, **self._discoverer)  # type: ignore[arg-type]


Report = Callable[[int, Cell, float, str | None], None]


def compare(
    comparison: Comparison,
    bench: Bench,
    out: str | Path,
    *,
    overwrite: bool = False,
    report: Report = lambda number, cell, seconds, error: None,
) -> list[Row]:
    """Run all cells; one that fails becomes a row with its error, and the others go on.

    Args:
        comparison: the grid.
        bench: what runs a cell.
        out: the folder for the results.
        overwrite: replace the comparison that is there.
        report: told after every cell: its number from 0, the cell, seconds, and the error or None.

    Returns:
        The rows of `results.csv`.

    Raises:
        UsageError: the folder holds results.
        CircuitKitError: it cannot be written.
    """
    folder = _free_folder(Path(out), overwrite)
    write_atomically(folder / "config.yaml", specs.to_yaml(comparison.to_dict()).encode())
    write_atomically(folder / "environment.json", to_json(environment(bench.device)))
    done: dict[str, list[Row]] = {}
    rows: list[Row] = []
    controlled: set[tuple[str, str, int]] = set()
    for number, cell in enumerate(comparison.cells):
        started = time.perf_counter()
        if cell.key not in done:
            try:
                done[cell.key] = bench.run(cell, folder / "cells" / _folder_name(number, cell))
            except Exception as exception:  # a stranger's strategy may raise anything, and the others are to go on
                done[cell.key] = [{"error": _said(exception, folder, cell)}]
        group = cell.model, cell.task, cell.seed
        for row in done[cell.key]:
            if row.get("strategy") != CONTROL or group not in controlled:  # it comes with every cell
                rows.append(dict.fromkeys(COLUMNS, "") | cell.labels | finite(row))
        if "error" not in done[cell.key][0]:
            controlled.add(group)
        write_atomically(folder / RESULTS, to_csv(rows).encode())
        report(number, cell, time.perf_counter() - started, done[cell.key][0].get("error"))
    return rows


def _rows(cell: Cell, result: Result) -> Iterator[Row]:
    cost = {name: result.metrics.get(name) for name in ("edges_tested", "wall_s", "peak_mb")}
    for circuit, evaluation in zip(result.circuits, result.evaluations, strict=True):
        areas = {"cpr": evaluation.cpr, "cmd": evaluation.cmd}
        for ranking in ("signed", "absolute", "own"):
            for point in evaluation.curve(ranking):
                yield {"setting": circuit.selection} | _point(point, evaluation) | areas | cost
    first = result.evaluations[0]
    control = {"strategy": CONTROL, "precision": "", "cpr": first.random_cpr, "cmd": first.random_cmd}
    for point in first.curve("random"):
        yield _point(point, first) | control


def _point(point: Point, evaluation: Evaluation) -> Row:
    ends = {name: getattr(evaluation, name) for name in ("full", "ablated", "prompts")}
    names = ("ranking", "fraction", "edges", "edges_asked", "faithfulness", "value")
    return {name: getattr(point, name) for name in names} | ends


def _said(exception: Exception, folder: Path, cell: Cell) -> str:
    """An exception in one line; what is not ours leaves its traceback in `errors.log`."""
    if isinstance(exception, CircuitKitError):
        return " ".join(str(exception).split())
    with (folder / "errors.log").open("a", encoding="utf-8") as file:
        file.write(f"{cell}\n{''.join(traceback.format_exception(exception))}\n")
    lines = str(exception).strip().splitlines()
    return f"{type(exception).__name__}: {lines[0] if lines else ''} (see errors.log)"


def _free_folder(folder: Path, overwrite: bool) -> Path:
    """The folder, made, without an earlier comparison.

    Raises:
        UsageError: there is one, or it is a file or a run folder.
        CircuitKitError: it cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is not a folder.", "Give another one.")
    found = [name for name in (*_OURS, "result.json") if (folder / name).exists()]
    if found and not (overwrite and "result.json" not in found):
        raise UsageError(
            f"The folder {str(folder)!r} already holds results ({found[-1]}).",
            "Give another one, or replace a comparison with --overwrite.",
        )
    try:
        if (folder / RESULTS).exists():  # else `cells` is not a comparison's
            shutil.rmtree(folder / "cells", ignore_errors=True)
        for name in found:
            (folder / name).unlink()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise CircuitKitError(f"{str(folder)!r} cannot be written: {why}.", "Choose another place.") from error
    return folder


def _folder_name(number: int, cell: Cell) -> str:
    """Such as `003-toy-ioi-eap-full-0`; what labels have of other characters cannot lead elsewhere."""
    name = "-".join(str(label) for label in cell.labels.values())
    return f"{number:03d}-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', name)[:100]}"
