"""Indirect object identification: the prompts, their splits, and what is refused."""

import hashlib
import json
import re
import time
from collections import Counter
from itertools import combinations
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.fetch import TOY
from circuitkit.tasks.base import Split, Task
from circuitkit.tasks.ioi import IOI, NAMES, OBJECTS, PLACES, TEMPLATES


def without(*words: str, special: str | None = None) -> PreTrainedTokenizerFast:
    """The toy's tokenizer without some words, and with a special token in front of every prompt."""
    content = json.loads((TOY / "tokenizer.json").read_text())
    kept = [piece for piece in content["model"]["vocab"] if piece.strip() not in words]
    content["model"]["vocab"] = {piece: number for number, piece in enumerate(kept + ([special] if special else []))}
    backend = Tokenizer.from_str(json.dumps(content))
    if special:
        backend.post_processor = TemplateProcessing(f"{special} $A", special_tokens=[(special, len(kept))])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def texts(batch: PromptBatch, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str, str, str]]:
    """Clean, corrupted, answer, wrong answer."""
    return [
        (
            tokenizer.decode(clean[mask]),
            tokenizer.decode(corrupted[mask]),
            tokenizer.decode(answer[0]),
            tokenizer.decode(wrong[0]),
        )
        for clean, corrupted, mask, answer, wrong in zip(
            batch.clean, batch.corrupted, batch.mask, batch.answers, batch.wrong_answers, strict=True
        )
    ]


def names_in(text: str) -> list[str]:
    return [word for word in text.replace(",", "").replace(".", "").split() if word in NAMES]


@pytest.mark.parametrize("order", ["abba", "baba"])
@pytest.mark.parametrize("corruption", ["abc", "swap"])
def test_the_prompts_of_a_pair_differ_only_in_their_names(
    tokenizer: PreTrainedTokenizerBase, corruption: Any, order: Any
) -> None:
    batch = IOI(corruption, order).prompts(tokenizer, "train", 60, seed=1)
    for clean, corrupted, answer, wrong in texts(batch, tokenizer):
        first, second, subject = names_in(clean)
        expected = (first, second) if order == "abba" else (second, first)
        assert (answer, wrong) == tuple(f" {name}" for name in expected)
        assert wrong == f" {subject}"
        others = names_in(corrupted)
        if corruption == "swap":
            assert others == [first, second, answer.strip()]
        else:
            assert len({*others, first, second}) == 5
        for name, other in zip((first, second, subject), others, strict=True):
            clean = clean.replace(name, "_", 1)
            corrupted = corrupted.replace(other, "_", 1)
        assert clean == corrupted
        assert clean.endswith(" to")


def test_answers_are_read_at_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = IOI().prompts(tokenizer, "test", 30, seed=0)
    assert batch.padded
    assert (batch.answer_positions == batch.length - 1).all()
    assert (batch.answers != batch.wrong_answers).all()


def test_templates_and_orders_are_used_evenly(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = IOI().prompts(tokenizer, "train", 60, seed=0)
    found: Counter[tuple[str, bool]] = Counter()
    for clean, _, answer, _ in texts(batch, tokenizer):
        shape = clean
        for word in (*NAMES, *PLACES, *OBJECTS):
            shape = shape.replace(f" {word}", " _")
        found[shape, names_in(clean)[0] == answer.strip()] += 1
    assert len(found) == 2 * len(TEMPLATES)
    assert set(found.values()) == {2}


def words_in(text: str, kind: tuple[str, ...]) -> set[str]:
    return {word.strip(",.") for word in text.split()} & set(kind)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    corruption=st.sampled_from(["abc", "swap"]),
    order=st.sampled_from(["abba", "baba", "both"]),
    template=st.none() | st.integers(0, len(TEMPLATES) - 1),
    held_out=st.booleans(),
)
def test_splits_are_disjoint_in_prompts_and_if_wanted_in_names_and_objects(
    tokenizer: PreTrainedTokenizerBase, seed: int, corruption: Any, order: Any, template: Any, held_out: bool
) -> None:
    task = IOI(corruption, order, template, held_out)
    prompts: dict[str, set[str]] = {}
    words: dict[str, set[str]] = {}
    for split in get_args(Split):
        found = texts(task.prompts(tokenizer, split, 60, seed), tokenizer)
        assert len({clean for clean, *_ in found}) == 60
        prompts[split] = {text for clean, corrupted, *_ in found for text in (clean, corrupted)}
        words[split] = {word for text in prompts[split] for word in words_in(text, (*NAMES, *OBJECTS))}
        assert {answer.strip() for *_, right, wrong in found for answer in (right, wrong)} <= words[split]
    for one, other in combinations(prompts, 2):
        assert not prompts[one] & prompts[other]
    if held_out:
        assert not words["test"] & (words["train"] | words["validation"])


