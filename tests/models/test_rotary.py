"""Positions scaled by the prompt's length: each prompt's as if it ran alone in a new model."""

import copy

import pytest
import torch
from support.tiny import VOCABULARY, random_batch
from transformers import LlamaConfig, LlamaForCausalLM

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import discover

_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3,
}  # fmt: skip
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [3.0, 4.0, 6.0, 8.0]}
SCALINGS = {
    "dynamic": (12, {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}),
    "longrope": (
        48,
        {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 12, **FACTORS},
    ),
    "yarn": (48, {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 12}),
    "linear": (48, {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
}


def scaled(kind):
    longest, rule = SCALINGS[kind]
    torch.manual_seed(0)
    config = LlamaConfig(**_SIZES, max_position_embeddings=longest, rope_parameters=rule)
    return LlamaForCausalLM(config).double().eval()


def alone(hf, row):
    """What a new model computes for one prompt."""
    with torch.no_grad():
        return copy.deepcopy(hf)(row[None]).logits[0, -1]


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_prompt_is_computed_as_if_it_ran_alone(kind):
    hf = scaled(kind)
    pristine = copy.deepcopy(hf)
    hf(torch.arange(37)[None])  # dynamic scaling remembers the longest prompt
    model = CircuitModel.from_model(hf)
    lengths = (30, 5, 20, 11, 13, 12)
    batch = random_batch(lengths=lengths)
    for one in (batch, batch[1:4], batch):  # whatever else is in the batch, and whatever ran before
        logits = model.answer_logits(one)[:, 0]
        rows = [alone(pristine, row[real]) for row, real in zip(one.clean, one.mask, strict=True)]
        assert torch.allclose(logits, torch.stack(rows), atol=1e-5)


@pytest.mark.parametrize("kind", SCALINGS)
def test_scores_are_those_of_the_prompts_one_by_one(kind):
    model = CircuitModel.from_model(scaled(kind))
    batch = random_batch(lengths=(30, 9, 13))
    together = discover(model, batch, "eap").circuit.scores
    one_by_one = []
    for row in range(len(batch)):
        keep = batch.mask[row]
        alone = PromptBatch.from_ids(
            batch.clean[row, keep][None], batch.corrupted[row, keep][None], batch.answers[row : row + 1],
            batch.wrong_answers[row : row + 1],
        )  # fmt: skip
        one_by_one.append(discover(model, alone, "eap").circuit.scores)
    assert torch.allclose(together, torch.stack(one_by_one).mean(0), atol=1e-6)


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_models_own_rotary_module_stays_as_it_was(kind):
    hf = scaled(kind)
    model = CircuitModel.from_model(hf)
    before = {name: buffer.clone() for name, buffer in hf.named_buffers()}
    cached = hf.model.rotary_emb.max_seq_len_cached
    model.answer_logits(random_batch(lengths=(30, 5)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in hf.named_buffers())
    assert hf.model.rotary_emb.max_seq_len_cached == cached
