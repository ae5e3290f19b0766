"""Prompts from a file: CSV with a header, JSON Lines with one object per line, or JSON; in UTF-8.

JSON is a list of objects, or `{"prompts": [...]}` with such a list, as in auto-circuit.

Columns, or keys (others are ignored):

- `clean`, `corrupted` (or `corrupt`): the two prompts as text, with the same number of tokens.
- the answers, in one of four forms; if a file has several, the first is used:
    1. `answer`, `wrong_answer` (or `answers`, `wrong_answers`): text; a leading space is part of the answer. If some
       answer of the file is not one token, all answers without a leading space get one.
    2. `correct_idx`, `incorrect_idx` (as in EAP-IG): token ids of the model's tokenizer.
    3. `choices`, `label` (or `answerKey`, as in MIB's multiple choice): the labels of the choices, such as
       `["A", "B", "C"]` or `{"label": ["A", "B", "C"], "text": [...]}`, and which is right: its label, or its number
       from 0. If the labels are numbers themselves, it is the label. The right label is the answer, the others are
       wrong answers, with a leading space unless the clean prompt ends in a space, a new line or an opening bracket.
    4. `label` alone (as in EAP-IG's greater-than): a two-digit number. Answers are all larger two-digit numbers, wrong
       answers that number and all smaller ones; each must be one token of two digits without a space.
- `split` (optional): `train`, `validation` or `test`. The prompts are then in the file's order: every seed has the same
  ones, unless fewer are asked for than there are.
- `template` (optional): a label of what the prompt was made from, by which figures are grouped.

In forms 1 and 2 an answer may be a set: a list in JSON, also in a cell of CSV (`"[262, 257]"`,
`"["" is"", "" was""]"`).

Without `split`, the rows are shuffled by the seed: half are train, a quarter validation, a quarter test. Rows with the
same clean prompt stay in one split, so that no two splits share a prompt. Duplicate rows count once.
"""

from pathlib import Path
from random import Random
from typing import get_args

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError, quote
from circuitkit.tasks.base import Split, Task, check_request, check_supply, require_tokenizer
from circuitkit.tasks.file_answers import FORMS, NEEDED, Form, check_unicode, find_answer_tokens, read_answers
from circuitkit.tasks.file_rows import COLUMNS, Row, read_rows
from circuitkit.tasks.text import describe, encode

_PROMPTS = ("clean", "corrupted")
_NEEDED = f"clean, corrupted and {NEEDED}"
_SHOWN = 8


