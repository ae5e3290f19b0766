"""Configurations within a family: each is decomposed into what transformers computes, on padded and long prompts."""

import pytest
import torch
from support.tiny import LLAMA, random_batch, with_large_weights
from transformers import GemmaConfig, GemmaForCausalLM

from circuitkit.models.circuit_model import CircuitModel


def of(model, config, common, **changes):
    """A maker of a model, given whether its embeddings are tied; its name for the test."""
    name = "-".join([config.model_type, *(f"{key}={value}" for key, value in changes.items())])
    return pytest.param(lambda tied: model(config(**common | changes, tie_word_embeddings=tied)), id=name)


CONFIGURATIONS = [
    of(GemmaForCausalLM, GemmaConfig, LLAMA),
    of(GemmaForCausalLM, GemmaConfig, LLAMA, head_dim=6, attention_bias=True),
    of(GemmaForCausalLM, GemmaConfig, LLAMA, num_key_value_heads=1, hidden_act="silu"),
]


@pytest.mark.parametrize("make", CONFIGURATIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_configuration(make, tied):
    torch.manual_seed(0)
    hf = with_large_weights(make(tied)).eval()
    assert (hf.get_output_embeddings().weight is hf.get_input_embeddings().weight) == tied
    model = CircuitModel.from_model(hf)
    assert model.check_parity() < 1e-5
    assert model.check_parity(40) < 1e-5
    batch = random_batch(lengths=(3, 11, 7), positions=2)
    with torch.no_grad():
        theirs = hf(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    ours = model.answer_logits(batch)
    assert torch.allclose(ours, model.at_answers(theirs, batch), atol=1e-5 * theirs.abs().max().item())
