"""The rows of `results.csv` and `results.parquet`: what of a result goes into which column."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from circuitkit.comparison.grid import Cell
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluation import Evaluation, Point, Ranking
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.measures import ACCURACY
from circuitkit.report.comparison_tables import NOTES
from circuitkit.run.content import CONTENT
from circuitkit.storage.text import as_cell, to_finite

if TYPE_CHECKING:  # the constructor of a grid needs no pandas, and `--help` no second to import it
    from pandas import DataFrame

    from circuitkit.run.result import Result

_TEXT, _INTEGER, _NUMBER = "string", "Int64", "float64"
_SPLITS = ("train", "test")


def _figure_columns(*names: str) -> dict[str, str]:
    return {f"{name}{end}": _NUMBER for name in names for end in ("", "_low", "_high")}


def _faithfulness(measure: str, split: str) -> str:
    return f"{measure}faithfulness_{split}"


COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("model", "task", "strategy", "precision", "objective"), _TEXT),
    "seed": _INTEGER,
    **dict.fromkeys(("operating_point", "ranking"), _TEXT),
    "fraction": _NUMBER,
    **dict.fromkeys(("edges_asked", "edges"), _INTEGER),
    **_figure_columns(
        *(_faithfulness(measure, split) for measure in ("", "logit_difference_", "kl_") for split in _SPLITS)
    ),
    **_figure_columns("accuracy_circuit", "accuracy_model", "logit_difference", "logit_difference_model", "kl"),
    **_figure_columns("accuracy_circuit_train", "accuracy_model_train"),
    **_figure_columns("cpr", "cmd"),
    **dict.fromkeys(("value", "full", "ablated"), _NUMBER),
    **dict.fromkeys(("prompts_train", "prompts_test", "edges_tested"), _INTEGER),
    **dict.fromkeys(("forward_equivalents", "wall_s", "evaluation_s", "peak_mb"), _NUMBER),
    **dict.fromkeys(("prompts_test_hash", "notes", "error", "folder"), _TEXT),
}
"""Columns and their types, as pandas names them; all are always there, and in this order. `X_low` and `X_high` are the
ends of the 95% interval of `X` over prompts; empty where it is not known.

- `model` to `seed`: the labels of the cell. The random control's strategy is `random control`.
- `operating_point`: how the circuit was selected, such as its threshold.
- `ranking`: how the edges of this row were chosen: `signed` (CPR's) or `absolute` (CMD's) score, `own` for the edges
  that the method chose itself, `complement` for all but these.
- `fraction`: the requested fraction of the edges; `edges_asked`: that number of edges; `edges`: the number left after
  unconnected ones were dropped.
- `faithfulness_train`, `faithfulness_test`: in the searched objective, on the prompts on which the circuit was found
  and on held-out ones; 1 for the full model, 0 for the ablated one. `logit_difference_faithfulness_...` and
  `kl_faithfulness_...`: likewise in the logit difference and in the KL divergence from the full model.
- `accuracy_circuit`, `accuracy_model`: the fraction of the answers that beat every wrong answer, on test;
  `..._train`: on train. `logit_difference`, `logit_difference_model` (logits), `kl` (nats): means on test.
- `cpr`, `cmd`: the areas of this row's ranking on test (MIB's pair: CPR of `signed`, CMD of `absolute`).
- `value`, `full`, `ablated`: the searched objective of this circuit, of the full model and of the ablated one, on test.
- `prompts_train`, `prompts_test`: numbers of prompts.
- `edges_tested`, `forward_equivalents` (compute, in forward passes), `wall_s` (seconds), `peak_mb` (2**20 bytes): the
  cost of the cell's discovery; `evaluation_s` (seconds): of its evaluation. In each of the cell's rows.
- `prompts_test_hash`: equal for rows that were measured on the same test prompts.
- `notes`: caveats of the discovery and of its evaluations, separated by ` | `.
- `error`: why the cell has no result; empty otherwise.
- `folder`: the cell's run folder, relative to the comparison's.

