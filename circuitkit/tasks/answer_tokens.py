"""The tokens of the answers in a prompt file, and the batch that its rows make."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError, quote
from circuitkit.tasks.file_answers import IDS, YEAR, Form, in_both, read_answers
from circuitkit.tasks.file_rows import Row
from circuitkit.tasks.text import continuation, continuation_tokens, describe, encode

LongAnswers = Literal["refuse", "first_differing"]
"""What becomes of answers of several tokens: they are refused, or their first differing token counts."""
OFFER = "or let their first differing token count (long_answers: first_differing)"


def check_long_answers(given: object) -> LongAnswers:
    """Return what becomes of answers of several tokens.

    Raises:
        UsageError: there is no such choice.
    """
    for choice in get_args(LongAnswers):
        if given == choice:
            return choice  # type: ignore[no-any-return]
    raise UsageError(f"There is no long_answers {quote(given)}.", f"Choose one of {', '.join(get_args(LongAnswers))}.")


class RowTokens(NamedTuple):
    """The tokens of a row's answers.

    Attributes:
        right, wrong: of the answers and the wrong answers, one each.
        before: those that all of these begin with, which continue both prompts; empty for answers of one token.
        is_long: whether some answer has several tokens.
    """

    right: list[int]
    wrong: list[int]
    before: list[int]
    is_long: bool


class AnswerTokens:
    """Finds the tokens of a file's answers: a text has the same token in every row.

    Args:
        rows: of the whole file, whose answers can be read.
        form: of the answers.
        tokenizer: of the model.
        long_answers: what becomes of answers of several tokens.

    Raises:
        UsageError: two-digit numbers are not one token each, in the form `YEAR`.
    """

    def __init__(
        self, rows: Sequence[Row], form: Form, tokenizer: PreTrainedTokenizerBase, long_answers: LongAnswers
    ) -> None:
        self._form = form
        self._tokenizer = tokenizer
        self._long_answers = long_answers
        self._years = _year_tokens(tokenizer) if form == YEAR else []
        self._of_text = {} if form in (YEAR, IDS) else _spell(rows, form, tokenizer)

    def of(self, row: Row) -> RowTokens:
        """Return the tokens of one row.

        Raises:
            UsageError: an answer is not one token, or both right and wrong as a token.
        """
        right, wrong = read_answers(row, self._form)
        if self._form == YEAR:
            (label,) = right
            return RowTokens(self._years[label + 1 :], self._years[: label + 1], [], False)
        if self._form == IDS:
            self._check_ids(row, [*right, *wrong])
            return RowTokens(right, wrong, [], False)
        return self._of_texts(row, right, wrong)

    def _of_texts(self, row: Row, right: list[str], wrong: list[str]) -> RowTokens:
        spelled = {text: self._of_text[text] for text in (*right, *wrong)}
        for text, tokens in spelled.items():
            if not tokens or (len(tokens) > 1 and self._long_answers == "refuse"):
                raise UsageError(
                    f"{row.where} has the answer {quote(text)}, which is not one token that this tokenizer knows, "
                    "with a leading space or without.",
                    f"Choose another answer, {f'remove the row, {OFFER}' if tokens else 'or remove the row'}.",
                )
        shared = _count_shared(list(spelled.values()))
        for text, tokens in spelled.items():
            if len(tokens) == shared and (longer := [one for one in spelled if len(spelled[one]) > shared]):
                raise UsageError(
                    f"{row.where} has the answers {quote(text)} and {quote(longer[0])}: one begins with the other, and "
                    "no token differs.",
                    "Choose another answer, or remove the row.",
                )
        at = min(shared, *(len(tokens) - 1 for tokens in spelled.values()))
        of_right, of_wrong = ([spelled[text][at] for text in texts] for texts in (right, wrong))
        for text, token in zip(right, of_right, strict=True):
            if token in of_wrong:
                raise in_both(row, f"the token of {quote(text)}", self._form)
        is_long = any(len(tokens) > 1 for tokens in spelled.values())
        before = spelled[right[0]][:at]
        return RowTokens(list(dict.fromkeys(of_right)), list(dict.fromkeys(of_wrong)), before, is_long)

    def _check_ids(self, row: Row, tokens: list[int]) -> None:
        known = len(self._tokenizer)
        for token in tokens:
            if not 0 <= token < known:
                raise UsageError(
                    f"{row.where} has the token id {token}, and this tokenizer has {known} tokens.",
                    "Use the tokenizer that the ids were made with, or give answers as text.",
                )


def make_batch(
    rows: Sequence[Row], answers: AnswerTokens, tokenizer: PreTrainedTokenizerBase, notes: Sequence[str] = ()
) -> PromptBatch:
    """Make the prompts of these rows.

    Raises:
        UsageError: a pair's lengths differ, or an answer is not one token.
    """
    texts: list[list[str]] = [[row.values[name] for row in rows] for name in ("clean", "corrupted")]
    clean, corrupted = (encode(tokenizer, prompts) for prompts in texts)
    for row, one, other in zip(rows, clean, corrupted, strict=True):
        check_lengths(row, one, other)
    found = [answers.of(row) for row in rows]
    clean, corrupted = (
        [ids + tokens.before for ids, tokens in zip(side, found, strict=True)] for side in (clean, corrupted)
    )
    return PromptBatch.from_ids(
        clean,
        corrupted,
        [tokens.right for tokens in found],
        [tokens.wrong for tokens in found],
        pad_id=tokenizer.pad_token_id,
        notes=[*notes, *_describe_long(found, tokenizer), *describe(tokenizer, [*texts[0], *texts[1]])],
        templates=[str(row.values["template"]) for row in rows if "template" in row.values],
    )


def check_lengths(row: Row, clean: Sequence[int], corrupted: Sequence[int]) -> None:
    """Refuse a pair of unequal length, or without tokens.

    Raises:
        UsageError: it is one.
    """
    if len(clean) != len(corrupted) or not clean:
        raise UsageError(
            f"{row.where} has {len(clean)} clean and {len(corrupted)} corrupted tokens: "
            f"{quote(row.values['clean'])} and {quote(row.values['corrupted'])}.",
            "Reword one prompt so that both have the same number.",
        )


def _describe_long(found: Sequence[RowTokens], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    if long := sum(tokens.is_long for tokens in found):
        note = (
            f"Answers of several tokens: in {long} of {len(found)} prompts. The first token counts at which right and "
            "wrong answers differ"
        )
        if before := [tokens.before for tokens in found if tokens.before]:
            shown = tokenizer.decode(before[0])
            note += f"; in {len(before)}, what they share before it, such as {shown!r}, continues both prompts"
        yield f"{note}."


def _count_shared(sequences: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all sequences begin with."""
    return next(
        (at for at, tokens in enumerate(zip(*sequences, strict=False)) if len(set(tokens)) > 1),
        min(map(len, sequences)),
    )


def _spell(rows: Sequence[Row], form: Form, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Find the tokens of every answer in the whole file."""
    texts = dict.fromkeys(text for row in rows for texts in read_answers(row, form) for text in texts)
    found = {text: continuation_tokens(tokenizer, text, prompt="\n") for text in texts}
    if all(len(tokens) == 1 for tokens in found.values()):
        return found
    return {text: continuation_tokens(tokenizer, f" {text.removeprefix(' ')}", prompt="\n") for text in texts}


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
