"""The value of every prompt in every evaluation of a run, as one table: a Parquet file that pandas reads."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.measures import Values

_LABELS = ("split", "ranking", "measure", "template")
_ENDS = ("full", "ablated")


def write_prompt_table(evaluations: Mapping[str, Sequence[Evaluation]]) -> bytes:
    """Write a row per split, circuit, point, measure and prompt, as a Parquet file.

    Columns: `split`; `circuit`, its number from 1; `ranking`, `fraction` and `edges` as in `Point`, where the circuit
    without a sampled edge has the ranking `without EDGE` (its `edges` are all others, unconnected ones too), and the
    full and the ablated model `full` and `ablated`; `measure`; `prompt`, its number from 0; `template`, empty if the
    prompts have none; `value`.

    Args:
        evaluations: by split, one per circuit.
    """
    tables = [
        _table(split, number, evaluation)
        for split, found in evaluations.items()
        for number, evaluation in enumerate(found, 1)
    ]
    file = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), file, compression="zstd")
    return file.getvalue()


def _table(split: str, number: int, evaluation: Evaluation) -> pa.Table:
    points, sampled = evaluation.points, evaluation.minimality
    rankings = [*(point.ranking for point in points), *(f"without {one.edge}" for one in sampled), *_ENDS]
    fractions = [*(point.fraction for point in points), *(None for _ in sampled), 1.0, 0.0]
    own = [point.edges_asked - 1 for point in evaluation.curve("own")]
    edges = [*(point.edges for point in points), *(own * len(sampled)), None, 0]
    prompts, rows, measures = evaluation.prompts, len(rankings), list(evaluation.values)
    templates = list(evaluation.templates) or [""] * prompts
    count = rows * prompts * len(measures)

    def repeat(values: Sequence[Any], each: int) -> list[Any]:
        """Repeat each value, and all of them to fill the column."""
        found = [value for value in values for _ in range(each)]
        return found * (count // len(found))

    columns = {
        "split": [split] * count,
        "circuit": pa.array([number] * count, pa.int32()),
        "ranking": repeat(rankings, prompts),
        "fraction": pa.array(repeat(fractions, prompts), pa.float64()),
        "edges": pa.array(repeat(edges, prompts), pa.int64()),
        "measure": repeat(measures, rows * prompts),
        "prompt": pa.array(repeat(range(prompts), 1), pa.int32()),
        "template": repeat(templates, 1),
        "value": pa.array(np.concatenate([evaluation.values[name].reshape(-1) for name in measures])),
    }
    labels = {name: pa.array(columns[name]).dictionary_encode() for name in _LABELS}
    return pa.table(columns | labels)


class PromptValues:
    """The values of a file that `write_prompt_table` made, taken evaluation by evaluation in the order of writing.

    Args:
        data: the file's content.

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, data: bytes) -> None:
        try:
            table = pq.read_table(io.BytesIO(data), columns=["value"])
            self._values: np.ndarray = table.column("value").to_numpy().astype(np.float64)
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise ValueError(f"it is no Parquet file of values ({type(error).__name__})") from error
        self._taken = 0

    def take(self, measures: Sequence[str], circuits: int, prompts: int) -> Values:
        """Take the values of the next evaluation, by measure `[circuits + 2, prompts]`.

        Args:
            measures: their names.
            circuits: how many were measured: points, and edges of `minimality`.
            prompts: how many.

        Raises:
            ValueError: there are fewer.
        """
        each = (circuits + len(_ENDS)) * prompts
        wanted = self._values[self._taken : self._taken + each * len(measures)]
        if prompts < 1 or len(wanted) != each * len(measures):
            raise ValueError("it has fewer values than the evaluations in result.json")
        self._taken += len(wanted)
        parts = wanted.reshape(len(measures), circuits + len(_ENDS), prompts)
        return dict(zip(measures, parts, strict=True))

    def finish(self) -> None:
        """Check that every value was taken.

        Raises:
            ValueError: some are left.
        """
        if self._taken != len(self._values):
            raise ValueError("it has more values than the evaluations in result.json")