In `results.csv`, a text that begins with `=`, `+`, `-` or `@` has a `'` before it: labels, notes and errors come from
outside, and a spreadsheet would compute such a text. `results.parquet` has every text as it is.
"""
_RANKINGS: tuple[Ranking, ...] = ("signed", "absolute", "own", "complement")

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
    if not is_evaluated(result):
        why = next((note for note in result.notes if "could not be evaluated" in note), "The cell was not evaluated.")
        raise CircuitKitError(why, f"Its circuits are in {folder}.")
    names = ("edges_tested", "forward_equivalents", "wall_s", "peak_mb")
    cost = {name: result.metrics.get(name) for name in names}
    cost["evaluation_s"] = sum(one.seconds for found in result.evaluations.values() for one in found)
    return [_complete(cell, folder, row | cost) for row in _figures(result)]


def is_evaluated(result: "Result") -> bool:
    """Tell whether a result has the evaluations that rows are made of."""
    return all(split in result.evaluations for split in _SPLITS)


def failure_row(cell: Cell, folder: str, error: str) -> Row:
    """Make the one row of a cell that has failed."""
    return _complete(cell, folder, {"error": error})


def to_frame(rows: Iterable[Row]) -> "DataFrame":
    """Make a table of rows, with the types of `COLUMNS`."""
    from pandas import DataFrame

    found = list(rows)
    return DataFrame({name: [row[name] for row in found] for name in COLUMNS}).astype(dict(COLUMNS))


def from_parquet(data: bytes) -> list[Row]:
    """Read the rows of `results.parquet`.

    Raises:
        ValueError: it is no Parquet file, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {_TEXT: pa.string(), _INTEGER: pa.int64(), _NUMBER: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    try:
        rows: list[Row] = pq.read_table(pa.BufferReader(data)).cast(schema).to_pylist()
    except (pa.ArrowException, OSError) as error:
        why = str(error).partition("\n")[0][:200].rstrip(".")
        raise ValueError(f"it is no table of a comparison ({why})") from error
    return rows


def to_csv_text(frame: "DataFrame") -> str:
    """Write a table of rows as CSV, with texts that no spreadsheet takes for a formula (`storage.text.as_cell`)."""
    texts = {name: frame[name].map(as_cell) for name, kind in COLUMNS.items() if kind == _TEXT}
    return frame.assign(**texts).to_csv(index=False, lineterminator="\n")


def _complete(cell: Cell, folder: str, row: Row) -> Row:
    empty: Row = {name: "" if kind == _TEXT else None for name, kind in COLUMNS.items()}
    finite: Row = to_finite(row)
    return empty | cell.labels | {"folder": folder} | finite


def _figures(result: "Result") -> Iterator[Row]:
    wanted = result.config.get("faithfulness")
    for circuit, *found in zip(result.circuits, *(result.evaluations[split] for split in _SPLITS), strict=True):
        train, test = found
        shared: Row = {
            "operating_point": circuit.selection if wanted is None else f"faithfulness {wanted:g}",
            "prompts_test_hash": str(result.config.get(CONTENT, {}).get("test", ""))[:12],
            "prompts_train": train.prompts,
            "prompts_test": test.prompts,
        }
        shared["notes"] = NOTES.join(dict.fromkeys([*result.notes, *train.notes, *test.notes]))
        for number, point in enumerate(test.points):
            if point.ranking in _RANKINGS:
                yield shared | _point(point, test) | _of_splits({"train": train, "test": test}, number)


def _point(point: Point, test: Evaluation) -> Row:
    """Return what a row has of the test split alone."""
    names = ("ranking", "fraction", "edges_asked", "edges", "value")
    row: Row = {name: getattr(point, name) for name in names}
    row |= {end: getattr(test, end)[test.objective].value for end in ("full", "ablated")}
    if areas := test.areas.get(point.ranking):
        row |= _spread("cpr", areas.cpr) | _spread("cmd", areas.cmd)
    if (name := "logit_difference") in point.measures:
        row |= _spread(name, _negate(point.measures[name].value)) | _spread(f"{name}_model", _negate(test.full[name]))
    if "kl" in point.measures:
        row |= _spread("kl", point.measures["kl"].value)
    return row


def _of_splits(evaluations: Mapping[str, Evaluation], number: int) -> Row:
    """Return what a row has of each split: faithfulness and accuracy of point `number`."""
    row: Row = {}
    for split, evaluation in evaluations.items():
        point = evaluation.points[number]
        row |= _spread(_faithfulness("", split), point.searched.faithfulness)
        for name in ("logit_difference", "kl"):
            if name in point.measures:
                row |= _spread(_faithfulness(f"{name}_", split), point.measures[name].faithfulness)
        if ACCURACY in point.measures:
            end = "_train" if split == "train" else ""
            row |= _spread(f"accuracy_circuit{end}", point.measures[ACCURACY].value)
            row |= _spread(f"accuracy_model{end}", evaluation.full[ACCURACY])
    return row


def _spread(name: str, figure: Figure | None) -> Row:
    value, low, high = figure or (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _negate(figure: Figure) -> Figure:
    """Turn the objective, which is lower for a better circuit, into the logit difference."""
    value, high, low = (None if one is None else -one for one in figure)
    return Figure(value, low, high)
