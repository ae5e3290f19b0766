"""The packaged toy model is small, loads without a network, and does its task."""

import dataclasses
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.fetch import TOY
from circuitkit.tasks.ioi import IOI, TEMPLATES


@pytest.fixture(scope="module")
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


def test_it_is_small(toy: CircuitModel) -> None:
    assert sum(path.stat().st_size for path in TOY.iterdir()) < 1_000_000
    assert sum(parameter.numel() for parameter in toy.model.parameters()) < 250_000


def test_its_tokenizer_keeps_the_leading_space_and_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(TOY)
    text = "Then, Mary and John went to the store. John gave a drink to"
    ids = tokenizer.encode(text)
    assert len(ids) == 15
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text + " Mary")[:-1] == ids
    assert tokenizer.encode("Xylophones")[0] == tokenizer.unk_token_id


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_it_knows_every_template(toy: CircuitModel, template: int) -> None:
    assert len(IOI(template=template).prompts(toy.tokenizer, "train", 8, seed=0)) == 8


@pytest.mark.parametrize("corruption", ["abc", "swap"])
@pytest.mark.parametrize("order", ["abba", "baba"])
def test_it_solves_held_out_prompts(toy: CircuitModel, corruption: Any, order: Any) -> None:
    """Whose pairs of names its training never saw: it was trained on the train split of seed 0."""
    batch = IOI(corruption, order).prompts(toy.tokenizer, "test", 300, seed=0)
    with torch.no_grad():
        logits = toy.answer_logits(batch)  # [B, 1, V]
    difference = logits.gather(-1, batch.answers) - logits.gather(-1, batch.wrong_answers)
    assert (logits.argmax(-1, keepdim=True) == batch.answers).float().mean() >= 0.99
    assert (difference > 0).float().mean() >= 0.99
    assert difference.mean() > 3


@pytest.mark.parametrize(("corruption", "low", "high"), [("abc", -0.5, 0.5), ("swap", -9.0, -3.0)])
def test_a_corrupted_prompt_says_nothing_or_the_contrary(
    toy: CircuitModel, corruption: Any, low: float, high: float
) -> None:
    batch = IOI(corruption).prompts(toy.tokenizer, "test", 300, seed=0)
    batch = dataclasses.replace(batch, clean=batch.corrupted)
    with torch.no_grad():
        logits = toy.answer_logits(batch)
    difference = logits.gather(-1, batch.answers) - logits.gather(-1, batch.wrong_answers)
    assert low < difference.mean() < high
