"""Compiled models compute their programs, without JAX, in transformers and decomposed."""

import sys
from itertools import product

import pytest
import torch
from support.tiny import random_batch, tiny, tiny_hf
from transformers import AutoModelForCausalLM

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.fetch import PACKAGED
from circuitkit.models.tracr import TracrLMHeadModel

VOCABULARY = {"tracr-reverse": range(3), "tracr-frac-prevs": range(2, 6)}
BOS = {"tracr-reverse": 3, "tracr-frac-prevs": 0}
X = 3
"""The token x of `tracr-frac-prevs`."""


def every_input(name: str) -> PromptBatch:
    """Make a batch of every input, with all positions but the first as answers."""
    inputs = [list(one) for length in range(1, 6) for one in product(VOCABULARY[name], repeat=length)]
    prompts = [[BOS[name], *one] for one in inputs]
    none = [[[-1]] * len(one) for one in inputs]
    return PromptBatch.from_ids(prompts, prompts, none, answer_positions=[list(range(1, len(one))) for one in prompts])


def program(name: str, tokens: list[int]) -> list[list[float]]:
    """Return the outputs of a program, one per logit."""
    if name == "tracr-reverse":
        return [[float(value == token) for value in range(3)] for token in reversed(tokens)]
    return [[sum(token == X for token in tokens[: end + 1]) / (end + 1)] for end in range(len(tokens))]


@pytest.mark.parametrize("name", VOCABULARY)
def test_every_input_gives_what_the_program_gives(name: str) -> None:
    model, batch = CircuitModel.from_pretrained(name, dtype="float64"), every_input(name)
    logits = model.answer_logits(batch)
    theirs = model.model(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    for row in range(len(batch)):
        asked = batch.answer_positions[row] >= 0
        tokens = batch.clean[row][batch.mask[row]].tolist()[1:]
        wanted = torch.tensor(program(name, tokens), dtype=torch.float64)
        assert torch.allclose(logits[row][asked], wanted, atol=1e-6)
        assert torch.allclose(theirs[row][batch.mask[row]][1:], wanted, atol=1e-6)


def test_a_compiled_model_is_a_transformers_model() -> None:
    model = AutoModelForCausalLM.from_pretrained(PACKAGED["tracr-reverse"][1])
    assert isinstance(model, TracrLMHeadModel)
    ids = torch.tensor([[3, 0, 0, 1]])
    assert model(ids).logits[0, 1:].argmax(-1).tolist() == [1, 0, 0]
    assert torch.equal(model(ids, logits_to_keep=1).logits, model(ids).logits[:, -1:])


def test_loading_needs_no_jax() -> None:
    CircuitModel.from_pretrained("tracr-reverse")
    assert not {"jax", "tracr", "haiku"} & set(sys.modules)


def test_a_position_sees_all_others() -> None:
    model, batch = tiny("tracr"), random_batch(lengths=(6, 4))
    changed = batch.clean.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 37
    context = model.context(batch)
    before, after = (
        [stream for *_, stream in model.run(model.inputs(ids, context), context)][-1] for ids in (batch.clean, changed)
    )
    assert ((before - after)[batch.mask].abs().amax(-1) > 1e-6).all()
    hf = tiny_hf("tracr")
    alone = hf(batch.clean[1:, 2:]).logits[0]
    with_padding = hf(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits[1, 2:]
    assert torch.allclose(alone, with_padding, atol=1e-12)
