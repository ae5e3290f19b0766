"""What a page shows: everything that is read from the folder of a comparison or of a run.

A run is a comparison of one cell. Rows come from `results.parquet`; results, which take time and memory, are loaded of
the cells alone whose circuits and prompts the page shows. Nothing that the files name is imported.
"""

import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Self

import pandas as pd

from circuitkit.comparison.comparison_folder import (
    AGREEMENT,
    CELLS,
    CONCLUSIONS,
    ENVIRONMENT,
    PARQUET,
    reproduce_command,
)
from circuitkit.comparison.conclusions import AGREEMENT_COLUMNS
from circuitkit.comparison.grid import Cell, Options
from circuitkit.comparison.rows import COLUMNS, is_evaluated, rows_of, to_frame
from circuitkit.config import specs
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.sizes import SIZES
from circuitkit.page.cell_folders import check_files, find_link, find_problem
from circuitkit.page.grid_labels import LABELS, RANDOM, list_controls, list_labels
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.run.result import DamagedAnswersError, Result
from circuitkit.run.run_folder import CONFIG, RESULT
from circuitkit.storage.files import read_bytes, read_json, to_path
from circuitkit.storage.owned_folder import MANIFEST
from circuitkit.storage.text import read_yaml

_MOST_NAMED = 3
"""With more models or tasks, the title has their number; of so many cells that are lost, notes have the folders."""
MOST_RESULTS = 24
"""How many results are loaded at most."""


State = Literal["finished", "failed", "unfinished", "lost"]


@dataclass(frozen=True)
class PageCell:
    """A cell of the grid.

    Attributes:
        labels: the first columns of its rows: `model`, `task`, `strategy`, `precision`, `objective`, `seed`.
        folder: its run folder, as the column `folder` has it; empty for a cell that has not begun; `.` for a run.
        state: what has become of it; `lost`: it has rows, but its result is not in its folder any more.
        error: why it has failed, or is lost; empty otherwise.
        reproduce: the command that repeats its run or, of one without a result, that continues the comparison; empty
            for a lost one.
    """

    labels: Mapping[str, Any]
    folder: str
    state: State
    error: str
    reproduce: str


