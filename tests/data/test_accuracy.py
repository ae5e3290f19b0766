"""Accuracy, against its definition in plain Python."""

import math
from typing import Any

import pytest
import torch
from support.tiny import random_batch, tiny
from torch import Tensor

from circuitkit.data.accuracy import accuracy, find_right
from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch

VOCABULARY = 6


def logits_of(rows: Tensor) -> Logits:
    """`Logits` whose whole vocabulary is `rows` `[..., B, A, V]`."""
    return Logits(rows, torch.eye(rows.shape[-1], dtype=rows.dtype))


def slow_right(rows: Tensor, batch: PromptBatch) -> list[list[bool]]:
    """Of every prompt's answer positions that have an answer, in logits `[B, A, V]`."""
    found = []
    for prompt in range(len(batch)):
        of_prompt = []
        for position in range(batch.answer_positions.shape[1]):
            logits = rows[prompt, position].tolist()
            answers = {token for token in batch.answers[prompt, position].tolist() if token >= 0}
            wrong = {token for token in batch.wrong_answers[prompt, position].tolist() if token >= 0}
            if answers:
                others = wrong or set(range(len(logits))) - answers
                best = max((logits[token] for token in others), default=-math.inf)
                of_prompt.append(max(logits[token] for token in answers) > best)
        found.append(of_prompt)
    return found


def of(answers: Any, wrong: Any = None, positions: Any = None) -> PromptBatch:
    ids = [[1, 2, 3]] * len(answers)
    return PromptBatch.from_ids(ids, ids, answers, wrong, answer_positions=positions)


BATCHES = {
    "one answer": of([1, 2], [3, 4]),
    "sets": of([[1, 2, 3], [2]], [[0], [1, 4, 5]]),
    "no wrong answers": of([1, [2, 3]]),
    "several positions": of([[[1], [2, 0]], [[3], [4]]], [[[2], [1]], [[0, 1], [5]]], [[0, 2], [1, 2]]),
    "fewer positions": of([[[1], [2]], [[3]]], [[[2], [1]], [[0, 1]]], [[0, 2], [1]]),
    "fewer positions, no wrong answers": of([[[1], [2]], [[3, 0]]], None, [[0, 2], [1]]),
    "wrong answers at some positions": of([[[1], [2]], [[3], [4]]], [[[2], []], [[], [0]]], [[0, 2], [1, 2]]),
    "answers at some positions": of([[[1], []], [[3], [4]]], [[[2], []], [[0], [0]]], [[0, 2], [1, 2]]),
    "everything is an answer": of([[*range(VOCABULARY)], [1]]),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
def test_accuracy_is_the_share_of_right_answers(batch: PromptBatch, ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (50, *batch.answer_positions.shape, VOCABULARY)
    if ties:
        rows = torch.randint(3, shape, generator=generator, dtype=torch.long).double()
    else:
        rows = torch.randn(shape, generator=generator, dtype=torch.float64)
    found, right = accuracy(logits_of(rows), batch), find_right(logits_of(rows), batch)
    assert found.shape == (50, len(batch))
    assert found.dtype == torch.float64
    expected = [slow_right(one, batch) for one in rows]
    assert found.tolist() == [[sum(answers) / len(answers) for answers in one] for one in expected]
    assert right.sum((-1, -2)).tolist() == [sum(map(sum, one)) for one in expected]
    assert torch.equal(accuracy(logits_of(rows[0]), batch), found[0])
    assert len(found.unique()) > 1, "some are right and some are not"


def test_a_prompt_without_answers_has_no_accuracy() -> None:
    rows = torch.zeros(2, 1, VOCABULARY, dtype=torch.float64)
    rows[..., 1] = 1
    found = accuracy(logits_of(rows), of([[1], []], [[2], [3]]))
    assert found[0] == 1
    assert found[1].isnan()


def test_of_a_model_with_a_bias_of_its_own_and_other_dtypes() -> None:
    model, batch = tiny("gpt2"), random_batch(positions=2, answers=3)
    logits = model.logits(model.final_stream(batch))
    everything = logits.all()
    expected = [sum(one) / len(one) for one in slow_right(everything, batch)]
    assert accuracy(logits, batch).tolist() == expected
    biased = Logits(logits.hidden, logits.weight, torch.full((len(logits.weight),), 0.0, dtype=torch.float64))
    biased.bias[batch.answers[0, 0, 0]] = 1e6
    assert find_right(biased, batch)[0, 0]
    low = Logits(logits.hidden.bfloat16(), logits.weight.bfloat16())
    assert accuracy(low, batch).dtype == torch.float32


def test_not_a_number_is_not_right() -> None:
    rows = torch.full((1, 1, VOCABULARY), math.nan, dtype=torch.float64)
    assert accuracy(logits_of(rows), of([1], [2])).tolist() == [0]
    assert accuracy(logits_of(rows), of([1])).tolist() == [0]
