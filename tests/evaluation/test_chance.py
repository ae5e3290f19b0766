"""Chance: how good a choice at random is, and whether a model does better."""

import numpy as np
import pytest
import torch
from support.tiny import random_batch
from support.word_tokenizers import byte_level, random_reader

from circuitkit.data.accuracy import find_right
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.evaluation.ability import measure_ability
from circuitkit.evaluation.chance import chance_level, chance_notes, model_accuracy
from circuitkit.evaluation.intervals import Figure
from circuitkit.tasks.copy_mcqa import CopyMCQA
from circuitkit.tasks.subject_verb_agreement import SubjectVerbAgreement

PAIRS = [[1, 2], [3, 4]], [[5, 2], [6, 4]]


@pytest.mark.parametrize(
    ("figure", "noted"),
    [
        (Figure(0.5, 0.3, 0.7), True),
        (Figure(0.7, 0.49, 0.9), True),
        (Figure(0.7, 0.51, 0.9), False),  # better than chance for sure
        (Figure(0.75, 0.4, 1.0), False),  # a few prompts, nearly all right
        (Figure(0.2, 0.1, 0.3), True),
        (Figure(None, None, None), False),
        (None, False),
    ],
)
def test_a_model_near_chance_is_noted(figure: Figure | None, noted: bool) -> None:
    batch = random_batch()
    notes = chance_notes(figure, batch, "train")
    assert len(notes) == noted
    assert not notes or "3 train prompts; chance is 50%" in notes[0]
    without = PromptBatch.from_ids([[1, 2]], [[3, 2]], [[[1]]])
    assert chance_notes(figure, without, "train") == []


@pytest.mark.parametrize(
    ("right", "wrong", "chance"),
    [
        ([7, 8], [9, 10], 0.5),
        ([[7], [8]], [[9, 10, 11], [10, 11, 12]], 0.25),
        ([[7, 8], [8]], [[9, 10], [10, 11, 12]], (0.5 + 0.25) / 2),
        ([[7, 8], [8]], None, None),
        ([[], [8]], [[9], [10]], None),
    ],
)
def test_chance_is_the_share_of_answers_among_the_tokens_to_choose_from(
    right: list, wrong: list | None, chance: float | None
) -> None:
    assert chance_level(PromptBatch.from_ids(*PAIRS, right, wrong)) == chance


def test_chance_of_prompts_with_several_positions() -> None:
    positions = [[0, 1], [1]]
    batch = PromptBatch.from_ids(
        *PAIRS, [[[7], [8]], [[9]]], [[[9], [9, 10, 11]], [[1, 2]]], answer_positions=positions
    )
    assert chance_level(batch) == pytest.approx(((1 / 2 + 1 / 4) / 2 + 1 / 3) / 2)


def test_chance_is_what_random_logits_reach() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(20_000, 5, generator=generator, dtype=torch.float64)
    best_right = ranks[:, :2].amax(1) > ranks[:, 2:].amax(1)
    batch = PromptBatch.from_ids([[1, 2]], [[3, 2]], [[7, 8]], [[9, 10, 11]])
    assert best_right.double().mean().item() == pytest.approx(chance_level(batch), abs=0.015)


@pytest.mark.parametrize(("figure", "noted"), [(Figure(0.3, 0.2, 0.4), True), (Figure(0.4, 0.26, 0.6), False)])
def test_a_model_near_the_chance_of_several_choices_is_noted(figure: Figure, noted: bool) -> None:
    batch = PromptBatch.from_ids([[1, 2]], [[3, 2]], [[7]], [[9, 10, 11]])
    notes = chance_notes(figure, batch, "test")
    assert len(notes) == noted
    assert not notes or "larger logit than every wrong answer on 30% of the 1 test prompts; chance is 25%" in notes[0]


def test_the_ability_is_that_of_the_logits_of_every_prompt() -> None:
    tokenizer = byte_level()
    model, task = random_reader(tokenizer), SubjectVerbAgreement("simple")
    found, batch = measure_ability(model, task, examples=20, seed=3), task.prompts(tokenizer, "train", 20, seed=3)
    logits = model.logits(model.final_stream(batch))
    right = find_right(logits, batch)[:, 0].tolist()
    difference = -LogitDifference().values(logits, batch, None).detach().numpy()
    assert found.accuracy is not None
    assert found.logit_difference is not None
    assert found.accuracy.value == pytest.approx(np.mean(right))
    assert found.accuracy == model_accuracy(model, batch)
    assert found.logit_difference.value == pytest.approx(difference.mean(), abs=1e-5)
    assert (found.prompts, found.chance) == (20, 0.5)
    assert found.available == {
        split: task.available(tokenizer, split, seed=3) for split in ("train", "validation", "test")
    }
    assert measure_ability(model, CopyMCQA(), examples=4).chance == 0.25


def test_without_wrong_answers_only_the_accuracy_is_known() -> None:
    class Given(SubjectVerbAgreement):
        def prompts(self, *_: object) -> PromptBatch:
            return PromptBatch.from_ids(*PAIRS, [7, 8])

    found = measure_ability(random_reader(byte_level()), Given())
    assert found.accuracy is not None
    assert (found.chance, found.logit_difference, found.prompts) == (None, None, 2)
