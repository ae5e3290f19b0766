"""Runs a comparison: the cells that are not finished, each in a process of its own, and the tables of all."""

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console

from circuitkit.comparison.comparison import Comparison
from circuitkit.comparison.comparison_folder import ComparisonFolder
from circuitkit.comparison.conclusions import Finished, conclude
from circuitkit.comparison.executors import Ended, Executor, Noted, ProcessExecutor, refuse_in_cell
from circuitkit.comparison.grid import Cell, Grid
from circuitkit.comparison.grid_arguments import to_grid
from circuitkit.comparison.job import Failure, Job
from circuitkit.comparison.progress import GridProgress
from circuitkit.comparison.ray_executor import RayExecutor
from circuitkit.comparison.rows import Row, failure_row, is_evaluated, rows_of
from circuitkit.config import registry
from circuitkit.config.checks import check_flags
from circuitkit.config.trust import trust_registered_only
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.interrupts import hold_signals
from circuitkit.run.content import CONTENT
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.environment import describe_environment
from circuitkit.run.result import Result
from circuitkit.storage.new_folder import output_folder
from circuitkit.tasks.base import Split

_TICK = 0.5
"""Seconds between two looks at the clock, for the progress display."""


def compare(
    grid: Grid | str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    executor: str = "process",
    accelerator: str = "auto",
    devices: int = 1,
    progress: GridProgress | None = None,
    trusted_only: bool = False,
) -> Comparison:
    """Run all cells of a grid, each in a process of its own.

    A cell that fails, crashes, is killed, or takes longer than its time limit becomes a row with its reason; the others
    still run. Identical cells are computed once, and have rows under all their labels.

    Args:
        grid: the grid, the path of a YAML file with its arguments, or a mapping of them.
        out: the folder for the results; see `comparison_folder`. By default a new one, `runs/compare-TIME`.
        resume: continue the comparison that the folder holds: finished cells are read, interrupted ones are continued,
            and those that have failed are tried again. The grid may have changed.
        overwrite: replace the comparison that the folder holds.
        workers: how many cells run at once. They share the cores, so that times are comparable only with one.
        executor: `process`, or `ray`: as tasks of the Ray cluster that `RAY_ADDRESS` names, or of a local one.
        accelerator, devices: as in `Discoverer`.
        progress: shows the progress; None shows nothing.
        trusted_only: refuse class paths of classes that no installed package registers, here and in the cells.

    Returns:
        The comparison, with the rows of `results.csv` in the order of the grid.

    Raises:
        UsageError: an argument does not fit, there is nothing to resume, or the folder holds results.
        CircuitKitError: the folder cannot be written.
    """
    refuse_in_cell()
    check_flags(resume=resume, overwrite=overwrite)
    _check_options(devices, workers, executor)
    if progress is not None and not isinstance(progress, GridProgress):
        raise UsageError(f"progress={quote(progress)} is no GridProgress.", "Give GridProgress(), or leave it out.")
    if resume and overwrite:
        raise UsageError("resume and overwrite exclude each other.", "Continue the comparison, or replace it.")
    if resume and not out:
        raise UsageError("There is no folder to resume from.", "Give the comparison's folder as `out`.")
    with trust_registered_only(trusted_only):
        grid = to_grid(grid)
    make = _EXECUTORS[executor]
    device = Discoverer(accelerator, devices, callbacks=[]).device
    threads = max(1, torch.get_num_threads() // workers)
    where = {"accelerator": accelerator, "devices": devices, "threads": threads, "trusted_only": trusted_only}
    environment = {"workers": workers, "executor": executor, **describe_environment(device)}
    how = "resume" if resume else "overwrite" if overwrite else None
    with output_folder(out, "compare") as path:
        folder = ComparisonFolder(path)
        with closing(make(workers, grid, device, threads)) as chosen, folder.open(grid.to_dict(), environment, how):
            run = _Comparison(grid, folder)
            silent = GridProgress(Console(file=io.StringIO(), force_jupyter=False))
            with _say_how_to_resume(folder.path), closing(progress or silent) as shown:
                shown.open(run.count, resume)
                todo = run.load_finished()
                if todo:
                    folder.forget_conclusions()
                if others := run.devices - {environment["machine"]["device"]}:
                    names = ", ".join(sorted(others))
                    shown.tell(
                        f"Cells that are finished ran on another device ({names}): times and memory do not compare."
                    )
                run.execute(todo, chosen, where, shown)
                sentences, agreement = conclude(run.finished())
                folder.write_conclusions(sentences, agreement)
    return Comparison(folder.path, run.rows(), sentences)


def _check_options(devices: int, workers: int, executor: str) -> None:
    if devices != 1:
        raise UsageError(
            f"devices={devices!r}, but a cell runs on one device.", "Run single discoveries on several (see torchrun)."
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise UsageError(f"workers={workers!r} is not a positive integer.", "Give the number of cells to run at once.")
    if executor not in _EXECUTORS:
        raise registry.unknown_name("executor", executor, list(_EXECUTORS))


class _Comparison:
    """The state of a running comparison: the rows of each cell, by key.

    Args:
        grid: the grid.
        folder: its folder, open.

    Attributes:
        devices: those that the finished cells ran on.
    """

    def __init__(self, grid: Grid, folder: ComparisonFolder) -> None:
        self._grid, self._folder = grid, folder
        self._distinct = {cell.key: cell for cell in reversed(grid.cells)}  # the first of identical cells
        self._rows: dict[str, list[Row]] = {}
        self._finished: dict[str, Finished] = {}
        self.devices: set[str] = set()
        self._content: dict[str, dict[str, str]] = {}

    @property
    def count(self) -> int:
        """Return the number of different cells."""
        return len(self._distinct)

    def load_finished(self) -> list[Cell]:
        """Read the finished cells; return the others, in the order of the grid."""
        todo = []
        for key in dict.fromkeys(cell.key for cell in self._grid.cells):
            cell = self._distinct[key]
            result = self._folder.load(cell)
            if result and is_evaluated(result):
                self._record(cell, result)
            else:
                todo.append(cell)
        self._folder.write_tables(self.rows())
        return todo

    def execute(self, todo: list[Cell], executor: Executor, where: dict[str, Any], shown: GridProgress) -> None:
        """Run cells, and rewrite the tables after each; at an interruption, those that run save their state."""
        shown.begin(self.count, todo, executor.slots)
        waiting, running = deque(todo), 0
        try:
            while waiting or running:
                while waiting and running < executor.slots:
                    cell, running = waiting.popleft(), running + 1
                    executor.start(self._job(cell, where))
                    shown.start(cell)
                for event in executor.events(_TICK):
                    if isinstance(event, Ended):
                        running -= 1
                        shown.end(event.key, self._end(event))
                    elif isinstance(event, Noted):
                        shown.note(event.key, event.note)
                    else:
                        shown.move(event.key, event.done, event.total, event.unit)
                shown.tick()
        except BaseException:
            with hold_signals():
                for ended in executor.stop():
                    self._end(ended)
            raise

    def rows(self) -> list[Row]:
        """Return the rows of all cells that are finished or have failed, in the order of the grid."""
        return [row | cell.labels for cell in self._grid.cells for row in self._rows.get(cell.key, ())]

    def finished(self) -> list[Finished]:
        """Return what of the finished cells is compared, in the order of the grid."""
        known = self._finished
        return [replace(known[cell.key], cell=cell) for cell in self._grid.cells if cell.key in known]

    def _job(self, cell: Cell, where: dict[str, Any]) -> Job:
        folder, output = self._folder.folder_of(cell), self._folder.output_of(cell)
        content = {name: found for key in _contents(cell) for name, found in self._content.get(key, {}).items()}
        again = self._folder.load(cell) is not None  # its evaluation failed
        return Job(cell, folder.absolute(), output.absolute(), content=content, again=again, **where)

    def _end(self, event: Ended) -> str | None:
        """Write down what has become of a cell; return why it has failed, if it has."""
        cell, failure = self._distinct[event.key], event.failure
        output = self._folder.take_output(cell)
        if failure is None:
            result = self._folder.load(cell)
            if result is None:
                failure = Failure("Its result cannot be read.")
            else:
                self._record(cell, result)
        if failure is not None:
            self._fail(cell, failure.reason, output if failure.crashed else failure.log)
        self._folder.write_tables(self.rows())
        return self._rows[cell.key][0]["error"] or None

    def _record(self, cell: Cell, result: Result) -> None:
        try:
            self._rows[cell.key] = rows_of(cell, self._folder.column(cell), result)
            self._finished[cell.key] = Finished.of(cell, result)
            self.devices.add(str(result.environment.get("machine", {}).get("device", "unknown")))
        except CircuitKitError as error:
            self._fail(cell, " ".join(str(error).split()))
            return
        self._folder.forget_failure(cell)
        content = result.config.get(CONTENT, {})
        weights, prompts = _contents(cell)
        self._content.setdefault(weights, {name: content[name] for name in ("weights", "settings") if name in content})
        rest = {name: found for name, found in content.items() if name in get_args(Split)}
        self._content.setdefault(prompts, rest)

    def _fail(self, cell: Cell, reason: str, log: str = "") -> None:
        self._folder.record_failure(cell, reason, log)
        self._rows[cell.key] = [failure_row(cell, self._folder.column(cell), reason)]


def _contents(cell: Cell) -> tuple[str, str]:
    """Return what cells have in common that have the same weights, and the same prompts."""
    model = f"{cell.config['model']} {cell.config['dtype']}"
    return model, f"{model} {cell.config['task']} {cell.config['examples']} {cell.seed}"


def _make_process_executor(slots: int, grid: Grid, device: torch.device, threads: int) -> Executor:
    return ProcessExecutor(slots, _modules(grid, device))


def _make_ray_executor(slots: int, grid: Grid, device: torch.device, threads: int) -> Executor:
    return RayExecutor(slots, threads, gpus=int(device.type == "cuda"))


_EXECUTORS: dict[str, Callable[[int, Grid, torch.device, int], Executor]] = {
    "process": _make_process_executor,
    "ray": _make_ray_executor,
}


def _modules(grid: Grid, device: torch.device) -> list[str]:
    """List the modules that the cells need, for one import of all."""
    used = (cell.config[part]["class_path"] for cell in grid.cells for part in ("task", "strategy", "precision"))
    modules = dict.fromkeys(path.rpartition(".")[0] for path in used if path.startswith("circuitkit."))
    quantized = "circuitkit.precision.pahq" in modules
    # It touches the GPU when it is imported, after which a forked process could not use it
    return [*modules, *(["circuitkit.comparison.quantized_cells"] if quantized and device.type == "cpu" else [])]


@contextmanager
def _say_how_to_resume(out: Path) -> Iterator[None]:
    """Add a note to an interruption that says how to go on."""
    how = f"Continue with the same arguments and --out {out} --resume (in Python: resume=True)."
    try:
        yield
    except CircuitKitError as error:
        raise CircuitKitError(error.problem, f"{error.remedy} {how}") from error
    except BaseException as exception:
        exception.add_note(how)
        raise
