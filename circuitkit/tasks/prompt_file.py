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

An answer is one token. Of longer ones, an option takes the first token at which right and wrong answers of the row
differ; the tokens before it, which they share, continue both prompts.

In forms 1 and 2 an answer may be a set: a list in JSON, also in a cell of CSV (`"[262, 257]"`,
`"["" is"", "" was""]"`).

Without `split`, the rows are shuffled by the seed: half are train, a quarter validation, a quarter test. Rows with the
same clean prompt stay in one split, so that no two splits share a prompt. Duplicate rows count once.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError, quote
from circuitkit.storage.files import expand_home, to_path
from circuitkit.tasks.answer_tokens import AnswerTokens, LongAnswers, check_long_answers, make_batch
from circuitkit.tasks.base import Split, Task, check_request, check_supply, require_tokenizer
from circuitkit.tasks.file_answers import Form, read_answers
from circuitkit.tasks.file_rows import Row, scan_rows
from circuitkit.tasks.row_checks import PROMPTS, find_form, row_problems, split_problems, used_columns


class PromptFile(Task):
    """Your own prompts, from a file.

    Args:
        path: a `.csv`, `.jsonl` or `.json` file with the columns `clean` and `corrupted` (two prompts of as many
            tokens), and `answer` with `wrong_answer` (text of one token each), or `correct_idx` with `incorrect_idx`
            (token ids), or `choices` with `label` (multiple choice), or `label` alone (a two-digit number that the
            answer exceeds); optionally `split` (train, validation or test) and `template` (a label to group figures
            by). See `circuitkit.tasks.prompt_file`.
        long_answers: what becomes of answers of several tokens: `"refuse"`, or `"first_differing"`: the first token
            counts at which the row's answers and wrong answers differ, and what they share before it continues both
            prompts.

    Raises:
        UsageError: the file cannot be read, is empty or malformed, lacks a column, or has a cell that cannot be used
            (`circuitkit check FILE` shows all problems at once). `prompts` raises errors that depend on the tokenizer
            (an answer that is not one token, pairs of unequal length).
    """

    def __init__(self, path: str | Path, long_answers: LongAnswers = "refuse") -> None:
        self.path = expand_home(to_path(path))
        self.long_answers = check_long_answers(long_answers)
        rows = scan_rows(self.path)
        for row in rows:
            if row.problem is not None:
                raise row.problem
        self._form = find_form(self._name, rows)
        used = used_columns(rows, self._form)
        self._has_splits = "split" in used
        for row in rows:
            for problem in row_problems(row, self._form, used):
                raise problem
        self._rows = [first for first, *_ in group_copies(rows, self._form)]
        self._copies = len(rows) - len(self._rows)
        if self._has_splits:
            for _, problem in split_problems(self._rows):
                raise problem

    @property
    def _name(self) -> str:
        return quote(str(self.path))

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
        answers = AnswerTokens(self._rows, self._form, tokenizer, self.long_answers)
        if self._copies:
            notes.append(f"Duplicate rows in {self._name}: {self._copies}; each counts once.")
        batch = make_batch(rows, answers, tokenizer, notes)
        for row in self._rows:  # those of the other splits too
            answers.of(row)
        return batch

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


def group_copies(rows: Sequence[Row], form: Form) -> list[list[Row]]:
    """Put rows with the same prompts, answers and split together, in the order of the file."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        cells = [row.values.get(name) for name in (*PROMPTS, "split")]
        groups.setdefault(repr([*cells, *read_answers(row, form)]), []).append(row)
    return list(groups.values())
