"""Prompts of the compiled programs."""

from itertools import product

import pytest
from transformers import AutoTokenizer

from circuitkit.errors import UsageError
from circuitkit.models.fetch import PACKAGED, TOY
from circuitkit.tasks.base import Split, Task, own_objective
from circuitkit.tasks.tracr import TracrFracPrevs, TracrReverse

CASES = {"tracr-reverse": (TracrReverse, "012"), "tracr-frac-prevs": (TracrFracPrevs, "wxyz")}
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def texts(task: Task, name: str, split: Split, seed: int = 0, examples: int = 10_000) -> list[tuple[str, str]]:
    """Make pairs, as text without spaces."""
    tokenizer = AutoTokenizer.from_pretrained(PACKAGED[name][1])
    batch = task.prompts(tokenizer, split, examples, seed)
    rows = zip(batch.clean, batch.corrupted, batch.mask, strict=True)
    return [
        tuple("".join(tokenizer.convert_ids_to_tokens(ids[real])) for ids in (one, other)) for one, other, real in rows
    ]


@pytest.mark.parametrize("name", CASES)
def test_the_splits_share_all_inputs_out(name: str) -> None:
    make, vocabulary = CASES[name]
    every = {"BOS" + "".join(tokens) for length in range(1, 6) for tokens in product(vocabulary, repeat=length)}
    found = {split: texts(make(), name, split) for split in SPLITS}
    clean = [one for pairs in found.values() for one, _ in pairs]
    assert len(clean) == len(every)
    assert set(clean) == every
    assert [len(pairs) for pairs in found.values()] == [make().available(None, split, 0) for split in SPLITS]
    for split, pairs in found.items():
        own = {one for one, _ in pairs}
        assert {len(one) for one in own} == {len("BOS") + length for length in range(1 if split == "train" else 2, 6)}
        for one, other in pairs:
            assert other in own
            assert other != one
            assert len(other) == len(one)
    assert texts(make(), name, "train", 0) == found["train"] != texts(make(), name, "train", 1)
    assert texts(make(), name, "train", 0, 5) == found["train"][:5]


def test_answers_are_the_reversed_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(PACKAGED["tracr-reverse"][1])
    batch = TracrReverse().prompts(tokenizer, "test", 90, 0)
    for row in range(len(batch)):
        tokens = batch.clean[row][batch.mask[row]].tolist()[1:]
        asked = batch.answer_positions[row] >= 0
        assert batch.answers[row][asked][:, 0].tolist() == tokens[::-1]
        wrong = [set(options.tolist()) for options in batch.wrong_answers[row][asked]]
        assert wrong == [{0, 1, 2} - {token} for token in tokens[::-1]]
        assert batch.templates[row] == f"length {len(tokens)}"


def test_a_number_has_no_answer_tokens() -> None:
    batch = TracrFracPrevs().prompts(AutoTokenizer.from_pretrained(PACKAGED["tracr-frac-prevs"][1]), "test", 9, 0)
    assert (batch.answers < 0).all()
    assert (own_objective(TracrFracPrevs()), own_objective(TracrReverse())) == ("squared_error", "logit_difference")
    assert (batch.answer_positions >= 0).sum(1).tolist() == (batch.mask.sum(1) - 1).tolist()


def test_another_models_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"for the model 'tracr-reverse'.*no token 'BOS'"):
        TracrReverse().prompts(AutoTokenizer.from_pretrained(TOY), "train", 1, 0)
    with pytest.raises(UsageError, match="no tokenizer"):
        TracrReverse().prompts(None, "train", 1, 0)
