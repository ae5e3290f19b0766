"""The rows of `results.csv` and `results.parquet`: what of a result goes into which column."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from circuitkit.compare.grid import Cell
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluation import Evaluation, Point, Ranking
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.measures import ACCURACY
from circuitkit.report.tables import NOTES
from circuitkit.storage.text import to_finite

if TYPE_CHECKING:  # the constructor of a grid needs no pandas, and `--help` no second to import it
    from pandas import DataFrame

    from circuitkit.run.result import Result

_TEXT, _INTEGER, _NUMBER = "string", "Int64", "float64"
COLUMNS: Mapping[str, str] = {
    "model": _TEXT,
    "task": _TEXT,
    "strategy": _TEXT,
    "precision": _TEXT,
    "objective": _TEXT,
    "seed": _INTEGER,
    "operating_point": _TEXT,
    "ranking": _TEXT,
    "fraction": _NUMBER,
    "edges": _INTEGER,
    "edges_asked": _INTEGER,
    "faithfulness_train": _NUMBER,
    "faithfulness_train_low": _NUMBER,
    "faithfulness_train_high": _NUMBER,
    "faithfulness_test": _NUMBER,
    "faithfulness_test_low": _NUMBER,
    "faithfulness_test_high": _NUMBER,
    "value": _NUMBER,
    "full": _NUMBER,
    "ablated": _NUMBER,
    "logit_difference": _NUMBER,
    "logit_difference_faithfulness": _NUMBER,
    "kl": _NUMBER,
    "kl_faithfulness": _NUMBER,
    "accuracy_circuit": _NUMBER,
    "accuracy_model": _NUMBER,
    "cpr": _NUMBER,
    "cpr_low": _NUMBER,
    "cpr_high": _NUMBER,
    "cmd": _NUMBER,
    "cmd_low": _NUMBER,
    "cmd_high": _NUMBER,
    "prompts_train": _INTEGER,
    "prompts": _INTEGER,
    "edges_tested": _INTEGER,
    "wall_s": _NUMBER,
    "peak_mb": _NUMBER,
    "evaluation_s": _NUMBER,
    "notes": _TEXT,
    "error": _TEXT,
    "folder": _TEXT,
}
"""Columns and their types, as pandas names them; all are always there, and in this order.

- `model` to `seed`: the labels of the cell. The random control's strategy is `random control`.
- `operating_point`: how the circuit was selected, such as its threshold.
- `ranking`: how the edges of this row were chosen: `signed` (CPR's) or `absolute` (CMD's) score, or `own` for the edges
  that the method chose itself.
- `fraction`: the requested fraction of the edges; `edges_asked`: that number of edges; `edges`: the number left after
  unconnected ones were dropped.
- `faithfulness_train`, `faithfulness_test`: in the searched objective, on the prompts that the circuit was found on and
  on held-out ones; 1 for the full model and 0 for the ablated one. `_low`, `_high`: 95% intervals over prompts.
- All that follows is on the test split. `value`, `full`, `ablated`: the searched objective of this circuit, of the full
  model and of the ablated one, lower is better. `logit_difference`, `kl`: these two objectives of the circuit, and its
  faithfulness in them. `accuracy_circuit`, `accuracy_model`: the fraction of prompts whose answer beats the wrong ones.
- `cpr`, `cmd`: the areas of the circuit's signed and of its absolute curve over all sizes, in each of its rows.
- `prompts_train`, `prompts`: numbers of prompts of the train and the test split.
- `wall_s` (seconds), `peak_mb` (2**20 bytes), `edges_tested`: the cost of the cell's discovery, in each of its rows;
  `evaluation_s` (seconds): of the evaluation of this circuit, on both splits.
