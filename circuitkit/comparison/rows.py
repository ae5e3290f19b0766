"""The rows of `results.csv` and `results.parquet`: what of a result goes into which column."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from circuitkit.comparison.grid import Cell
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.columns import INTEGER, NUMBER, TEXT, figure_columns, make_frame
from circuitkit.evaluation.evaluation import Ranking
from circuitkit.report.comparison_tables import NOTES
from circuitkit.report.result_table import operating_point
from circuitkit.run.content import CONTENT
from circuitkit.storage.text import as_cell, to_finite

if TYPE_CHECKING:  # the constructor of a grid needs no pandas, and `--help` no second to import it
    from pandas import DataFrame

    from circuitkit.run.result import Result

_SPLITS = ("train", "test")
_MEASURES, _ENDS = ("", "logit_difference_", "kl_"), ("", "_low", "_high")
_ACCURACIES = ("accuracy_circuit", "accuracy_model")


def _faithfulness(measure: str, split: str) -> str:
    return f"{measure}faithfulness_{split}"


COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("model", "task", "strategy", "precision", "objective"), TEXT),
    "seed": INTEGER,
    **dict.fromkeys(("operating_point", "ranking"), TEXT),
    "fraction": NUMBER,
    **dict.fromkeys(("edges_asked", "edges"), INTEGER),
    **figure_columns(*(_faithfulness(measure, split) for measure in _MEASURES for split in _SPLITS)),
    **figure_columns("accuracy_circuit", "accuracy_model", "logit_difference", "logit_difference_model", "kl"),
    **figure_columns("accuracy_circuit_train", "accuracy_model_train"),
    **figure_columns("cpr", "cmd"),
    **dict.fromkeys(("value", "full", "ablated"), NUMBER),
    **dict.fromkeys(("prompts_train", "prompts_test", "edges_tested"), INTEGER),
    **dict.fromkeys(("forward_equivalents", "wall_s", "evaluation_s", "peak_mb"), NUMBER),
    **dict.fromkeys(("prompts_test_hash", "notes", "error", "folder"), TEXT),
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
    return make_frame(rows, COLUMNS)


def from_parquet(data: bytes) -> list[Row]:
    """Read the rows of `results.parquet`.

    Raises:
        ValueError: it is no Parquet file, or has other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {TEXT: pa.string(), INTEGER: pa.int64(), NUMBER: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    try:
        rows: list[Row] = pq.read_table(pa.BufferReader(data)).cast(schema).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: other columns
        why = str(error).partition("\n")[0][:200].rstrip(".")
        raise ValueError(f"it is no table of a comparison ({why})") from error
    return rows


def to_csv_text(frame: "DataFrame") -> str:
    """Write a table of rows as CSV, with texts that no spreadsheet takes for a formula (`storage.text.as_cell`)."""
    texts = {name: frame[name].map(as_cell) for name, kind in COLUMNS.items() if kind == TEXT}
    return frame.assign(**texts).to_csv(index=False, lineterminator="\n")


def _complete(cell: Cell, folder: str, row: Row) -> Row:
    empty: Row = {name: "" if kind == TEXT else None for name, kind in COLUMNS.items()}
    finite: Row = to_finite(row)
    return empty | cell.labels | {"folder": folder} | finite


def _figures(result: "Result") -> Iterator[Row]:
    for circuit, *found in zip(result.circuits, *(result.evaluations[split] for split in _SPLITS), strict=True):
        train, test = found
        shared: Row = {
            "operating_point": operating_point(circuit, result.config),
            "prompts_test_hash": str(result.config.get(CONTENT, {}).get("test", ""))[:12],
            "prompts_train": train.prompts,
            "prompts_test": test.prompts,
        }
        shared["notes"] = NOTES.join(dict.fromkeys([*result.notes, *train.notes, *test.notes]))
        for of_train, of_test in zip(train.to_rows(), test.to_rows(), strict=True):
            if of_test["ranking"] in _RANKINGS:
                yield shared | _join_splits(of_train, of_test)


def _join_splits(train: Row, test: Row) -> Row:
    """Join a point's rows (`POINT_COLUMNS`) of both splits: what test has, and what there are columns of train for."""
    own = COLUMNS.keys() - {"objective"}  # of the evaluation; a comparison's is a label
    row = {name: value for name, value in test.items() if name in own}
    for split, found in (("train", train), ("test", test)):
        row |= {
            _faithfulness(measure, split) + end: found[f"{measure}faithfulness{end}"]
            for measure in _MEASURES
            for end in _ENDS
        }
    return row | {f"{name}_train{end}": train[name + end] for name in _ACCURACIES for end in _ENDS}
