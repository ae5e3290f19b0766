"""Batches of prompts."""

import pytest
import torch

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError


def test_left_padding_positions_and_the_first_difference():
    batch = PromptBatch.from_ids([[5, 6, 7], [8, 9]], [[5, 1, 7], [8, 9]], [1, 2], [3, 4], pad_id=9)
    assert batch.clean.tolist() == [[5, 6, 7], [9, 8, 9]]
    assert batch.mask.tolist() == [[True] * 3, [False, True, True]]
    assert batch.positions.tolist() == [[0, 1, 2], [0, 0, 1]]
    assert batch.answer_positions.tolist() == [[2], [2]]
    assert batch.first_difference.tolist() == [1, 3]
    assert batch.padded
    assert len(batch) == 2
    assert batch.length == 3


def test_answer_positions_count_from_the_start_or_end_of_a_prompt():
    batch = PromptBatch.from_ids(
        [[5, 6, 7], [8, 9]], [[5, 1, 7], [8, 9]], [[[1], [2]], [[3]]], answer_positions=[[0, -1], [0]]
    )
    assert batch.answer_positions.tolist() == [[0, 2], [1, -1]]
    assert batch.answers.tolist() == [[[1], [2]], [[3], [-1]]]
    assert batch.wrong_answers.shape[-1] == 0


def test_splitting_and_tensors():
    ids = torch.arange(12).reshape(4, 3)
    batch = PromptBatch.from_ids(ids, ids, torch.arange(4), torch.arange(4)[:, None])
    parts = batch.split(3)
    assert [len(part) for part in parts] == [3, 1]
    assert torch.equal(torch.cat([part.clean for part in parts]), ids)
    assert parts[1].wrong_answers.tolist() == [[[3]]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "no prompts"),
        (([[1, 2]], [[1]], [3]), "Prompt 0 has 2 clean and 1 corrupted"),
        (([[1], [1, 2]], [[1], [1, 2, 3]], [3, 3]), "Prompt 1 has 2 clean and 3 corrupted"),
        (([[1]], [[1], [2]], [3]), "1 clean and 2 corrupted"),
        (([[]], [[]], [3]), "Prompt 0 is empty"),
        (([[1]], [[1]], [3, 4]), "2 answers for 1 prompts"),
        (([1, 2], [1, 2], [3, 4]), "not rows of token ids"),
    ],
)
def test_malformed_prompts_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        PromptBatch.from_ids(*arguments)


def test_malformed_positions_are_refused():
    with pytest.raises(UsageError, match="Prompt 1 has 2 tokens and no position 2"):
        PromptBatch.from_ids([[1, 2, 3], [1, 2]], [[1, 2, 3], [1, 2]], [1, 2], answer_positions=[2, 2])
    with pytest.raises(UsageError, match="answers for 1 positions, but 2 answer positions"):
        PromptBatch.from_ids([[1, 2]], [[1, 2]], [1], answer_positions=[[0, 1]])