- `notes`: caveats of the discovery and of this evaluation, separated by ` | `.
- `error`: why the cell has no result; empty otherwise.
- `folder`: the cell's run folder, relative to the comparison's.
"""
TRAIN, TEST = "train", "test"
_RANKINGS: tuple[Ranking, ...] = ("signed", "absolute", "own")

Row = dict[str, Any]


def rows_of(cell: Cell, folder: str, result: "Result") -> list[Row]:
    """Make the rows of a finished cell: one per circuit, ranking and size.

    Args:
        cell: the cell.
        folder: its folder, as the column has it.
        result: its result.

    Raises:
        CircuitKitError: the result has no evaluation.
    """
    if TEST not in result.evaluations:
        why = next((note for note in result.notes if "could not be evaluated" in note), "The cell was not evaluated.")
        raise CircuitKitError(why, f"Its circuits are in {folder}.")
    cost = {name: result.metrics.get(name) for name in ("edges_tested", "wall_s", "peak_mb")}
    return [_complete(cell, folder, row | cost) for row in _figures(result)]


def failure_row(cell: Cell, folder: str, error: str) -> Row:
    """Make the one row of a cell that has failed."""
    return _complete(cell, folder, {"error": error})


def to_frame(rows: Iterable[Row]) -> "DataFrame":
    """Make a table of rows, with the types of `COLUMNS`."""
    from pandas import DataFrame

    found = list(rows)
    return DataFrame({name: [row[name] for row in found] for name in COLUMNS}).astype(dict(COLUMNS))


def _complete(cell: Cell, folder: str, row: Row) -> Row:
    empty: Row = {name: "" if kind == _TEXT else None for name, kind in COLUMNS.items()}
    finite: Row = to_finite(row)
    return empty | cell.labels | {"folder": folder} | finite


def _figures(result: "Result") -> Iterator[Row]:
    for number, circuit in enumerate(result.circuits):
        by_split = {split: found[number] for split, found in result.evaluations.items()}
        test, train = by_split[TEST], by_split.get(TRAIN)
        notes = (note for evaluation in by_split.values() for note in evaluation.notes)
        shared: Row = {
            "operating_point": circuit.selection,
            "notes": NOTES.join(dict.fromkeys([*result.notes, *notes])),
            "evaluation_s": sum(evaluation.seconds for evaluation in by_split.values()),
            "prompts_train": None if train is None else train.prompts,
            **_areas(test),
        }
        for ranking in _RANKINGS:
            of_train = {point.fraction: point for point in train.curve(ranking)} if train else {}
            for point in test.curve(ranking):
                other = of_train.get(point.fraction)
                yield shared | _point(point, test) | ({} if other is None else _faithfulness(other, TRAIN))


def _point(point: Point, evaluation: Evaluation) -> Row:
    """Make the columns of one circuit on the test split."""
    row: Row = {name: getattr(point, name) for name in ("ranking", "fraction", "edges", "edges_asked", "value")}
    row |= {name: getattr(evaluation, name)[evaluation.objective].value for name in ("full", "ablated")}
    row |= {"prompts": evaluation.prompts, **_faithfulness(point, TEST)}
    for name in ("logit_difference", "kl"):
        if measured := point.measures.get(name):
            row |= {name: measured.value.value}
            row |= _figure(f"{name}_faithfulness", measured.faithfulness, interval=False)
    if measured := point.measures.get(ACCURACY):
        row |= {"accuracy_circuit": measured.value.value, "accuracy_model": evaluation.full[ACCURACY].value}
    return row


def _areas(evaluation: Evaluation) -> Row:
    """Make the columns of MIB's two areas: CPR is that of the signed curve, CMD that of the absolute one."""
    row: Row = {}
    if signed := evaluation.areas.get("signed"):
        row |= _figure("cpr", signed.cpr)
    if absolute := evaluation.areas.get("absolute"):
        row |= _figure("cmd", absolute.cmd)
    return row


def _faithfulness(point: Point, split: str) -> Row:
    return _figure(f"faithfulness_{split}", point.searched.faithfulness)


def _figure(name: str, figure: Figure | None, interval: bool = True) -> Row:
    if figure is None:
        return {}
    ends = {f"{name}_low": figure.low, f"{name}_high": figure.high} if interval else {}
    return {name: figure.value, **ends}
