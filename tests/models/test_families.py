"""Configurations within a family: each is decomposed into what transformers computes, on padded and long prompts."""

import pytest
import torch
from support.tiny import GEMMA2, GPTJ, HALF_ROTARY, LLAMA, OPT, random_batch, with_large_weights
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from circuitkit.errors import UsageError
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

SCALED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
    "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
}

CONFIGURATIONS = [
    of(GemmaForCausalLM, GemmaConfig, LLAMA),
    of(GemmaForCausalLM, GemmaConfig, LLAMA, head_dim=6, attention_bias=True),
    of(GemmaForCausalLM, GemmaConfig, LLAMA, num_key_value_heads=1, hidden_act="silu"),
    of(Gemma2ForCausalLM, Gemma2Config, GEMMA2),
    of(Gemma2ForCausalLM, Gemma2Config, GEMMA2, attn_logit_softcapping=None, sliding_window=8, num_key_value_heads=4),
    of(Gemma2ForCausalLM, Gemma2Config, GEMMA2, final_logit_softcapping=None, layer_types=2 * ["full_attention"]),
    of(Gemma3ForCausalLM, Gemma3TextConfig, GEMMA2),  # both layers have windows
    of(Gemma3ForCausalLM, Gemma3TextConfig, GEMMA2, sliding_window_pattern=2, num_key_value_heads=1),
    of(
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GEMMA2,
        sliding_window_pattern=2,
        rope_parameters=SCALED,
        max_position_embeddings=9,
    ),
    of(Olmo2ForCausalLM, Olmo2Config, LLAMA),
    of(Olmo2ForCausalLM, Olmo2Config, LLAMA, num_key_value_heads=4),
    of(Olmo2ForCausalLM, Olmo2Config, LLAMA, num_key_value_heads=1),
    of(GPTJForCausalLM, GPTJConfig, GPTJ, rotary_dim=2),
    of(GPTJForCausalLM, GPTJConfig, GPTJ, rotary_dim=4, n_inner=20),
    of(OPTForCausalLM, OPTConfig, OPT),
    of(OPTForCausalLM, OPTConfig, OPT, enable_bias=False, activation_function="gelu"),
    of(OPTForCausalLM, OPTConfig, OPT, layer_norm_elementwise_affine=False),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_layer_norm_before": False}, "norms after its blocks"),
        ({"word_embed_proj_dim": 8}, "embeddings of another width"),
        ({"_remove_final_layer_norm": True}, "no norm before its unembedding"),
    ],
)
def test_an_opt_that_cannot_be_represented_is_one_line(change, message):
    with pytest.raises(UsageError, match=f"This model has {message}.*Choose a model without it") as caught:
        CircuitModel.from_model(OPTForCausalLM(OPTConfig(**OPT, **change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gemma2ForCausalLM(Gemma2Config(**GEMMA2, attention_bias=True)), "an output bias of the attention"),
        (lambda: Olmo2ForCausalLM(Olmo2Config(**LLAMA, attention_bias=True)), "an output bias of the attention"),
        (
            lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA2, use_bidirectional_attention=True)),
            "attention to later tokens",
        ),
    ],
)
def test_norms_after_the_attention_of_what_is_no_sum_of_heads_are_refused(make, message):
    with pytest.raises(UsageError, match=f"This model has {message}.*Choose a model without it"):
        CircuitModel.from_model(make())
