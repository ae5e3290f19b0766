"""Tasks whose prompts are drawn from our word lists: what holds for each of them, with every kind of tokenizer."""

import re
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.smollm2 import smollm2 as smollm2
from support.word_tokenizers import LISTS, byte_level, without_pieces
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from circuitkit.config import registry
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.tasks.arithmetic import Arithmetic
from circuitkit.tasks.base import Split
from circuitkit.tasks.capital import CAPITALS, Capital
from circuitkit.tasks.colored_objects import PLACES, ColoredObjects
from circuitkit.tasks.copy_mcqa import CopyMCQA
from circuitkit.tasks.docstring import Docstring
from circuitkit.tasks.drawn import Arrangements, DrawnTask
from circuitkit.tasks.gendered_pronoun import FEMALE, MALE, GenderedPronoun
from circuitkit.tasks.greater_than import GreaterThan
from circuitkit.tasks.induction import Induction
from circuitkit.tasks.subject_verb_agreement import ANSWERS, SubjectVerbAgreement
from circuitkit.tasks.word_lists import THINGS

SPLITS: tuple[Split, ...] = get_args(Split)
CASES: dict[str, DrawnTask] = {
    "greater_than": GreaterThan(),
    "agreement": SubjectVerbAgreement(),
    "agreement, simple": SubjectVerbAgreement("simple"),
    "agreement, relative": SubjectVerbAgreement("relative"),
    "agreement, prepositional": SubjectVerbAgreement("prepositional"),
    "pronoun": GenderedPronoun(),
    "induction": Induction(),
    "induction, swap": Induction("swap", length=7),
    "docstring": Docstring(),
    "docstring, docstring": Docstring("docstring"),
    "colored": ColoredObjects(),
    "colored, colors": ColoredObjects("colors"),
    "arithmetic": Arithmetic(),
    "arithmetic, two digits": Arithmetic(digits=2),
    "arithmetic, subtraction": Arithmetic("subtraction"),
    "mcqa": CopyMCQA(),
    "mcqa, letters": CopyMCQA("letters"),
    "capital": Capital(),
}
TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "as GPT-2": byte_level,
    "digits": lambda: byte_level(digits=True),
    "begin": lambda: byte_level(begin=True),
    "as Llama": without_pieces,
}
every_case = pytest.mark.parametrize("case", CASES)


@cache
def make(kind: str) -> PreTrainedTokenizerBase:
    return TOKENIZERS[kind]()


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return make(request.param)


