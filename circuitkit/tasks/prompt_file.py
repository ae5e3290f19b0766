"""Prompts from a file: CSV with a header, or JSONL with one object per line, in UTF-8.

Columns (others are ignored):

- `clean`, `corrupted`: the two prompts as text, with the same number of tokens.
- the answers, in one of three forms; if a file has several, the first is used:
    1. `answer`, `wrong_answer`: text; a leading space is part of the answer. If some answer of the file is not one
       token, all answers without a leading space get one.
    2. `correct_idx`, `incorrect_idx` (as in EAP-IG): token ids of the model's tokenizer.
    3. `label` (as in EAP-IG's greater-than): a two-digit number. Answers are all larger two-digit numbers, wrong
       answers that number and all smaller ones; each must be one token of two digits without a space.
- `split` (optional): `train`, `validation` or `test`.

In forms 1 and 2 an answer may be a set: a list in JSONL; for ids, also a list in CSV (`"[262, 257]"`).

Without `split`, the rows are shuffled by the seed: half are train, a quarter validation, a quarter test. Rows with the
same clean prompt stay in one split, so that no two splits share a prompt.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, get_args

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split, Task, check_request, require_tokenizer
from circuitkit.tasks.text import continuation, encode

_PROMPTS = ("clean", "corrupted")
_TEXT = ("answer", "wrong_answer")
_IDS = ("correct_idx", "incorrect_idx")
_YEAR = ("label",)
_NEEDED = "clean, corrupted and one of: answer with wrong_answer; correct_idx with incorrect_idx; label"

Tokens = list[list[int]]


@dataclass(frozen=True)
class _Row:
    """One pair.

    Attributes:
        where: its row and file, for error messages.
        values: its cells by column.
    """

    where: str
    values: Mapping[str, Any]


class PromptFile(Task):
    """Your own prompts, from a file; `circuitkit.tasks.prompt_file` describes its columns.

    Args:
        path: a `.csv` or `.jsonl` file.

    Raises:
        UsageError: the file cannot be read, is empty or malformed, lacks a column, or has a cell that cannot be used.
            `prompts` raises errors that depend on the tokenizer (an answer that is not one token, pairs of unequal
            length).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._rows = _read(self.path)
        columns = list(dict.fromkeys(name for row in self._rows for name in row.values))
        forms = [form for form in (_TEXT, _IDS, _YEAR) if set(form) <= set(columns)]
        if not forms or not set(_PROMPTS) <= set(columns):
            hint = ""
            if "correct_idx" in columns and "incorrect_idx" not in columns:
                hint = " If correct_idx holds two-digit years, call that column label."
            raise UsageError(
                f"{str(self.path)!r} has the columns {', '.join(map(repr, columns)) or 'none'}.",
                f"It needs {_NEEDED}.{hint}",
            )
        self._form = forms[0]
        self._has_splits = "split" in columns
        for row in self._rows:
            self._check(row)
        if self._has_splits:
            self._check_splits()

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make at most `examples` pairs of one split, ordered by the seed; see the module and `Task`.

        Raises:
            UsageError: the split has no rows, a pair's lengths differ, or an answer is not one token.
        """
        check_request(split, examples)
        tokenizer = require_tokenizer(tokenizer, self)
        rows = self._of_split(split, seed)[:examples]
        if not rows:
            raise UsageError(
                f"{str(self.path)!r} has no rows for the split {split!r} (it has {len(self._rows)} in all).",
                "Add rows." if not self._has_splits else f"Add rows whose column split says {split}.",
            )
        clean, corrupted = (encode(tokenizer, [row.values[name] for row in rows]) for name in _PROMPTS)
        for row, one, other in zip(rows, clean, corrupted, strict=True):
            if len(one) != len(other):
                raise UsageError(
                    f"{row.where} has {len(one)} clean and {len(other)} corrupted tokens: "
                    f"{row.values['clean']!r} and {row.values['corrupted']!r}.",
                    "Reword one prompt so that both have the same number.",
                )
        answers, wrong_answers = self._answers(rows, tokenizer)
        pad = tokenizer.pad_token_id
        return PromptBatch.from_ids(clean, corrupted, answers, wrong_answers, pad_id=pad if isinstance(pad, int) else 0)

    def _check(self, row: _Row) -> None:
        """Refuse a row that is wrong for every tokenizer."""
        for name in (*_PROMPTS, *self._form, *(["split"] if self._has_splits else [])):
            if row.values.get(name) in (None, "", []):
                raise UsageError(f"{row.where} has no {name!r}.", "Fill it in, or remove the row.")
        for name in _PROMPTS:
            if not isinstance(row.values[name], str):
                raise UsageError(f"{row.where} has {row.values[name]!r} as {name!r}.", "Write the prompt as text.")
        for name in self._form:
            _parse(row, name)

    def _check_splits(self) -> None:
        seen: dict[str, tuple[str, _Row]] = {}
        for row in self._rows:
            split = row.values["split"]
            if split not in get_args(Split):
                raise UsageError(f"{row.where} has the split {split!r}.", f"Write one of {', '.join(get_args(Split))}.")
            other, first = seen.setdefault(row.values["clean"], (split, row))
            if other != split:
                raise UsageError(
                    f"{row.where} is in the split {split!r}, and in {other!r} {first.where} has the same clean prompt.",
                    "Put both into one split.",
                )

    def _of_split(self, split: Split, seed: int) -> list[_Row]:
        rng = Random(f"prompt_file {seed}")
        if self._has_splits:
            chosen = [row for row in self._rows if row.values["split"] == split]
            rng.shuffle(chosen)
            return chosen
        groups: dict[str, list[_Row]] = {}
        for row in self._rows:
            groups.setdefault(row.values["clean"], []).append(row)
        shuffled = list(groups.values())
        rng.shuffle(shuffled)
        # Round train up, then test, so that even two rows allow a search and a measurement
        train = (len(shuffled) + 1) // 2
        test = (len(shuffled) - train + 1) // 2
        parts = {"train": slice(train), "test": slice(train, train + test), "validation": slice(train + test, None)}
        return [row for group in shuffled[parts[split]] for row in group]

    def _answers(self, rows: Sequence[_Row], tokenizer: PreTrainedTokenizerBase) -> tuple[Tokens, Tokens]:
        """Return token ids of answers and wrong answers, one list per row."""
        if self._form == _YEAR:
            years = _year_tokens(tokenizer)
            labels = [_parse(row, "label")[0] for row in rows]
            return [years[label + 1 :] for label in labels], [years[: label + 1] for label in labels]
        right, wrong = ([_parse(row, name) for row in rows] for name in self._form)
        if self._form == _IDS:
            for row, tokens in zip([*rows, *rows], [*right, *wrong], strict=True):
                _check_ids(row, tokens, tokenizer)
            return right, wrong
        token_of = self._tokens_of_texts(tokenizer)

        def ids(cells: list[list[Any]]) -> Tokens:
            return [[token_of[text] for text in texts] for texts in cells]

        return ids(right), ids(wrong)

    def _tokens_of_texts(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        """Find the token of every answer in the whole file, so that an answer has the same token in every split."""
        first_row: dict[str, _Row] = {}
        for row in self._rows:
            for text in (text for name in self._form for text in _parse(row, name)):
                first_row.setdefault(text, row)
        tokens = {text: continuation(tokenizer, text, prompt="\n") for text in first_row}
        if None in tokens.values():
            tokens = {text: continuation(tokenizer, f" {text.removeprefix(' ')}", prompt="\n") for text in first_row}
        for text, row in first_row.items():
            if tokens[text] is None:
                raise UsageError(
                    f"{row.where} has the answer {text!r}, which is not one token that this tokenizer knows, "
                    "with a leading space or without.",
                    "Choose another answer, or remove the row.",
                )
        return {text: token for text, token in tokens.items() if token is not None}


def _check_ids(row: _Row, tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    for token in tokens:
        if not 0 <= token < len(tokenizer):
            raise UsageError(
                f"{row.where} has the token id {token}, and this tokenizer has {len(tokenizer)} tokens.",
                "Use the tokenizer that the ids were made with, or give answers as text.",
            )


def _parse(row: _Row, name: str) -> list[Any]:
    """Parse an answer's cell as a list: of texts, of token ids, or of one year.

    Raises:
        UsageError: it is something else.
    """
    value = row.values[name]
    if name in _TEXT:
        texts = value if isinstance(value, list) else [value]
        if all(isinstance(text, str) and text.strip() for text in texts):
            return texts
        raise UsageError(f"{row.where} has {value!r} as {name!r}.", "Write text, or in JSONL a list of texts.")
    try:
        listed = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        listed = None
    numbers = listed if isinstance(listed, list) else [listed]
    if not numbers or not all(type(number) is int for number in numbers):
        what = "a number from 0 to 98" if name in _YEAR else "a token id, or a list of them such as [262, 257]"
        raise UsageError(f"{row.where} has {value!r} as {name!r}.", f"Write {what}.")
    if name in _YEAR and (len(numbers) != 1 or not 0 <= numbers[0] <= 98):
        raise UsageError(
            f"{row.where} has {value!r} as {name!r}.", "Write a number from 0 to 98: 99 has no larger one."
        )
    return numbers


def _year_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    tokens: list[int] = []
    for year in range(100):
        token = continuation(tokenizer, f"{year:02d}", prompt="\n")
        if token is None:
            raise UsageError(
                f"The digits '{year:02d}' are not one token for this tokenizer, and labels need such tokens.",
                "Use a tokenizer that has them (GPT-2's), or give answer and wrong_answer as text.",
            )
        tokens.append(token)
    return tokens


def _read(path: Path) -> list[_Row]:
    """Read the rows of a file.

    Raises:
        UsageError: it is missing, has another suffix, is empty, or cannot be parsed.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"The prompt file {str(path)!r} ends in {path.suffix!r}.",
            f"Give a file that ends in {' or '.join(readers)}.",
        )
    try:
        rows = list(reader(path))
    except OSError as error:
        raise UsageError(
            f"The prompt file {str(path)!r} cannot be read: {error.strerror}.", "Give the path of a file."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text: {error.reason}.", "Save it as UTF-8.") from error
    if not rows:
        raise UsageError(f"The prompt file {str(path)!r} has no rows.", f"Write some, with the columns {_NEEDED}.")
    return rows


def _read_csv(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for number, values in enumerate(reader, 1):
                where = f"Row {number} (line {reader.line_num}) of {str(path)!r}"
                if None in values:
                    raise UsageError(
                        f"{where} has more cells than the header.", "Quote cells that contain a comma, as in CSV."
                    )
                yield _Row(where, values)
        except csv.Error as error:
            raise UsageError(
                f"{str(path)!r} is not CSV at line {reader.line_num}: {error}.", "Repair that line."
            ) from error


def _read_jsonl(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            number += 1
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"Line {line_number} of {str(path)!r} is not JSON: {error}.", "Write one object per line."
                ) from error
            if not isinstance(values, dict):
                raise UsageError(
                    f"Line {line_number} of {str(path)!r} is not a JSON object: {line.strip()[:60]!r}.",
                    "Write one object per line.",
                )
            yield _Row(f"Row {number} (line {line_number}) of {str(path)!r}", values)
