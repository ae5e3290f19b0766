"""A decomposed model computes what the transformers model computes."""

import pytest
import torch
from support.tiny import VARIANTS, random_batch, tiny, tiny_hf
from transformers import BertConfig, BertLMHeadModel

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.families.gpt2 import GPT2


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_on_left_padded_prompts(variant):
    hf = tiny_hf(variant, dtype=torch.float32)
    model = CircuitModel.from_model(hf)
    assert model.check_parity() < 1e-5
    batch = random_batch(lengths=(3, 11, 7), positions=2)
    with torch.no_grad():
        theirs = hf(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    ours = model.answer_logits(batch)
    assert torch.allclose(ours, model.at_answers(theirs, batch), atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama", "qwen3"])
def test_half_precision(variant):
    CircuitModel.from_model(tiny_hf(variant, dtype=torch.bfloat16))


def test_the_users_model_stays_as_it_was():
    hf = tiny_hf("gpt2").train()
    before = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    model = CircuitModel.from_model(hf)
    first, second = (model.answer_logits(random_batch()) for _ in range(2))
    assert torch.equal(first, second), "no dropout inside"
    assert all(module.training for module in hf.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in hf.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in hf.state_dict().items())
    assert not any(module._forward_hooks for module in hf.modules())


def test_weights_are_views_and_follow_the_users_model():
    hf = tiny_hf("llama")
    model = CircuitModel.from_model(hf)
    batch = random_batch()
    before = model.answer_logits(batch)
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight.mul_(2)
        hf.model.layers[0].self_attn.v_proj.weight.mul_(2)
    with torch.no_grad():
        theirs = hf(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    after = model.answer_logits(batch)
    assert not torch.allclose(after, before)
    assert torch.allclose(after, model.at_answers(theirs, batch), atol=1e-5)


def test_a_wrong_decomposition_is_refused_naming_the_layer(monkeypatch):
    scale = GPT2.scale
    monkeypatch.setattr(GPT2, "scale", lambda self, layer: scale(self, layer) * (2 if layer == 1 else 1))
    with pytest.raises(CircuitKitError, match=r"differ .* first in the last layer"):
        tiny("gpt2")
    monkeypatch.setattr(GPT2, "scale", lambda self, layer: scale(self, layer) * (2 if layer == 0 else 1))
    with pytest.raises(CircuitKitError, match="first in layer 0"):
        tiny("gpt2")
    monkeypatch.setattr(GPT2, "position_constant", lambda self, positions: None)
    with pytest.raises(CircuitKitError, match="first in the embeddings"):
        tiny("gpt2")


def test_weights_that_are_not_finite_are_refused():
    hf = tiny_hf("gpt2")
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(CircuitKitError, match="not finite"):
        CircuitModel.from_model(hf)


def test_an_unknown_architecture_names_the_supported_ones():
    with pytest.raises(UsageError, match=r"'bert'.*gpt2.*llama"):
        CircuitModel.from_model(
            BertLMHeadModel(
                BertConfig(
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    vocab_size=11,
                    is_decoder=True,
                )
            )
        )


def test_a_model_that_is_not_there():
    with pytest.raises(UsageError, match="no-such-folder"):
        CircuitModel.from_pretrained("./no-such-folder")
    with pytest.raises(UsageError, match="int8"):
        CircuitModel.from_pretrained("toy", dtype="int8")


def test_the_graph_follows_the_configuration():
    assert len(tiny("llama", kv="head").graph) > len(tiny("llama").graph)
    assert tiny("gpt_neox").graph.parallel
    assert not tiny("gpt_neox_serial").graph.parallel
    assert tiny("qwen3").graph.kv_heads == 2