def test_held_out_prompts_are_enough_and_use_all_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """15 of the 60 names that the toy's tokenizer knows, and 2 of the 8 objects, are for test."""
    task = IOI(template=0, held_out=True)
    counts = {split: task.available(tokenizer, split, seed=0) for split in get_args(Split)}
    assert counts == {"train": 660 * 192, "validation": 330 * 192, "test": 105 * 64}  # 2 orders, 2 subjects, 8 places
    for split, names, objects in (("train", 45, 6), ("validation", 45, 6), ("test", 15, 2)):
        found = " ".join(text for pair in texts(task.prompts(tokenizer, split, 600, 0), tokenizer) for text in pair)
        assert (len(words_in(found, NAMES)), len(words_in(found, OBJECTS))) == (names, objects)


@pytest.mark.parametrize("seed", range(5))
def test_few_words_can_be_held_out(seed: int) -> None:
    """With the fewest names and objects that are accepted, every split has prompts."""
    few, task = without(*NAMES[13:], *OBJECTS[4:]), IOI(held_out=True)
    for split, pairs in (("train", 19), ("validation", 9), ("test", 10)):
        assert 0 < task.available(few, split, seed) <= pairs * 2 * 2 * (13 * 8 * 2 + 2 * 1)
        assert len(task.prompts(few, split, 40, seed)) == 40


@pytest.mark.parametrize(("missing", "found"), [(NAMES[12:], "12 names"), (OBJECTS[3:], "3 objects")])
def test_too_few_words_to_hold_some_out_are_refused_with_their_number(missing: tuple[str, ...], found: str) -> None:
    few = without(*missing)
    with pytest.raises(
        UsageError, match=rf"finds .*{found}.* needs 13 names, 2 places and 4 objects to hold some out.*held_out=False"
    ):
        IOI(held_out=True).prompts(few, "train", 4, seed=0)
    IOI().prompts(few, "train", 4, seed=0)


@pytest.mark.parametrize(
    ("arguments", "split", "examples", "seed", "expected"),
    [
        ({}, "train", 32, 0, "facf2449b851fbc1"),
        ({}, "validation", 32, 0, "a229b943183bee7e"),
        ({}, "test", 32, 0, "5f7cef834e0c7dcd"),
        ({"corruption": "swap"}, "train", 32, 1, "ba3b483a9b3560b5"),
        ({"corruption": "swap", "order": "baba"}, "test", 32, 2, "b7042d19b547594a"),
        ({"template": 0}, "train", 40, 7, "cdc9164d7aaf9236"),
        ({"order": "abba"}, "test", 40, 123456, "25345aff747c06f4"),
    ],
)
def test_prompts_are_those_of_earlier_versions(
    tokenizer: PreTrainedTokenizerBase, arguments: Any, split: Split, examples: int, seed: int, expected: str
) -> None:
    """As made before `held_out` existed: results of earlier versions stay comparable."""
    batch = IOI(**arguments).prompts(tokenizer, split, examples, seed)
    parts = [getattr(batch, name).tolist() for name in ("clean", "corrupted", "answers", "wrong_answers")]
    assert hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16] == expected


@pytest.mark.parametrize("template", [None, 3])
def test_a_prompt_names_its_template(tokenizer: PreTrainedTokenizerBase, template: int | None) -> None:
    batch = IOI(template=template).prompts(tokenizer, "train", 60, seed=0)
    found = texts(batch, tokenizer)
    assert len(set(batch.templates)) == (15 if template is None else 1)
    for (clean, *_), label in zip(found, batch.templates, strict=True):
        pattern = re.sub(r"\\?{\w+\\?}", r"(\\w+)", re.escape(TEMPLATES[int(label)]))
        assert re.fullmatch(pattern, clean)


@pytest.mark.parametrize("corruption", ["abc", "swap"])
def test_splits_share_no_prompt_and_no_pair_of_names(tokenizer: PreTrainedTokenizerBase, corruption: Any) -> None:
    prompts: dict[str, set[str]] = {}
    pairs: dict[str, set[frozenset[str]]] = {}
    for split in get_args(Split):
        found = texts(IOI(corruption).prompts(tokenizer, split, 2000, seed=3), tokenizer)
        prompts[split] = {text for clean, corrupted, *_ in found for text in (clean, corrupted)}
        pairs[split] = {frozenset(names_in(text)[:2]) for text in prompts[split]}
        assert len({clean for clean, *_ in found}) == 2000
    for one, other in combinations(prompts, 2):
        assert not prompts[one] & prompts[other]
        assert not pairs[one] & pairs[other]


