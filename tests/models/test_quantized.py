"""Models that bitsandbytes has quantized, and models with LoRA adapters."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from support.tiny import random_batch, tiny_hf
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.families.llama import Llama
from circuitkit.models.linear_layers import matrix
from circuitkit.run.discoverer import Discoverer, discover
from circuitkit.run.resources import bytes_of

_SIZES = {"vocab_size": 37, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**_SIZES, intermediate_size=128, num_key_value_heads=2, initializer_range=0.15, mlp_bias=True)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=37, n_embd=64, n_layer=2, n_head=4, initializer_range=0.1, eos_token_id=0)
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZES, intermediate_size=128, initializer_range=0.1)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**_SIZES, ffn_dim=128, init_std=0.1)),
    "phi3": lambda: Phi3ForCausalLM(
        Phi3Config(**_SIZES, intermediate_size=128, num_key_value_heads=2, initializer_range=0.15, pad_token_id=0)
    ),
}
QUANTIZATIONS = {
    "fp4": {"load_in_4bit": True},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    },
    "int8": {"load_in_8bit": True},
}


def quantized(family, how, folder, dtype=torch.float32):
    torch.manual_seed(0)
    MODELS[family]().save_pretrained(folder)
    config = BitsAndBytesConfig(**QUANTIZATIONS[how])
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", QUANTIZATIONS)
@pytest.mark.parametrize("family", MODELS)
def test_a_quantized_model_is_read_dequantized_and_stays_quantized(family, how, dtype, tmp_path):
    hf, batch = quantized(family, how, tmp_path, dtype), random_batch(lengths=(7, 7))
    model = CircuitModel.from_model(hf)
    kinds = {name: parameter.dtype for name, parameter in hf.named_parameters()}
    with torch.no_grad():
        theirs = model.at_answers(hf(batch.clean).logits, batch)
    assert (model.answer_logits(batch) - theirs).abs().max() < 0.1 * theirs.abs().max()
    for strategy in ("eap", {"class_path": "acdc", "init_args": {"threshold": 0.1}}):
        result = discover(model, batch, strategy)
        assert any("quantized (Linear" in note for note in result.notes)
    assert "quantized" in str(result)
    assert {name: parameter.dtype for name, parameter in hf.named_parameters()} == kinds
    assert {torch.uint8, torch.int8} & set(kinds.values())


@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_a_folder_of_a_quantized_model(how, tmp_path):
    hf = quantized("llama", how, tmp_path / "plain")
    hf.save_pretrained(tmp_path / "quantized")
    model = CircuitModel.from_pretrained(tmp_path / "quantized")
    assert "quantized" in model.notes[0]
    assert torch.allclose(model.weights.attention(1).q, CircuitModel.from_model(hf).weights.attention(1).q, atol=5e-3)


@pytest.mark.parametrize("how", QUANTIZATIONS)
def test_dequantized_matrices_are_those_that_the_layer_computes_with(how, tmp_path):
    hf = quantized("llama", how, tmp_path)
    layer, x = hf.model.layers[0].self_attn.v_proj, torch.eye(64)  # rows of one value: no rounding of activations
    before = matrix(layer, torch.float32)
    with torch.no_grad():
        computed = layer(x).T
    for read in (before, matrix(layer, torch.float32)):  # some layers repack their weights when they first run
        assert torch.allclose(read, computed, atol=0.01 * computed.abs().max().item())


def test_a_true_difference_is_refused_in_a_quantized_model_too(tmp_path, monkeypatch):
    hf = quantized("llama", "nf4", tmp_path)
    monkeypatch.setattr(Llama, "scale", lambda self, layer: 1.0)
    with pytest.raises(CircuitKitError, match="Its architecture"):
        CircuitModel.from_model(hf)


def test_a_quantized_model_holds_and_says_as_many_bytes_as_it_has(tmp_path):
    hf, batch = quantized("llama", "nf4", tmp_path), random_batch(lengths=(7, 7))
    model = CircuitModel.from_model(hf)
    plain = sum(p.nbytes for p in hf.parameters()) + sum(b.nbytes for b in hf.buffers())
    states = [m.weight.quant_state for m in hf.modules() if hasattr(m, "quant_state")]
    scales = sum(state.absmax.nbytes for state in states)
    tables = sum(state.state2.code.nbytes for state in states)  # of the scales, 1 KiB each; layers may share them
    assert scales
    assert tables
    assert plain + scales <= bytes_of(model, model.device) < 1.2 * (plain + scales) + tables
    assert Discoverer(accelerator="cpu").dry_run(model, batch, "eap").weights["weights"] == bytes_of(
        model, model.device
    )


@pytest.mark.parametrize("policy", ["pahq", "all_low"])
def test_a_policy_on_a_quantized_model_is_one_line(policy, tmp_path):
    hf, batch = quantized("llama", "nf4", tmp_path), random_batch(lengths=(7, 7))
    model = CircuitModel.from_model(hf)
    with pytest.raises(UsageError, match=r"quantized .*already.*precision: full") as caught:
        discover(model, batch, "eap", precision=policy)
    assert "\n" not in str(caught.value)
    discover(model, batch, "eap", precision="full")


TARGETS = {
    "llama": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"],
    "gemma2": ["q_proj", "o_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h"],
    "gptj": ["q_proj", "out_proj", "fc_in"],
    "olmo2": ["q_proj", "k_proj", "o_proj"],
    "opt": ["q_proj", "out_proj", "fc1", "fc2"],
    "phi3": ["qkv_proj", "gate_up_proj", "down_proj"],
}


def with_lora(hf, seed=1, **options):
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, lora_dropout=0.1, **options)
    return get_peft_model(hf, config).to(hf.dtype).eval()


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_adapters_are_part_of_the_weights(family):
    hf, batch = tiny_hf(family), random_batch()
    plain = CircuitModel.from_model(copy.deepcopy(hf)).answer_logits(batch)
    peft = with_lora(hf, target_modules=TARGETS[family])
    state = {name: tensor.clone() for name, tensor in peft.state_dict().items()}
    result = discover(CircuitModel.from_model(peft), batch, "eap")
    assert any("LoRA adapters default" in note for note in result.notes)
    assert all(torch.equal(tensor, state[name]) for name, tensor in peft.state_dict().items())
    merged = CircuitModel.from_model(copy.deepcopy(peft).merge_and_unload())
    assert torch.allclose(CircuitModel.from_model(peft).answer_logits(batch), merged.answer_logits(batch), atol=1e-10)
    assert torch.allclose(result.circuit.scores, discover(merged, batch, "eap").circuit.scores, atol=1e-6)
    assert not torch.allclose(merged.answer_logits(batch), plain)
    assert not merged.notes


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_only_active_adapters_count():
    hf, batch = tiny_hf("llama"), random_batch()
    plain = CircuitModel.from_model(copy.deepcopy(hf)).answer_logits(batch)
    peft = with_lora(hf, target_modules=TARGETS["llama"][:-1])
    peft.add_adapter("other", LoraConfig(r=2, init_lora_weights=False, target_modules=["k_proj", "up_proj"]))
    peft.to(torch.float64)
    model, found = CircuitModel.from_model(peft), []
    for change in (lambda: None, lambda: peft.set_adapter("other"), peft.merge_adapter, peft.unmerge_adapter):
        change()
        model.synchronize()
        found.append(model.answer_logits(batch))
        with torch.no_grad():
            theirs = peft(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
        assert torch.allclose(found[-1], model.at_answers(theirs, batch), atol=1e-5)
    assert not torch.allclose(found[0], found[1])
    assert torch.allclose(found[1], found[2])
    with peft.disable_adapter():
        assert torch.allclose(CircuitModel.from_model(peft).answer_logits(batch), plain)


def test_adapters_on_a_quantized_model(tmp_path):
    peft = with_lora(quantized("llama", "nf4", tmp_path), target_modules=["q_proj", "down_proj"])
    notes = discover(CircuitModel.from_model(peft), random_batch(lengths=(7, 7)), "eap").notes
    assert ["quantized" in notes[0], "LoRA" in notes[1]] == [True, True]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(use_dora=True, target_modules=["q_proj"], init_lora_weights=False), "merge_and_unload"),
        (LoraConfig(lora_bias=True, target_modules=["up_proj"], init_lora_weights=False), "merge_and_unload"),
        (LoraConfig(target_modules=["embed_tokens"], init_lora_weights=False), "merge_and_unload"),
        (IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]), "merge_and_unload"),
        (PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"), "learned prompts"),
    ],
)
def test_other_adapters_are_one_line(config, message):
    peft = get_peft_model(tiny_hf("llama", dtype=torch.float32), config)
    with pytest.raises(UsageError, match=message) as caught:
        CircuitModel.from_model(peft)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", ["pahq", "all_low"])
def test_a_policy_on_adapters_is_one_line(policy):
    model = CircuitModel.from_model(with_lora(tiny_hf("llama"), target_modules=["q_proj"]))
    with pytest.raises(UsageError, match="merge_and_unload"):
        discover(model, random_batch(), "eap", precision=policy)
