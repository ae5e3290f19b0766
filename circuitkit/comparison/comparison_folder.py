"""The folder of a comparison: its files, and what an earlier process has left in it.

It holds

- `config.yaml`: the resolved grid; `circuitkit compare --config` accepts it;
- `environment.json`: the version of these files, versions of packages, the machine, and how the cells are run;
- `cells/`: a run folder per cell, named after its labels and a hash of all that decides its result; beside it, if the
  cell has failed, a file `NAME.failure.json` with the reason and the time;
- `results.csv` and `results.parquet`: the rows of all cells that are finished or have failed (`rows.COLUMNS`),
  rewritten after every cell;
- `conclusions.txt`: in words, which of the best two strategies is better at each size, and whether low precision
  differs from full; `agreement.csv`: how far each two cells agree (`conclusions.AGREEMENT_COLUMNS`);
- `errors.log`: tracebacks, and the output of processes that crashed;
- `report.html`, `report.md` and pictures in `report_files/`: the page, if one was made.

The run folders are the truth: everything else is made from them again.
"""

import io
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from circuitkit.comparison.conclusions import AGREEMENT_COLUMNS
from circuitkit.comparison.grid import Cell
from circuitkit.comparison.rows import Row, from_parquet, to_csv_text, to_frame
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.run.result import Result
from circuitkit.run.run_folder import (
    CONFIG,
    IN_REPORT_FILES,
    REPORT_FILES,
    REPORT_HTML,
    REPORT_MARKDOWN,
    RESULT,
    RunFolder,
    check_same_config,
    finish_writing,
)
from circuitkit.storage.files import read_bytes, read_json, write_atomically
from circuitkit.storage.owned_folder import OwnedFolder, cannot_write
from circuitkit.storage.text import to_csv, to_json, to_yaml

VERSION = 2
"""Of the files of a comparison; version 1 had numbered cells and no version in its files."""
CELLS, CSV, PARQUET = "cells", "results.csv", "results.parquet"
ENVIRONMENT, _ERRORS, _FAILURE, _OUTPUT = "environment.json", "errors.log", ".failure.json", ".output"
CONCLUSIONS, AGREEMENT = "conclusions.txt", "agreement.csv"
_RESULTS = (CONFIG, ENVIRONMENT, CSV, PARQUET, CONCLUSIONS, AGREEMENT, _ERRORS, CELLS)
_OURS = (*_RESULTS, REPORT_HTML, REPORT_MARKDOWN, REPORT_FILES)
_MOST_OUTPUT = 20_000
"""How many bytes of a crashed process's output are kept."""