def test_the_same_arguments_give_the_same_prompts(tokenizer: PreTrainedTokenizerBase) -> None:
    one, same, other = (IOI().prompts(tokenizer, "train", 40, seed) for seed in (0, 0, 1))
    assert torch.equal(one.clean, same.clean)
    assert torch.equal(one.corrupted, same.corrupted)
    assert one.clean.shape != other.clean.shape or not torch.equal(one.clean, other.clean)


def test_both_corruptions_have_the_same_clean_prompts(tokenizer: PreTrainedTokenizerBase) -> None:
    abc, swap = (IOI(corruption).prompts(tokenizer, "test", 40, seed=0) for corruption in ("abc", "swap"))
    assert torch.equal(abc.clean, swap.clean)


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_one_template_gives_prompts_of_one_length(tokenizer: PreTrainedTokenizerBase, template: int) -> None:
    batch = IOI(template=template).prompts(tokenizer, "train", 20, seed=0)
    assert not batch.padded
    assert len(batch) == 20


def test_prompts_do_not_repeat_where_there_are_too_few() -> None:
    few = without(*NAMES[8:])
    batch = IOI(template=4).prompts(few, "test", 1000, seed=0)
    found = {clean for clean, *_ in texts(batch, few)}
    assert len(batch) == len(found) == 7 * 2 * 2  # pairs of names, either of the two as subject, both orders


def test_templates_with_unknown_words_are_left_out() -> None:
    batch = IOI().prompts(tokenizer := without("Then", "argument"), "train", 100, seed=0)
    found = {clean.split()[0] for clean, *_ in texts(batch, tokenizer)}
    assert found == {"After", "When", "While", "Afterwards,", "The", "Friends"}
    assert tokenizer.unk_token_id not in batch.clean
    with pytest.raises(UsageError, match="does not know some word of the IOI template 0"):
        IOI(template=0).prompts(tokenizer, "train", 4, seed=0)
    with pytest.raises(UsageError, match="some word of every IOI template"):
        IOI().prompts(without("to"), "train", 4, seed=0)


def test_special_tokens_are_added_to_both_prompts() -> None:
    tokenizer = without(special="<s>")
    plain, special = (IOI(template=0).prompts(one, "train", 6, seed=0) for one in (without(), tokenizer))
    for ids in (special.clean, special.corrupted):
        assert (ids[:, 0] == tokenizer.convert_tokens_to_ids("<s>")).all()
    assert torch.equal(special.clean[:, 1:], plain.clean)
    assert torch.equal(special.answers, plain.answers)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (NAMES[5:], r"finds 5 names, 8 places and 8 objects .* needs 8 names, 2 places and 2 objects"),
        (PLACES[1:], r"finds \d+ names, 1 place "),
        (OBJECTS, r"and 0 objects"),
    ],
)
def test_too_few_words_are_refused_with_their_number(missing: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        IOI().prompts(without(*missing), "train", 4, seed=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"corruption": "abd"}, "corruption 'abd'.*abc, swap"),
        ({"order": "aabb"}, "order 'aabb'.*abba, baba, both"),
        ({"template": 15}, "template 15.*0 to 14"),
        ({"template": -1}, "template -1"),
        ({"held_out": 1}, "held_out=1 is neither True nor False"),
    ],
)
def test_unknown_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        IOI(**arguments)


