"""Answers as a table: a Parquet file that pandas reads."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from circuitkit.evaluation.answers import Answers, CircuitReplies, PromptTexts, Reply
from circuitkit.evaluation.evaluation import Evaluation

_TEXTS, _SETS, _NUMBERS = pa.list_(pa.string()), pa.list_(pa.list_(pa.string())), pa.list_(pa.float64())
_OF_PROMPT = {
    "template": pa.string(),
    "clean": _TEXTS,
    "corrupted": _TEXTS,
    "answer_positions": pa.list_(pa.int32()),
    "answers": _SETS,
    "wrong_answers": _SETS,
}
_OF_REPLY = {"answer": _NUMBERS, "wrong_answer": _NUMBERS, "top": _TEXTS, "top_probabilities": _NUMBERS}
_LABELS = {
    "split": pa.string(),
    "circuit": pa.int32(),
    "ranking": pa.string(),
    "fraction": pa.float64(),
    "edges": pa.int64(),
    "prompt": pa.int32(),
}
_SCHEMA = pa.schema({**_LABELS, **_OF_PROMPT, **_OF_REPLY})
_TOLERANCE = 1e-3  # of probabilities: float32, over a large vocabulary


def write_answer_table(answers: Answers) -> bytes:
    """Write a row per model and prompt, as a Parquet file.

    Columns: `split`; `circuit`, its number from 1, 0 for the full model; `ranking`, `fraction` and `edges` as in
    `CircuitReplies`, where the full model has the ranking `full`; `prompt`, its number from 0; those of `PromptTexts`,
    in the rows of the full model only; those of `Reply`.
    """
    rows = [
        _label(answers.split, 0, "full", 1.0, None, number) | vars(prompt) | vars(reply)
        for number, (prompt, reply) in enumerate(zip(answers.prompts, answers.full, strict=True))
    ]
    rows += [
        _label(answers.split, one.circuit, one.ranking, one.fraction, one.edges, number) | vars(reply)
        for one in answers.circuits
        for number, reply in enumerate(one.replies)
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), file, compression="zstd")
    return file.getvalue()


def _label(*values: Any) -> dict[str, Any]:
    return dict(zip(_LABELS, values, strict=True))


def read_answer_table(data: bytes, evaluations: Mapping[str, Sequence[Evaluation]]) -> Answers:
    """Read what `write_answer_table` wrote.

    Args:
        data: the file's content.
        evaluations: of the same run, by split.

    Raises:
        ValueError: it is no such file, or not one of this run.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"it is no Parquet file of answers ({type(error).__name__})") from error
    if not table.schema.equals(_SCHEMA):
        raise ValueError("it has not the columns of a file of answers")
    for name in {*_LABELS, *_OF_REPLY} - {"edges"}:
        if table[name].null_count:
            raise ValueError(f"its column {name!r} has gaps")
    models: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        models.setdefault(row["circuit"], []).append(row)
    full = models.pop(0, [])
    split = full[0]["split"] if full else ""
    if split not in evaluations or any(row["split"] != split for rows in models.values() for row in rows):
        raise ValueError(f"it has answers of the split {split!r}, which was not evaluated")
    prompts = tuple(_read_prompt(row) for row in full)
    answers = Answers(
        split=split,
        prompts=prompts,
        full=_read_replies(full, prompts),
        circuits=tuple(_read_circuit(number, rows, prompts) for number, rows in models.items()),
    )
    _check(answers, evaluations[split])
    return answers


def _read_circuit(number: int, rows: Sequence[Mapping[str, Any]], prompts: Sequence[PromptTexts]) -> CircuitReplies:
    labels = {tuple(row[name] for name in ("ranking", "fraction", "edges")) for row in rows}
    if len(labels) != 1:
        raise ValueError(f"its circuit {number} has several sizes")
    ((ranking, fraction, edges),) = labels
    return CircuitReplies(number, ranking, fraction, edges, _read_replies(rows, prompts))


def _read_prompt(row: Mapping[str, Any]) -> PromptTexts:
    found = PromptTexts(**{name: _freeze(row[name]) for name in _OF_PROMPT})
    if not all(map(_is_whole, vars(found).values())) or len(found.clean) != len(found.corrupted):
        raise ValueError(f"prompt {row['prompt']} is incomplete")
    positions = found.answer_positions
    if not positions or any(not 0 <= position < len(found.clean) for position in positions):
        raise ValueError(f"prompt {row['prompt']} has no answer position, or one outside of it")
    if {len(found.answers), len(found.wrong_answers)} - {len(positions)}:
        raise ValueError(f"prompt {row['prompt']} has answers for more or fewer than its answer positions")
    return found


def _read_replies(rows: Sequence[Mapping[str, Any]], prompts: Sequence[PromptTexts]) -> tuple[Reply, ...]:
    if [row["prompt"] for row in rows] != list(range(len(prompts))):
        raise ValueError("it has not one answer of each model to each prompt")
    found = []
    for row, prompt in zip(rows, prompts, strict=True):
        reply = Reply(**{name: _freeze(row[name]) for name in _OF_REPLY})
        for given, sets in ((reply.answer, prompt.answers), (reply.wrong_answer, prompt.wrong_answers)):
            if [value is None for value in given] != [not tokens for tokens in sets]:
                raise ValueError(f"an answer to prompt {row['prompt']} is incomplete")
        whole = _is_whole(reply.top) and _is_whole(reply.top_probabilities)
        if not whole or not reply.top or len(reply.top) != len(reply.top_probabilities):
            raise ValueError(f"an answer to prompt {row['prompt']} is incomplete")
        for value in (*reply.answer, *reply.wrong_answer, *reply.top_probabilities):
            if value is not None and not (math.isnan(value) or 0 <= value <= 1 + _TOLERANCE):
                raise ValueError(f"an answer to prompt {row['prompt']} has the probability {value!r}")
        found.append(reply)
    return tuple(found)


def _freeze(value: Any) -> Any:
    """Turn lists into tuples."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _is_whole(value: Any) -> bool:
    """Tell whether nothing is missing, at any depth."""
    return all(map(_is_whole, value)) if isinstance(value, tuple) else value is not None


def _check(answers: Answers, evaluations: Sequence[Evaluation]) -> None:
    if len(answers) != evaluations[0].prompts:
        raise ValueError(f"it has answers to {len(answers)} prompts, not to {evaluations[0].prompts}")
    for one in answers.circuits:
        if not 1 <= one.circuit <= len(evaluations):
            raise ValueError(f"it has answers of circuit {one.circuit}, and there are {len(evaluations)} circuits")
        one.point(evaluations[one.circuit - 1])
