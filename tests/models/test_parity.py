"""A decomposed model computes what the transformers model computes."""

import pytest
import torch
from support.tiny import VARIANTS, random_batch, tiny, tiny_hf
from transformers import CONFIG_MAPPING, BertConfig, BertLMHeadModel

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models import parity
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.families.gpt2 import GPT2
from circuitkit.models.families.llama import Llama
from circuitkit.run.discoverer import discover


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rounding_alone_is_no_reason_to_refuse(variant, seed, dtype, monkeypatch):
    monkeypatch.setattr(parity, "HALF_TOLERANCE", 1e-4)  # so that the wider run always decides
    hf = tiny_hf(variant, seed, torch.float32)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.5)  # rounding moves the logits by up to a tenth of the largest
    CircuitModel.from_model(hf.to(dtype))


def test_rounding_is_told_apart_by_a_wider_run(monkeypatch):
    monkeypatch.setattr(parity, "widen", lambda model: None)
    with pytest.raises(CircuitKitError, match="differ"):
        test_rounding_alone_is_no_reason_to_refuse("llama", 5, torch.bfloat16, monkeypatch)


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_more_than_rounding_is_refused_in_every_dtype(variant, dtype, monkeypatch):
    family = type(tiny(variant).family)
    scale = family.scale
    monkeypatch.setattr(family, "scale", lambda self, layer: scale(self, layer) * (6 if layer == 1 else 1))
    with pytest.raises(CircuitKitError, match=r"differ .* first in the last layer.*Its architecture"):
        CircuitModel.from_model(tiny_hf(variant, dtype=dtype))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_implementation_of_attention(variant, dtype, attention):
    hf = tiny_hf(variant, dtype=dtype)
    hf.set_attn_implementation(attention if hf._supports_sdpa else "eager")  # Gemma 2 has the latter alone
    CircuitModel.from_model(hf)


def test_a_window_that_the_models_code_ignores_is_ignored():
    hf = tiny_hf("llama")
    hf.config.sliding_window = 12
    hf.config.layer_types = ["sliding_attention", "full_attention"]
    model = CircuitModel.from_model(hf)
    assert [model.family.window(layer) for layer in range(2)] == [None, None]
    batch = random_batch(lengths=(20, 17))
    with torch.no_grad():
        theirs = hf(batch.clean[:1]).logits[0, -1]
    assert torch.allclose(model.answer_logits(batch)[0, 0], theirs, atol=1e-5)


@pytest.mark.parametrize("window", [3, 12, 40])
def test_a_window_that_is_missed_is_noticed(window, monkeypatch):
    hf = tiny_hf("mistral")
    hf.config.sliding_window = window
    CircuitModel.from_model(hf)
    monkeypatch.setattr(Llama, "window", lambda self, layer: None)
    with pytest.raises(CircuitKitError, match="differ"):
        CircuitModel.from_model(hf)


def test_a_window_longer_than_the_check_is_checked_when_prompts_pass_it(monkeypatch):
    hf = tiny_hf("mistral")
    hf.config.sliding_window = 100
    monkeypatch.setattr(Llama, "window", lambda self, layer: None)
    model = CircuitModel.from_model(hf)
    model.check_prompts(random_batch(lengths=(100, 90)))
    with pytest.raises(CircuitKitError, match="differ"):
        discover(model, random_batch(lengths=(103, 90)), "eap")
    monkeypatch.undo()
    discover(CircuitModel.from_model(hf), random_batch(lengths=(103, 90)), "eap")


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


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("mixtral", "'mixtral' is a mixture of experts"),
        ("qwen2_moe", "'qwen2_moe' is a mixture of experts"),
        ("jamba", "'jamba' is a mixture of experts"),
        ("bert", "'bert' is an encoder,"),
        ("t5", "'t5' is an encoder-decoder"),
        ("mamba", "'mamba' is a state-space or other recurrent model"),
        ("recurrent_gemma", "'recurrent_gemma' is a state-space or other recurrent model"),
        ("rwkv", "'rwkv' is a state-space or other recurrent model"),
        ("llava", "'llava' is a model of more than text"),
        ("falcon", "There is no supported architecture 'falcon'"),
    ],
)
def test_an_unknown_architecture_names_its_kind_and_the_supported_ones(kind, message, tmp_path):
    CONFIG_MAPPING[kind]().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=rf"{message}.*: gemma.*gpt2.*llama") as caught:
        CircuitModel.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_in_memory():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(UsageError, match="'bert' is an encoder"):
        CircuitModel.from_model(BertLMHeadModel(BertConfig(**sizes, vocab_size=11, is_decoder=True)))


def test_a_model_that_is_not_there():
    with pytest.raises(UsageError, match="no-such-folder"):
        CircuitModel.from_pretrained("./no-such-folder")


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "no_dtype", "nn", torch.complex64])
def test_a_dtype_that_models_cannot_have(dtype):
    with pytest.raises(UsageError, match=f"{dtype}.*Choose float32, float64, bfloat16 or float16"):
        CircuitModel.from_pretrained("toy", dtype=dtype)


def test_the_graph_follows_the_configuration():
    assert len(tiny("llama", kv="head").graph) > len(tiny("llama").graph)
    assert tiny("gpt_neox").graph.parallel
    assert not tiny("gpt_neox_serial").graph.parallel
    assert tiny("qwen3").graph.kv_heads == 2