def test_requests_that_no_task_can_serve_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UsageError, match="IOI is made of text, and the model has no tokenizer"):
        IOI().prompts(None, "train", 4, seed=0)
    with pytest.raises(UsageError, match=r"split 'dev'.*train, validation, test"):
        IOI().prompts(tokenizer, "dev", 4, seed=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="examples=0"):
        IOI().prompts(tokenizer, "train", 0, seed=0)
    with pytest.raises(UsageError, match=r"split 'dev'.*train, validation, test"):
        IOI().available(tokenizer, "dev", seed=0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the model has no tokenizer"):
        IOI().available(None, "train", seed=0)


@pytest.mark.parametrize("examples", [0, -1, True, 2.5, "3"])
def test_numbers_of_examples_that_are_none_are_refused(tokenizer: PreTrainedTokenizerBase, examples: Any) -> None:
    with pytest.raises(UsageError, match=f"examples={examples!r}"):
        IOI().prompts(tokenizer, "train", examples, seed=0)


@pytest.mark.parametrize("corruption", ["abc", "swap"])
@pytest.mark.parametrize("order", ["abba", "both"])
@pytest.mark.parametrize("split", get_args(Split))
@pytest.mark.parametrize("held_out", [False, True])
def test_too_many_examples_are_answered_with_how_many_there_are(
    corruption: Any, order: Any, split: Split, held_out: bool
) -> None:
    """By a count that is compared with the prompts themselves."""
    few = without(*NAMES[13 if held_out else 9 :], *PLACES[3:], *OBJECTS[4 if held_out else 2 :])
    task = IOI(corruption, order, template=6 if held_out else None, held_out=held_out)
    batch = task.prompts(few, split, 90_000, seed=0)
    (note,) = batch.notes
    assert note == f"IOI has {len(batch):,} different prompts, fewer than the 90,000 asked for."
    assert len(set(map(tuple, batch.clean.tolist()))) == len(batch) == task.available(few, split, seed=0)
    assert not task.prompts(few, split, len(batch), seed=0).notes


def test_a_billion_examples_are_refused_at_once(tokenizer: PreTrainedTokenizerBase) -> None:
    started = time.perf_counter()
    with pytest.raises(
        UsageError, match=r"IOI has [\d,]{7,} different prompts in the split 'test', fewer than the 1,000,000,000 asked"
    ):
        IOI().prompts(tokenizer, "test", 10**9, seed=0)
    assert time.perf_counter() - started < 10


def test_the_repr_leaves_defaults_out() -> None:
    assert repr(IOI()) == "IOI()"
    assert repr(IOI("swap", template=3)) == "IOI(corruption='swap', template=3)"


def test_preview_shows_pairs_in_columns_and_the_accuracy() -> None:
    model = CircuitModel.from_pretrained("toy")
    shown = IOI("swap", template=0).preview(model, examples=2, seed=0)
    *pairs, supply, measured = shown.split("\n\n")
    assert supply == "Different prompts: 226,816 in train, 113,152 in validation, 113,152 in test."
    assert len(pairs) == 2
    for pair in pairs:
        title, clean, corrupted, marks, answer = pair.split("\n")
        assert "15 tokens" in title
        differs = slice(marks.index("^"), len(marks))
        assert set(marks[differs]) == {"^"}
        assert clean[: differs.start].split()[1:] == corrupted[: differs.start].split()[1:]
        subject, other = clean[differs].strip(), corrupted[differs].strip()
        assert subject != other
        assert answer.endswith(f"(·to): {other}, not {subject}")
    assert measured.startswith("Clean prompts: right on 32 of 32 answers (100.0%), mean logit difference 5.")
    assert shown == IOI("swap", template=0).preview(model, examples=2, seed=0)


class OneAnswer:
    """Stands in for a model without a tokenizer, whose largest logits are those of token 7, then 8."""

    tokenizer, device = None, torch.device("cpu")

    def final_stream(self, batch: PromptBatch) -> torch.Tensor:
        stream = torch.zeros(*batch.answer_positions.shape, 10, dtype=torch.float32)
        stream[..., 7], stream[..., 8] = 3.0, 1.0
        return stream

    def logits(self, stream: torch.Tensor) -> Logits:
        return Logits(stream, torch.eye(10, dtype=torch.float32))


def test_preview_of_answer_sets_several_positions_and_no_wrong_answers() -> None:
    class Given(Task):
        def __init__(self, batch: PromptBatch) -> None:
            self.batch = batch

        def prompts(self, *_: Any) -> PromptBatch:
            return self.batch

    clean, corrupted = [[1, 2, 3], [4, 5]], [[1, 2, 6], [4, 6]]
    sets = PromptBatch.from_ids(clean, corrupted, [[7, 9], [9]], [[8], [7]])
    shown = Given(sets).preview(OneAnswer())  # type: ignore[arg-type]
    # the means differ by (3 + 0) / 2 - 1 and 0 - 3
    assert shown.endswith("right on 1 of 2 answers (50.0%), mean logit difference -1.25.")
    assert "answer after token 3 (3): 7 9, not 8" in shown
    without_wrong = PromptBatch.from_ids(clean, corrupted, [[[7], [8]], [[8]]], answer_positions=[[1, 2], [1]])
    shown = Given(without_wrong).preview(OneAnswer())  # type: ignore[arg-type]
    assert "right on 1 of 3 answers (33.3%), no wrong answers to compare with" in shown
    assert "answer after token 2 (5): 8, not any other" in shown
    nothing = PromptBatch.from_ids(clean, corrupted, [[], []])
    assert Given(nothing).preview(OneAnswer()).endswith("no answers to measure.")  # type: ignore[arg-type]