@pytest.fixture(scope="module")
def of_smollm2(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(request.getfixturevalue("smollm2"))


def rows(batch: PromptBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The ids of each pair, without padding."""
    found = zip(batch.clean, batch.corrupted, batch.mask, strict=True)
    return [(tuple(clean[mask].tolist()), tuple(corrupted[mask].tolist())) for clean, corrupted, mask in found]


def tokens(row: Any) -> list[int]:
    return [token for token in row[0].tolist() if token >= 0]


def check_splits(task: DrawnTask, tokenizer: PreTrainedTokenizerBase, seed: int, examples: int = 24) -> None:
    """Every split has as many different pairs as it says, with answers, and no prompt of another split."""
    seen: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        available = task.available(tokenizer, split, seed)
        batch = task.prompts(tokenizer, split, examples, seed)
        pairs = rows(batch)
        assert len(batch) == len(batch.templates) == min(examples, available)
        assert len({clean for clean, _ in pairs}) == len(pairs)
        assert all(clean != corrupted for clean, corrupted in pairs)  # as long: a batch holds no others
        for right, wrong in zip(batch.answers, batch.wrong_answers, strict=True):
            assert tokens(right)
            assert tokens(wrong)
            assert not {*tokens(right), *tokens(wrong)} & set(tokenizer.all_special_ids)
        assert (batch.answer_positions == batch.length - 1).all()
        seen[split] = {prompt for pair in pairs for prompt in pair}
    for one, other in combinations(SPLITS, 2):
        assert not seen[one] & seen[other]


@every_case
def test_pairs_fit_and_splits_share_nothing(case: str, tokenizer: PreTrainedTokenizerBase) -> None:
    check_splits(CASES[case], tokenizer, seed=0)


@every_case
@pytest.mark.parametrize("kind", ["as GPT-2", "digits"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_splits_share_nothing_whatever_the_seed(case: str, kind: str, seed: int) -> None:
    check_splits(CASES[case], make(kind), seed, examples=12)


@every_case
def test_pairs_fit_the_tokenizer_of_smollm2(case: str, of_smollm2: PreTrainedTokenizerBase) -> None:
    check_splits(CASES[case], of_smollm2, seed=1, examples=32)


@pytest.mark.parametrize("corruption", ["random", "swap"])
def test_induction_has_words_enough_in_the_tokenizer_of_the_toy(corruption: Any) -> None:
    from circuitkit.models.fetch import TOY

    check_splits(Induction(corruption), AutoTokenizer.from_pretrained(TOY), seed=0)


@every_case
def test_the_seed_decides(case: str, tokenizer: PreTrainedTokenizerBase) -> None:
    task = CASES[case]
    one, same, other = (rows(task.prompts(tokenizer, "train", 16, seed)) for seed in (0, 0, 1))
    assert one == same
    assert one != other


FEW_WORDS = [
    *(word for kind, count in {"people": 16, "adjectives": 14, "events": 4}.items() for word in LISTS[kind][:count]),
    *(*LISTS["verbs"], *LISTS["countries"], *FEMALE[:4], *MALE[:4], "he", "she"),
]


@pytest.mark.parametrize(
    "case", ["greater_than", "agreement, simple", "agreement, relative", "pronoun", "arithmetic", "capital"]
)
def test_every_prompt_that_is_counted_is_made_once(case: str) -> None:
    """Where few words are known, all prompts of the smallest split can be made; asking for more says how many."""
    few, task = byte_level(FEW_WORDS, digits=True), CASES[case]
    available = task.available(few, "test", seed=0)
    batch = task.prompts(few, "test", available + 1, seed=0)
    assert len({clean for clean, _ in rows(batch)}) == len(batch) == available < 2000
    (note,) = (note for note in batch.notes if "fewer than" in note)
    assert (
        note
        == f"{type(task).__name__} has {available:,} different prompts, fewer than the {available + 1:,} asked for."
    )


def test_huge_numbers_of_prompts_are_counted_and_drawn(tokenizer: PreTrainedTokenizerBase) -> None:
    task = Induction(length=20)
    assert task.available(tokenizer, "train", seed=0) > 10**40
    assert len({clean for clean, _ in rows(task.prompts(tokenizer, "train", 30, seed=0))}) == 30


def test_arrangements_are_all_ordered_choices_each_once() -> None:
    found = [Arrangements("abcd", 3)[number] for number in range(4 * 3 * 2)]
    assert len(set(found)) == len(found)
    assert all(len(set(one)) == 3 for one in found)


def _agreement(text: str) -> set[str]:
    subject = re.search(r"[Tt]he (\w+)", text)
    assert subject is not None
    return {both[subject[1].endswith("s")] for both in ANSWERS}


def _pronoun(text: str) -> set[str]:
    return {"she"} if any(name in text.replace(",", "").split() for name in FEMALE) else {"he"}


def _docstring(text: str) -> set[str]:
    signature = re.search(r"self, (.*)\)", text)
    assert signature is not None
    arguments = signature[1].split(", ")
    documented = re.findall(r":param (\w+):", text)
    return {arguments[2]} if documented == arguments[:2] else set()


def _colored(text: str) -> set[str]:
    question = text.rpartition("Question:")[2]
    colors = {thing: color for color, thing in re.findall(r"a (\w+) (\w+)[,.]", question)}
    asked = re.search(r"What color is the (\w+)\?", question)
    assert asked is not None
    return {colors[asked[1]]}


def _mcqa(text: str) -> set[str]:
    fact = re.search(r"A (\w+) is (\w+)\. What color is the \1\?", text)
    assert fact is not None
    return {letter for letter, color in re.findall(r"(\w)\. (\w+)\n", text) if color == fact[2]}


def _arithmetic(text: str) -> set[str]:
    problem = re.split(r"[\n,;]", text)[-1]
    one, sign, other = re.fullmatch(r"(\d+)([+-])(\d+)=", problem).groups()  # type: ignore[union-attr]
    return {str(int(one) + int(other) if sign == "+" else int(one) - int(other))}


def _capital(text: str) -> set[str]:
    (country,) = (country for country in CAPITALS if re.search(rf"of {country}\b", text))
    return {CAPITALS[country]}


def _greater(text: str) -> set[str]:
    year = re.search(r"from the year \d\d(\d\d) to the year \d\d$", text)
    assert year is not None
    return {f"{number:02d}" for number in range(int(year[1]) + 1, 100)}


def _induction(text: str) -> set[str]:
    *before, last = text.split()
    return {after for word, after in zip(before, [*before[1:], last], strict=True) if word == last}


SOLVERS: dict[str, Callable[[str], set[str]]] = {
    "greater_than": _greater,
    "agreement": _agreement,
    "pronoun": _pronoun,
    "induction": _induction,
    "docstring": _docstring,
    "colored": _colored,
    "arithmetic": _arithmetic,
    "mcqa": _mcqa,
    "capital": _capital,
}
"""Solves a prompt by reading its text; one that has no solution by its words gives nothing."""


HIDING = ("colored, colors", "mcqa, letters", "induction", "docstring", "docstring, docstring")
"""The corruptions after which none of the clean prompt's answers and wrong answers is right."""


def test_no_place_is_an_object() -> None:
    """Otherwise a prompt could say "On the table, there is a blue table"."""
    assert not set(PLACES) & set(THINGS)


@every_case
def test_the_answers_are_those_of_who_reads_the_text(case: str) -> None:
    tokenizer, solve = byte_level(), SOLVERS[case.partition(",")[0]]
    batch = CASES[case].prompts(tokenizer, "train", 40, seed=2)
    for (clean, corrupted), right, wrong in zip(rows(batch), batch.answers, batch.wrong_answers, strict=True):
        answers, others = ({tokenizer.decode([token]).strip() for token in tokens(row)} for row in (right, wrong))
        assert answers == solve(tokenizer.decode(clean))
        others_said = solve(tokenizer.decode(corrupted))
        if case == "greater_than":  # after 01, nearly everything is right
            assert answers < others_said
        else:
            assert not answers & others_said
            assert case in HIDING or others_said & others


@pytest.mark.parametrize("case", [case for case in HIDING if case != "docstring, docstring"])
def test_a_corruption_that_hides_the_answer_hides_it(case: str) -> None:
    tokenizer = byte_level()
    batch = CASES[case].prompts(tokenizer, "train", 40, seed=2)
    for (clean, corrupted), right in zip(rows(batch), batch.answers, strict=True):
        (answer,) = (tokenizer.decode([token]).strip() for token in tokens(right))
        hidden = rf"\n{answer}\." if case == "mcqa, letters" else rf"\b{answer}\b"
        assert re.search(hidden, tokenizer.decode(clean))
        assert not re.search(hidden, tokenizer.decode(corrupted))


def test_greater_than_asks_for_the_tens_where_digits_are_split() -> None:
    tokenizer = byte_level(digits=True)
    batch = GreaterThan().prompts(tokenizer, "train", 60, seed=0)
    for (clean, corrupted), right, wrong in zip(rows(batch), batch.answers, batch.wrong_answers, strict=True):
        year = re.search(r"from the year \d\d(\d)\d to the year \d\d$", tokenizer.decode(clean))
        assert year is not None
        tens = int(year[1])
        assert {int(tokenizer.decode([token])) for token in tokens(right)} == set(range(tens + 1, 10))
        assert {int(tokenizer.decode([token])) for token in tokens(wrong)} == set(range(tens))
        assert re.search(r"\d\d01 to", tokenizer.decode(corrupted))


def test_arithmetic_asks_for_the_tens_where_digits_are_split() -> None:
    tokenizer = byte_level(digits=True)
    batch = Arithmetic(digits=2).prompts(tokenizer, "train", 60, seed=0)
    for (clean, _), right in zip(rows(batch), batch.answers, strict=True):
        (result,) = _arithmetic(tokenizer.decode(clean))
        assert [tokenizer.decode([token]) for token in tokens(right)] == [result[0]]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("greater_than", "GreaterThan finds 0 nouns that are one token .* needs 4 nouns"),
        (
            "agreement",
            "SubjectVerbAgreement finds 0 nouns, 0 verbs and 0 verbs to answer with .* needs 8 nouns, 1 verb and 1",
        ),
        ("agreement, simple", "needs 8 nouns, 0 verbs and 1 verb to answer with"),
        ("pronoun", "GenderedPronoun finds 0 female names, .* needs 4 female names"),
        ("docstring", "Docstring finds 0 arguments.* needs 40 arguments, 1 function and 7 words"),
        ("colored", "ColoredObjects finds 0 objects and 0 colors .* needs 12 objects and 6 colors"),
        ("mcqa", "CopyMCQA finds 0 objects, 0 colors and 0 letters"),
        ("capital", "Capital finds 0 capitals .* needs 8 capitals"),
        ("induction", "Induction finds 0 words .* needs 100 words"),
    ],
)
def test_too_few_words_are_refused_with_their_number(case: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"{said}.* larger vocabulary, or prompts of your own"):
        CASES[case].prompts(byte_level([]), "train", 4, seed=0)