class PromptFile(Task):
    """Your own prompts, from a file.

    Args:
        path: a `.csv`, `.jsonl` or `.json` file with the columns `clean` and `corrupted` (two prompts of as many
            tokens), and `answer` with `wrong_answer` (text of one token each), or `correct_idx` with `incorrect_idx`
            (token ids), or `choices` with `label` (multiple choice), or `label` alone (a two-digit number that the
            answer exceeds); optionally `split` (train, validation or test) and `template` (a label to group figures
            by). See `circuitkit.tasks.prompt_file`.

    Raises:
        UsageError: the file cannot be read, is empty or malformed, lacks a column, or has a cell that cannot be used.
            `prompts` raises errors that depend on the tokenizer (an answer that is not one token, pairs of unequal
            length).
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self.path = Path(path).expanduser()
        except RuntimeError as error:
            raise UsageError(
                f"{quote(str(path))} cannot be read: {str(error)[:-1]}.", "Write the whole path."
            ) from error
        rows = read_rows(self.path)
        if not rows:
            raise UsageError(f"The prompt file {self._name} has no rows.", f"Write some, with the columns {_NEEDED}.")
        columns = {name for row in rows for name in row.values}
        forms: list[Form] = [form for form in FORMS if columns.issuperset(form)]
        if not forms or not columns.issuperset(_PROMPTS):
            raise self._wrong_columns(list(dict.fromkeys(name for row in rows for name in row.given)))
        self._form = forms[0]
        self._has_splits = "split" in columns
        self._has_templates = "template" in columns
        for row in rows:
            self._check(row)
        different: dict[str, Row] = {}
        for row in rows:
            answers = read_answers(row, self._form)
            different.setdefault(repr([*(row.values.get(name) for name in (*_PROMPTS, "split")), *answers]), row)
        self._rows = list(different.values())
        self._copies = len(rows) - len(self._rows)
        if self._has_splits:
            self._check_splits()

    @property
    def _name(self) -> str:
        return quote(str(self.path))

    @property
    def _used(self) -> list[str]:
        """Return the columns that are read."""
        optional = (("split", self._has_splits), ("template", self._has_templates))
        return [*_PROMPTS, *self._form, *(name for name, given in optional if given)]

    def available(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, seed: int) -> int:
        """Count the different rows of a split; the tokenizer makes no difference."""
        check_request(split, 1)
        return len(self._of_split(split, seed))

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make at most `examples` pairs of one split, chosen by the seed; see the module and `Task`.

        They are in the order of the seed or, with a column `split`, of the file.

        Raises:
            UsageError: the split has no rows, a pair's lengths differ, or an answer is not one token.
        """
        check_request(split, examples)
        tokenizer = require_tokenizer(tokenizer, self)
        rows = self._of_split(split, seed)
        if not rows:
            raise self._no_rows(split)
        notes = check_supply(f"The prompt file {self._name}", split, examples, len(rows))
        rows = rows[:examples]
        if self._has_splits:  # all seeds that take the same prompts take them in the same order
            chosen = {id(row) for row in rows}
            rows = [row for row in self._rows if id(row) in chosen]
        texts: list[list[str]] = [[row.values[name] for row in rows] for name in _PROMPTS]
        clean, corrupted = (encode(tokenizer, prompts) for prompts in texts)
        for row, one, other in zip(rows, clean, corrupted, strict=True):
            if len(one) != len(other) or not one:
                raise UsageError(
                    f"{row.where} has {len(one)} clean and {len(other)} corrupted tokens: "
                    f"{quote(row.values['clean'])} and {quote(row.values['corrupted'])}.",
                    "Reword one prompt so that both have the same number.",
                )
        answers, wrong_answers = find_answer_tokens(rows, self._rows, self._form, tokenizer)
        if self._copies:
            notes.append(f"Duplicate rows in {self._name}: {self._copies}; each counts once.")
        notes += describe(tokenizer, [*texts[0], *texts[1]])
        return PromptBatch.from_ids(
            clean,
            corrupted,
            answers,
            wrong_answers,
            pad_id=tokenizer.pad_token_id,
            notes=notes,
            templates=[str(row.values["template"]) for row in rows if self._has_templates],
        )

    def _wrong_columns(self, columns: list[str]) -> UsageError:
        shown = ", ".join(map(quote, columns[:_SHOWN])) or "none"
        more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
        hint = ""
        if "correct_idx" in columns and "incorrect_idx" not in columns:
            hint = " If correct_idx holds two-digit years, call that column label."
        elif "prompts" in columns:
            hint = " A file that is one JSON object ends in .json."
        elif any(name not in COLUMNS and name.strip().lower() in COLUMNS for name in columns):
            hint = " Write their names in small letters, without spaces."
        return UsageError(f"{self._name} has the columns {shown}{more}.", f"It needs {_NEEDED}.{hint}")

    def _check(self, row: Row) -> None:
        """Refuse a row that is wrong for every tokenizer."""
        for name in self._used:
            value = row.values.get(name)
            if value in (None, "", [], {}):
                raise UsageError(f"{row.where} has no {name!r}.", "Fill it in, or remove the row.")
            if name in _PROMPTS and not isinstance(value, str):
                raise UsageError(f"{row.where} has {quote(value)} as {name!r}.", "Write the prompt as text.")
            if name == "template" and type(value) not in (str, int):
                raise UsageError(f"{row.where} has {quote(value)} as 'template'.", "Write a text or a number.")
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    check_unicode(row, name, text)
        read_answers(row, self._form)
        if self._has_splits and row.values["split"] not in get_args(Split):
            known = ", ".join(get_args(Split))
            raise UsageError(f"{row.where} has the split {quote(row.values['split'])}.", f"Write one of {known}.")

    def _check_splits(self) -> None:
        seen: dict[str, tuple[str, Row]] = {}
        for row in self._rows:
            split = row.values["split"]
            other, first = seen.setdefault(row.values["clean"], (split, row))
            if other != split:
                raise UsageError(
                    f"{row.where} is in the split {split!r}, and in {other!r} {first.where} has the same clean prompt.",
                    "Put both into one split.",
                )

    def _no_rows(self, split: Split) -> UsageError:
        """Make the error for a split without rows: too few rows, duplicates, or one clean prompt in all of them."""
        said = f"it has {len(self._rows) + self._copies} in all"
        if self._copies:
            said += f"; {self._copies} are duplicates"
        if self._has_splits:
            remedy = f"Add rows whose column split says {split}."
        else:
            remedy = "Add rows with other clean prompts." if self._copies else "Add rows."
            if len(self._rows) > 1 and len({row.values["clean"] for row in self._rows}) == 1:
                said += "; all have one clean prompt, and stay in one split"
                remedy = "Add rows with other clean prompts."
        return UsageError(f"{self._name} has no rows for the split {split!r} ({said}).", remedy)

    def _of_split(self, split: Split, seed: int) -> list[Row]:
        rng = Random(f"prompt_file {seed}")
        if self._has_splits:
            chosen = [row for row in self._rows if row.values["split"] == split]
            rng.shuffle(chosen)
            return chosen
        groups: dict[str, list[Row]] = {}
        for row in self._rows:
            groups.setdefault(row.values["clean"], []).append(row)
        shuffled = list(groups.values())
        rng.shuffle(shuffled)
        # Round train up, then test, so that even two rows allow a search and a measurement
        train = (len(shuffled) + 1) // 2
        test = (len(shuffled) - train + 1) // 2
        parts = {"train": slice(train), "test": slice(train, train + test), "validation": slice(train + test, None)}
        return [row for group in shuffled[parts[split]] for row in group]