class ComparisonFolder:
    """The files of one comparison.

    Args:
        path: the folder.

    Raises:
        UsageError: it holds something else.
        CircuitKitError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self._owned = OwnedFolder(path, "comparison", _OURS, {REPORT_FILES: IN_REPORT_FILES})
        self.path = self._owned.path
        self._known: dict[str, str] = {}

    @contextmanager
    def open(self, config: Mapping[str, Any], environment: Mapping[str, Any], how: str | None) -> Iterator[None]:
        """Create or continue the comparison, and keep other processes out.

        Args:
            config: the resolved grid.
            environment: of this process.
            how: `resume` or `overwrite` allows a comparison that the folder already holds.

        Raises:
            UsageError: the folder holds a comparison that may not be used, or another process is writing to it.
            CircuitKitError: it cannot be written.
        """
        with self._owned.hold():
            self._check(how)
            try:
                if how == "overwrite":
                    self._clear()
                (self.path / CELLS).mkdir(exist_ok=True)
                for file in (self.path / CELLS).glob(f"*{_OUTPUT}"):
                    file.unlink()  # of a process that was killed
            except OSError as error:
                raise cannot_write(self.path, error) from error
            write_atomically(self.path / ENVIRONMENT, to_json({"version": VERSION, **environment}))
            write_atomically(self.path / CONFIG, to_yaml(config).encode())
            self._known = {folder.name[-8:]: folder.name for folder in self._run_folders()}
            yield

    def _check(self, how: str | None) -> None:
        found = [name for name in _RESULTS if (self.path / name).exists()]
        if not found or how == "overwrite":
            return
        where = repr(str(self.path))
        if how is None:
            raise UsageError(
                f"The folder {where} already holds results ({found[0]}).",
                "Continue that comparison with --resume (resume=True), replace it with --overwrite (overwrite=True), "
                "or give another folder.",
            )
        environment = self.path / ENVIRONMENT
        version = read_json(environment).get("version") if environment.exists() else None
        if version != VERSION:
            raise UsageError(
                f"The folder {where} holds a comparison in files of version {version or 1}, not {VERSION}.",
                "Give another folder, or replace the comparison with --overwrite.",
            )

    def _run_folders(self) -> list[Path]:
        return sorted(path for path in (self.path / CELLS).glob("*") if path.is_dir())

    def _clear(self) -> None:
        """Remove an earlier comparison; nothing is removed if there are files of others among its cells."""
        cells, files = self._run_folders(), [file for file in (self.path / CELLS).glob("*") if not file.is_dir()]
        for file in files:
            if not file.name.endswith((_FAILURE, _OUTPUT, ".tmp")):
                raise UsageError(f"{file} is not a file of this comparison.", "Move it away, or give another folder.")
        for cell in cells:
            RunFolder(cell, overwrite=True)  # refuses other files
        for cell in cells:
            shutil.rmtree(cell)
        for file in files:
            file.unlink()
        shutil.rmtree(self.path / REPORT_FILES, ignore_errors=True)
        for name in _OURS:
            if name == CELLS and (self.path / name).exists():
                (self.path / name).rmdir()  # fails if there is something else in it
            else:
                (self.path / name).unlink(missing_ok=True)

    def folder_of(self, cell: Cell) -> Path:
        """Return the cell's run folder; a cell that had other labels earlier keeps its folder."""
        return self.path / CELLS / self._known.setdefault(cell.key, cell.name)

    def column(self, cell: Cell) -> str:
        """Return the cell's run folder as the rows have it."""
        return f"{CELLS}/{self.folder_of(cell).name}"

    def output_of(self, cell: Cell) -> Path:
        """Return the file for what the cell's process prints."""
        folder = self.folder_of(cell)
        return folder.with_name(f".{folder.name}{_OUTPUT}")

    def load(self, cell: Cell) -> Result | None:
        """Load a cell's finished result; None if there is none, or one that does not fit, which its run will refuse."""
        folder = self.folder_of(cell)
        if not folder.exists():
            return None
        finish_writing(folder)
        if not (folder / RESULT).exists():
            return None
        try:
            result = Result.load(folder)
            check_same_config(folder, {name: result.config.get(name) for name in cell.config}, cell.config)
        except CircuitKitError:
            return None
        return result

    def record_failure(self, cell: Cell, reason: str, log: str = "") -> None:
        """Write down why a cell has failed, and append to `errors.log`.

        Args:
            cell: the cell.
            reason: one line.
            log: a traceback; empty: none.
        """
        found = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **cell.labels, "error": reason}
        write_atomically(self._failure_of(cell), to_json(found))
        if log:
            try:
                with (self.path / _ERRORS).open("a", encoding="utf-8") as file:
                    file.write(f"{found['time']} {cell}: {reason}\n{log.rstrip()}\n\n")
            except OSError as error:
                raise cannot_write(self.path / _ERRORS, error) from error

    def forget_failure(self, cell: Cell) -> None:
        """Remove the record of an earlier failure of a cell, which is now finished."""
        self._failure_of(cell).unlink(missing_ok=True)

    def take_output(self, cell: Cell) -> str:
        """Return the end of what a cell's process has printed, and remove it."""
        file = self.output_of(cell)
        try:
            data = file.read_bytes()[-_MOST_OUTPUT:]
            file.unlink()
        except OSError:
            return ""
        return data.decode(errors="replace")

    def write_tables(self, rows: Iterable[Row]) -> None:
        """Rewrite `results.csv` and `results.parquet`."""
        frame, parquet = to_frame(rows), io.BytesIO()
        frame.to_parquet(parquet, index=False)
        write_atomically(self.path / CSV, to_csv_text(frame).encode())
        write_atomically(self.path / PARQUET, parquet.getvalue())

    def write_conclusions(self, sentences: Sequence[str], agreement: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite `conclusions.txt` and `agreement.csv`."""
        write_atomically(self.path / CONCLUSIONS, "".join(f"{said}\n" for said in sentences).encode())
        write_atomically(self.path / AGREEMENT, to_csv(agreement, AGREEMENT_COLUMNS).encode())

    def forget_conclusions(self) -> None:
        """Remove the conclusions of an earlier process, since cells that they do not know are about to run."""
        for name in (CONCLUSIONS, AGREEMENT):
            (self.path / name).unlink(missing_ok=True)

    def _failure_of(self, cell: Cell) -> Path:
        folder = self.folder_of(cell)
        return folder.with_name(f"{folder.name}{_FAILURE}")


def read_comparison(folder: Path) -> tuple[list[Row], list[str]]:
    """Read the rows of a comparison, finished or not, and the lines of its conclusions; other files are let be.

    Raises:
        UsageError: the folder holds no comparison, or one of another version.
        CircuitKitError: a file cannot be read.
    """
    if not (folder / ENVIRONMENT).exists() or not (folder / CELLS).is_dir():
        if (folder / RESULT).exists():
            raise UsageError(f"{str(folder)!r} holds a run, not a comparison.", "Read it with `Result.load`.")
        missing = "it does not exist" if not folder.exists() else f"it has no {ENVIRONMENT} and {CELLS}"
        problem = f"{str(folder)!r} is not a comparison: {missing}."
        raise UsageError(problem, "Give a folder that `circuitkit compare --out` wrote.")
    _check_version(folder)
    conclusions = folder / CONCLUSIONS
    lines = read_bytes(conclusions).decode(errors="replace").splitlines() if conclusions.exists() else []
    if not (folder / PARQUET).exists():
        return [], lines
    try:
        return from_parquet(read_bytes(folder / PARQUET)), lines
    except ValueError as error:
        problem = f"{folder / PARQUET} is damaged: {error}."
        raise CircuitKitError(problem, "Continue the comparison with --resume, which writes it again.") from error


def _check_version(path: Path) -> None:
    environment = path / ENVIRONMENT
    version = read_json(environment).get("version") if environment.exists() else None
    if version != VERSION:
        raise UsageError(
            f"The folder {str(path)!r} holds a comparison in files of version {version or 1}, not {VERSION}.",
            "Give another folder, or replace the comparison with --overwrite.",
        )


def reproduce_command(folder: str | Path) -> str:
    """Return the command that repeats the run of a folder, with its evaluation and memory budget."""
    config = shlex.quote(os.path.join(folder, CONFIG))  # noqa: PTH118  text
    return f"circuitkit discover --config {config} --out NEW"
