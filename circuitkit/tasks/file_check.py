"""Checks a prompt file for one tokenizer: finds every problem, where `PromptFile` raises the first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.errors import UsageError, quote
from circuitkit.storage.files import expand_home, to_path
from circuitkit.tasks.answer_tokens import AnswerTokens, LongAnswers, check_lengths, check_long_answers, make_batch
from circuitkit.tasks.base import Split
from circuitkit.tasks.file_answers import Form
from circuitkit.tasks.file_rows import Row, scan_rows
from circuitkit.tasks.prompt_file import PromptFile, group_copies
from circuitkit.tasks.row_checks import find_form, row_problems, split_problems, used_columns
from circuitkit.tasks.text import encode

_NEEDED_SPLITS: tuple[Split, ...] = ("train", "test")


class Finding(NamedTuple):
    """Something about a file.

    Attributes:
        where: its line in the file, such as `line 3`, or its prompt in a format without lines; empty: the whole file.
        text: what it is.
        remedy: what to do.
    """

    where: str
    text: str
    remedy: str


@dataclass(frozen=True)
class FileCheck:
    """What a prompt file holds.

    Attributes:
        rows: how many.
        problems: why the file cannot be used, in the order of its lines; none: it can.
        warnings: what may be meant otherwise.
        long_answers: how many rows that can be used have answers of several tokens.
        splits: how many different rows each split has, of a file that can be used.
        batch: the prompts of all rows that can be used; None: there are none.
    """

    rows: int
    problems: Sequence[Finding]
    warnings: Sequence[Finding]
    long_answers: int
    splits: Mapping[Split, int]
    batch: PromptBatch | None


def check_file(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, long_answers: LongAnswers = "refuse", seed: int = 0
) -> FileCheck:
    """Check a prompt file.

    Args:
        path: of the file.
        tokenizer: of the model.
        long_answers: as of `PromptFile`.
        seed: deals the rows among the splits, where the file does not.

    Raises:
        UsageError: there is no such file, or nothing of it can be parsed.
    """
    check_long_answers(long_answers)
    file = expand_home(to_path(path))
    rows = scan_rows(file)
    try:
        form = find_form(quote(str(file)), [row for row in rows if row.problem is None] or rows)
        readable, problems = _readable(rows, form)
        answers = AnswerTokens(readable, form, tokenizer, long_answers)
    except UsageError as error:
        unread = [_finding(row, row.problem) for row in rows if row.problem is not None]
        return FileCheck(len(rows), [*unread, Finding("", error.problem, error.remedy)], [], 0, {}, None)
    usable = []
    for row in readable:
        found = list(_token_problems(row, answers, tokenizer))
        problems += [_finding(row, problem) for problem in found]
        if not found:
            usable.append(row)
    if all("split" in row.values for row in readable):
        problems += [_finding(row, problem) for row, problem in split_problems(readable)]
    groups = group_copies(usable, form)
    batch = make_batch([first for first, *_ in groups], answers, tokenizer) if groups else None
    if batch is not None:
        problems += _unchanged("", batch)
    splits: dict[Split, int] = {}
    if not problems:
        task = PromptFile(file, long_answers)
        splits = {split: task.available(tokenizer, split, seed) for split in get_args(Split)}
        problems += _split_problems(task, tokenizer, splits, seed)
    warnings = [*_copies(groups), *_leaks(readable), *_odd(readable)]
    long = sum(answers.of(row).is_long for row in usable)
    place = {_place(row): number for number, row in enumerate(rows)}
    in_order = sorted(problems, key=lambda problem: place.get(problem.where, len(rows)))
    return FileCheck(len(rows), in_order, warnings, long, splits, batch)


def _finding(row: Row, problem: UsageError) -> Finding:
    """Name the line once: the messages of rows begin with row and file."""
    return Finding(_place(row), problem.problem.removeprefix(row.where).lstrip(" "), problem.remedy)


def _readable(rows: Sequence[Row], form: Form) -> tuple[list[Row], list[Finding]]:
    """Return the rows whose cells can be read, and what is wrong with the others."""
    used = used_columns([row for row in rows if row.problem is None], form)
    found = [(row, list(row_problems(row, form, used))) for row in rows]
    readable = [row for row, problems in found if not problems]
    return readable, [_finding(row, problem) for row, problems in found for problem in problems]


def _token_problems(row: Row, answers: AnswerTokens, tokenizer: PreTrainedTokenizerBase) -> Iterator[UsageError]:
    try:
        check_lengths(row, *encode(tokenizer, [row.values["clean"], row.values["corrupted"]]))
    except UsageError as problem:
        yield problem
    try:
        answers.of(row)
    except UsageError as problem:
        yield problem


def _split_problems(
    task: PromptFile, tokenizer: PreTrainedTokenizerBase, splits: Mapping[Split, int], seed: int
) -> Iterator[Finding]:
    """Find the splits that a run needs, and that are empty or that it refuses."""
    for split in _NEEDED_SPLITS:
        try:
            batch = task.prompts(tokenizer, split, splits[split] or 1, seed)
        except UsageError as error:
            yield Finding("", error.problem, error.remedy)
        else:
            yield from _unchanged(f"In the split {split!r}: ", batch)


def _unchanged(where: str, batch: PromptBatch) -> Iterator[Finding]:
    """Find prompts that a run refuses with its default ablation; it checks each split."""
    try:
        Resample().check(batch)
    except UsageError as error:
        yield Finding("", f"{where}{error.problem}", error.remedy)


def _copies(groups: Sequence[Sequence[Row]]) -> Iterator[Finding]:
    for first, *others in groups:
        for row in others:
            yield Finding(_place(row), f"repeats {_place(first)}; it counts once.", "Remove it.")


def _leaks(rows: Sequence[Row]) -> Iterator[Finding]:
    """Find corrupted prompts that are clean prompts of other rows, which another split can have."""
    clean: dict[str, list[Row]] = {}
    for row in rows:
        clean.setdefault(row.values["clean"], []).append(row)
    for row in rows:
        for other in clean.get(row.values["corrupted"], []):
            splits = [one.values.get("split") for one in (row, other)]
            if other.values["clean"] != row.values["clean"] and (splits[0] is None or splits[0] != splits[1]):
                where = "which can be in another split" if splits[0] is None else f"which is in {splits[1]!r}"
                yield Finding(
                    _place(row),
                    f"has as corrupted prompt the clean one of {_place(other)}, {where}.",
                    "Give both rows one split, in a column split.",
                )
                break


def _odd(rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows:
        if row.values["clean"] == row.values["corrupted"]:
            yield Finding(
                _place(row), "has the same clean and corrupted prompt: no edge matters in it.", "Change one of the two."
            )
        if row.values["clean"].endswith((" ", "\t")):
            yield Finding(
                _place(row),
                "has a prompt that ends in a space; a word's own token begins with its space.",
                "Remove it from both prompts, and begin the answers with it.",
            )


def _place(row: Row) -> str:
    return f"line {row.line}" if row.line is not None else row.where.partition(" of ")[0].lower()