@dataclass(frozen=True)
class Content:
    """Everything that a page shows.

    Attributes:
        kind: what the folder holds.
        title: of the page.
        folder: the folder, as it was given.
        frame: the rows, with the columns `comparison.rows.COLUMNS`; empty for a run without evaluation.
        cells: every cell of the grid, in its order.
        agreement: `agreement.csv`; empty where there is none.
        conclusions: the lines of `conclusions.txt`.
        config: the text of `config.yaml`.
        environment: versions, machine and time.
        results: by `folder`, of the cells whose circuits and prompts are shown: the first seed that is there of each
            model, task, objective, strategy and precision, the best first and in turn from each model, task and
            objective; at most `MOST_RESULTS`.
        controls: the labels of strategies that choose edges at random.
        notes: what could not be read, or is not there.
    """

    kind: Literal["comparison", "run"]
    title: str
    folder: Path
    frame: pd.DataFrame
    cells: list[PageCell]
    agreement: pd.DataFrame
    conclusions: list[str]
    config: str
    environment: Mapping[str, Any]
    results: Mapping[str, Result]
    controls: frozenset[str] = frozenset({CONTROL})
    notes: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a comparison's folder or a run's, finished or not.

        Raises:
            UsageError: it is neither, or a file in it is a link out of it.
            CircuitKitError: a file is damaged, or cannot be read.
        """
        if folder == "":
            raise UsageError("The folder has an empty name.", "Give its name, or . for the current folder.")
        folder = to_path(folder)
        kind = _tell_kind(folder)
        check_files(folder)
        return cls(
            folder=folder, kind=kind, **(_read_comparison(folder) if kind == "comparison" else _read_run(folder))
        )

    def cell_of(self, folder: str) -> PageCell:
        """Return the first cell with this run folder."""
        return next(cell for cell in self.cells if cell.folder == folder)


def read_frame(path: Path) -> pd.DataFrame:
    """Read `results.parquet`.

    Raises:
        CircuitKitError: it is damaged, or of another version.
    """
    data = read_bytes(path)
    try:
        frame = pd.read_parquet(io.BytesIO(data))
        return frame[list(COLUMNS)].astype(dict(COLUMNS))
    except Exception as error:  # pyarrow raises many kinds
        raise CircuitKitError(
            f"{path} is damaged, or of another version.",
            f"Write it again with `{_continue(path.parent)}`.",
        ) from error


def _tell_kind(folder: Path) -> Literal["comparison", "run"]:
    try:
        names = {file.name for file in folder.iterdir()}
    except FileNotFoundError as error:
        raise UsageError(f"There is no folder {str(folder)!r}.", "Check the path.") from error
    except NotADirectoryError as error:
        raise UsageError(f"{str(folder)!r} is not a folder.", "Give the folder of a comparison or of a run.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{str(folder)!r} cannot be read: {why}.", "Check the path and its permissions.") from error
    if names & {CELLS, PARQUET}:
        return "comparison"
    kind = read_json(folder / MANIFEST).get("kind") if MANIFEST in names else None
    if RESULT in names or kind == "run":
        return "run"
    raise UsageError(
        f"{str(folder)!r} holds neither a comparison nor a run.",
        "Give a folder that `circuitkit compare --out` or `circuitkit discover --out` wrote.",
    )


def _read_comparison(folder: Path) -> dict[str, Any]:
    notes: list[str] = []
    controls = frozenset({CONTROL})
    frame = read_frame(folder / PARQUET) if (folder / PARQUET).exists() else to_frame([])
    config, cells = "", list(_known_cells(folder, frame).values())
    if (folder / CONFIG).exists():
        parsed = read_yaml(folder / CONFIG)
        config = read_bytes(folder / CONFIG).decode()
        cells = _all_cells(folder, frame, parsed)
        controls |= list_controls(parsed)
    else:
        notes.append(f"{CONFIG} is missing: cells without a result are not listed.")
    notes += _describe_lost(cells)
    conclusions = folder / CONCLUSIONS
    there = {cell.folder for cell in cells if cell.state == "finished"}
    models, tasks = (_enumerate(name, [str(cell.labels[name]) for cell in cells]) for name in LABELS[:2])
    return {
        "title": f"Circuits for {tasks} in {models}" if cells else "Circuits",
        "frame": frame,
        "cells": cells,
        "agreement": _read_agreement(folder / AGREEMENT),
        "conclusions": read_bytes(conclusions).decode(errors="replace").splitlines() if conclusions.exists() else [],
        "config": config,
        "environment": read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).exists() else {},
        "results": _load_results(folder, frame[frame["folder"].isin(there)], notes),
        "controls": controls,
        "notes": notes,
    }


def _enumerate(what: str, labels: Sequence[str]) -> str:
    found = list(dict.fromkeys(labels))
    return f"{len(found)} {what}s" if len(found) > _MOST_NAMED else " and ".join(found)


def _read_run(folder: Path) -> dict[str, Any]:
    cell = PageCell({}, ".", "unfinished", "", "")
    found: dict[str, Any] = {
        "title": "A run that is not finished",
        "frame": to_frame([]),
        "agreement": pd.DataFrame(columns=list(AGREEMENT_COLUMNS)),
        "conclusions": [],
        "config": read_bytes(folder / CONFIG).decode(errors="replace") if (folder / CONFIG).exists() else "",
        "environment": {},
        "results": {},
    }
    if not (folder / RESULT).exists():
        say = f"The run has no {RESULT}: it runs still, or was interrupted. Continue it with --resume."
        return found | {"cells": [cell], "notes": [say]}
    notes: list[str] = []
    result = _load_result(folder, notes)
    labels = _label(result)
    cell = PageCell(labels, ".", "finished", "", reproduce_command(folder))
    if is_evaluated(result):
        found["frame"] = to_frame(rows_of(_as_cell(labels, result), ".", result))
    else:
        only = f" (only on {', '.join(result.evaluations)})" if result.evaluations else ""
        sizes = " --sizes null" if result.config.get("sizes") == [] else ""  # which evaluates nothing
        again = f"{reproduce_command(folder)} --splits '[train,test]'{sizes}"
        notes.append(
            f"The run was {say_unevaluated(result)}{only}, so there are no figures. Repeat it with them: {again}"
        )
    return found | {
        "title": f"{labels['strategy']} on {labels['task']} in {labels['model']}",
        "cells": [cell],
        "environment": result.environment,
        "results": {".": result},
        "controls": frozenset({labels["strategy"]} if result.config["strategy"]["class_path"].endswith(RANDOM) else ()),
        "notes": notes,
    }


def say_unevaluated(result: Result) -> str:
    """Say of a result without figures on which prompts it was not evaluated."""
    return f"not evaluated on {'both found-on and ' * ('test' in result.evaluations)}held-out prompts"


def _label(result: Result) -> dict[str, Any]:
    kinds = {"task": "tasks", "strategy": "strategies", "precision": "precision", "objective": "objectives"}
    config = result.config
    labels = {name: specs.label(kind, config[name]) for name, kind in kinds.items()}
    return {name: labels.get(name, config.get(name)) for name in LABELS}


def _as_cell(labels: Mapping[str, Any], result: Result) -> Cell:
    options = Options(result.config["examples"], SIZES, result.config["ablation"])
    return Cell(**labels, model_spec={}, precision_spec=None, config=result.config, options=options)


def _read_agreement(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(AGREEMENT_COLUMNS))
    data = read_bytes(path)
    try:
        frame = pd.read_csv(io.BytesIO(data), keep_default_na=False, na_values=[""])
        return frame[list(AGREEMENT_COLUMNS)]
    except (ValueError, KeyError) as error:
        raise CircuitKitError(f"{path} is damaged.", f"Write it again with `{_continue(path.parent)}`.") from error


def _known_cells(folder: Path, frame: pd.DataFrame) -> dict[tuple[Any, ...], PageCell]:
    """Return the cells that have rows, by their labels."""
    names = [*LABELS, "folder", "error"]
    first = frame[names].drop_duplicates(list(LABELS))
    cells = {}
    for row in first.to_dict("records"):
        labels = {name: row[name] for name in LABELS}
        cells[tuple(labels.values())] = _make_cell(folder, labels, str(row["folder"]), str(row["error"] or ""))
    return cells


def _make_cell(folder: Path, labels: Mapping[str, Any], name: str, error: str) -> PageCell:
    if error:
        return PageCell(labels, name, "failed", error, _continue(folder))
    if lost := find_problem(folder, name):
        return PageCell(labels, name, "lost", lost, "")
    return PageCell(labels, name, "finished", "", reproduce_command(folder / name))


def _all_cells(folder: Path, frame: pd.DataFrame, config: Mapping[str, Any]) -> list[PageCell]:
    known = _known_cells(folder, frame)
    try:
        listed = list_labels(config, [cell.labels for cell in known.values()])
    except ValueError as error:
        raise CircuitKitError(f"{folder / CONFIG} is damaged: {error}.", "Give an undamaged comparison.") from error
    return [
        known.get(tuple(labels.values())) or PageCell(labels, "", "unfinished", "", _continue(folder))
        for labels in listed
    ]


def _describe_lost(cells: Sequence[PageCell]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for cell in cells:
        if cell.state == "lost":
            by_reason.setdefault(cell.error, []).append(cell.folder)
    return [
        f"The result of {len(names)} cell{'s' * (len(names) != 1)} was not read, and the figures are those of "
        f"{PARQUET}: {reason} ({', '.join(names[:_MOST_NAMED])}{', ...' * (len(names) > _MOST_NAMED)})."
        for reason, names in by_reason.items()
    ]


def _continue(folder: Path) -> str:
    return f"circuitkit compare --out {shlex.quote(str(folder))} --resume"


def _load_results(folder: Path, frame: pd.DataFrame, notes: list[str]) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for name in choose_shown(frame):
        if len(found) == MOST_RESULTS:
            break
        if link := find_link(folder / name):
            notes.append(f"The result in {name} cannot be shown: {link} is a link out of its folder.")
            continue
        try:
            found[name] = _load_result(folder / name, notes)
        except CircuitKitError as error:
            notes.append(f"The result in {name} cannot be shown: {error}")
    return found


def _load_result(folder: Path, notes: list[str]) -> Result:
    """Load a result, without its answers where these are damaged."""
    try:
        return Result.load(folder)
    except DamagedAnswersError as error:
        notes.append(f"The answers are not shown: {error.problem}")
        return error.result


def choose_shown(frame: pd.DataFrame) -> list[str]:
    """Choose the cells whose results are shown, and their order: see `Content.results`."""
    done = frame[frame["error"] == ""]
    if done.empty:
        return []
    group, method = ["model", "task", "objective"], ["strategy", "precision"]
    first = done[done["seed"] == done.groupby([*group, *method])["seed"].transform("min")]
    first = first.assign(distance=(1 - first["faithfulness_test"]).abs().where(first["ranking"] == "absolute"))
    means = first.groupby([*group, *method, "folder"], sort=False)["distance"].mean().reset_index()
    ordered = means.sort_values("distance", kind="stable")
    of_groups: Sequence[list[str]] = [list(part["folder"]) for _, part in ordered.groupby(group, sort=False)]
    return list(dict.fromkeys(name for turn in zip_longest(*of_groups) for name in turn if name is not None))


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dicts of plain values, with None for what is missing."""
    columns = {
        str(name): [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for name, column in frame.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