def test_numbers_that_are_split_otherwise_are_refused() -> None:
    tokenizer = byte_level(numbers=[f" {number}" for number in range(100, 200)])
    with pytest.raises(UsageError, match="years that are two tokens of two digits, or four of one"):
        GreaterThan().available(tokenizer, "train", seed=0)
    tokenizer = byte_level(numbers=["10", "11"])
    with pytest.raises(UsageError, match=r"Arithmetic finds 2 numbers .* needs 90 numbers"):
        Arithmetic(digits=2).available(tokenizer, "train", seed=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: SubjectVerbAgreement("adverbial"), "structure 'adverbial'.*simple, relative, prepositional, all"),  # type: ignore[arg-type]
        (lambda: Induction("abc"), "corruption 'abc' of Induction.*random, swap"),  # type: ignore[arg-type]
        (lambda: Induction(length=3), "length=3"),
        (lambda: Docstring("x"), "corruption 'x' of Docstring"),  # type: ignore[arg-type]
        (lambda: ColoredObjects("x"), "corruption 'x' of ColoredObjects"),  # type: ignore[arg-type]
        (lambda: CopyMCQA("x"), "corruption 'x' of CopyMCQA"),  # type: ignore[arg-type]
        (lambda: Arithmetic("multiplication"), "operation 'multiplication' of Arithmetic"),  # type: ignore[arg-type]
        (lambda: Arithmetic(digits=3), "digits=3 is neither 1 nor 2"),
        (lambda: Arithmetic(digits=True), "digits=True"),
        (lambda: Arithmetic(digits=1.0), r"digits=1\.0 is neither"),  # type: ignore[arg-type]
        (lambda: Arithmetic(digits=[1]), r"digits=\[1\] is neither"),  # type: ignore[arg-type]
    ],
)
def test_unknown_arguments_are_refused(wrong: Callable[[], DrawnTask], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        wrong()


def test_every_registered_task_names_an_objective() -> None:
    for name in registry.names("tasks"):
        assert registry.load("tasks", name).objective in registry.names("objectives")
    assert GreaterThan.objective == "probability_difference"
