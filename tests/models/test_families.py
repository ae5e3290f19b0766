"""Configurations within a family: each is decomposed into what transformers computes, on padded and long prompts."""

import pytest
import torch
from support.tiny import HALF_ROTARY, LLAMA, random_batch, with_large_weights
from transformers import GemmaConfig, GemmaForCausalLM, Phi3Config, Phi3ForCausalLM, PhiConfig, PhiForCausalLM

from circuitkit.models.circuit_model import CircuitModel


def of(model, config, common, **changes):
    """A maker of a model, given whether its embeddings are tied; its name for the test."""
    name = "-".join([config.model_type, *(f"{key}={value}" for key, value in changes.items())])
    return pytest.param(lambda tied: model(config(**common | changes, tie_word_embeddings=tied)), id=name)


PHI3 = LLAMA | {"pad_token_id": 0}
LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.5], "long_factor": [3.0, 8.0],
    }
}  # fmt: skip

CONFIGURATIONS = [
    of(GemmaForCausalLM, GemmaConfig, LLAMA),
    of(GemmaForCausalLM, GemmaConfig, LLAMA, head_dim=6, attention_bias=True),
    of(GemmaForCausalLM, GemmaConfig, LLAMA, num_key_value_heads=1, hidden_act="silu"),
    of(PhiForCausalLM, PhiConfig, LLAMA),
    of(PhiForCausalLM, PhiConfig, LLAMA, num_key_value_heads=4, qk_layernorm=True),
    of(Phi3ForCausalLM, Phi3Config, PHI3),
    of(Phi3ForCausalLM, Phi3Config, PHI3 | HALF_ROTARY, sliding_window=3),
    of(Phi3ForCausalLM, Phi3Config, PHI3, num_key_value_heads=4, sliding_window=8),
    of(Phi3ForCausalLM, Phi3Config, PHI3 | LONGROPE, original_max_position_embeddings=9),
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
    with torch.no_grad():  # each prompt alone: some positions are scaled by the longest prompt of a batch
        rows = [hf(row[real][None]).logits[0, -2:] for row, real in zip(batch.clean, batch.mask, strict=True)]
    theirs = torch.stack(rows)
    assert torch.allclose(model.answer_logits(batch), theirs, atol=1e-5 * theirs.abs().max().item())
