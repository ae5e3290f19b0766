"""GGUF files by path: the model in the file, or one line that says why not."""

import importlib.util

import gguf
import pytest
import torch
from support.gguf_files import F32, LETTERS, Q8_0, write_gguf
from support.tiny import HALF_ROTARY, with_large_weights
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import discover

SIZES = {
    "vocab_size": len(LETTERS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
OTHER = {"rms_norm_eps": 0.1, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}
"""Not what transformers takes where a file says nothing."""
WINDOW = {"attention__sliding_window": (3, gguf.GGUFValueType.UINT32)}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0, 3, 3]])


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**SIZES | changes))


def phi3(**changes):
    return Phi3ForCausalLM(Phi3Config(**SIZES, pad_token_id=0, **changes))


def mistral():
    return MistralForCausalLM(MistralConfig(**SIZES, **OTHER, sliding_window=None))


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, **OTHER))


def qwen3(**changes):
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, **OTHER, head_dim=16, **changes))


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(LETTERS), layer_norm_epsilon=0.1, **sizes))


def written(path, model, kind=F32, **more):
    """The model with large weights, which are also in the file."""
    torch.manual_seed(0)
    model = with_large_weights(model).eval()
    if kind == Q8_0:
        for weight in model.parameters():
            if weight.dim() == 2:  # to values that 8 bits hold
                rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.detach().numpy(), Q8_0), Q8_0)
                weight.data.copy_(torch.tensor(rounded))
    write_gguf(model, path, kind, **more)
    return model


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (llama, Q8_0),
        (lambda: llama(tie_word_embeddings=True, **OTHER), F32),
        (mistral, F32),
        (qwen2, F32),
        (qwen3, F32),
        (lambda: phi3(**OTHER), F32),
        (gpt2, F32),
    ],
    ids=["llama-Q8_0", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "gpt2"],
)
def test_the_model_is_the_one_in_the_file(make, kind, tmp_path):
    hf = written(tmp_path / "tiny.gguf", make(), kind)
    model = CircuitModel.from_pretrained(tmp_path / "tiny.gguf")
    with torch.no_grad():
        torch.testing.assert_close(model.model(IDS).logits, hf(IDS).logits)
    assert model.tokenizer.convert_ids_to_tokens(model.tokenizer.encode("cab a")) == ["c", "a", "b", "Ġa"]
    assert all(model.family.window(layer) is None for layer in range(2))
    assert not model.notes


def test_it_is_a_model_like_any_other(tmp_path, monkeypatch):
    """Its path may be relative, and its weights can be saved, converted and put under a policy."""
    hf = written(tmp_path / "tiny.gguf", llama())
    (tmp_path / "here").mkdir()
    written(tmp_path / "here" / "tiny.gguf", llama(num_hidden_layers=1))  # the same name, but not the one asked for
    monkeypatch.chdir(tmp_path / "here")
    batch = PromptBatch.from_ids([[1, 2, 3], [4, 5, 6]], [[1, 7, 3], [4, 0, 6]], [1, 2], [4, 5])
    found = discover("../tiny.gguf", batch, "eap", precision="pahq")
    assert found.config["model"] == "../tiny.gguf"
    model = CircuitModel.from_pretrained("../tiny.gguf", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.tokenizer is not None
    model.model.to(torch.float64).save_pretrained(tmp_path / "folder")
    saved = CircuitModel.from_pretrained(tmp_path / "folder").model.state_dict()
    assert all(torch.equal(saved[name], weight.bfloat16().float()) for name, weight in hf.state_dict().items())


def test_a_sliding_window_is_read(tmp_path):
    hf = written(tmp_path / "tiny.gguf", phi3(sliding_window=3), **WINDOW)
    model = CircuitModel.from_pretrained(tmp_path / "tiny.gguf")
    assert model.family.window(1) == 3
    with torch.no_grad():
        torch.testing.assert_close(model.model(IDS).logits, hf(IDS).logits)


def test_the_frequencies_of_llama_3_are_read(tmp_path):
    hf = llama(rope_parameters=LLAMA3)
    rotary, plain = hf.model.rotary_emb, llama().model.rotary_emb
    factors = plain.inv_freq / rotary.inv_freq
    assert factors.max() == 8
    written(tmp_path / "tiny.gguf", hf, rope_freqs__weight=factors)
    model = CircuitModel.from_pretrained(tmp_path / "tiny.gguf")
    with torch.no_grad():
        torch.testing.assert_close(model.model(IDS).logits, hf(IDS).logits)
        rotary.inv_freq = plain.inv_freq
        assert not torch.allclose(model.model(IDS).logits, hf(IDS).logits, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (llama, {"rope__scaling__type": ("yarn", gguf.GGUFValueType.STRING)}, r"scaled rotary positions \(yarn\)"),
        (phi3, {"rope_factors_long__weight": torch.ones(4)}, r"scaled rotary positions \(longrope\)"),
        (lambda: phi3(**HALF_ROTARY), {"rope__dimension_count": 4}, "rotary positions of 4 of the 8 dimensions"),
        (llama, WINDOW, "a sliding window of 3 tokens"),
        (mistral, {"name": "mistral"}, r"the general\.name 'mistral'"),
        (mistral, WINDOW, "a sliding window of 3 tokens"),
        (qwen2, WINDOW, "a sliding window of 3 tokens"),
        (qwen3, WINDOW, "a sliding window of 3 tokens"),
        (gpt2, WINDOW, "a sliding window of 3 tokens"),
        (lambda: llama(attention_bias=True), {}, r"weights 'blk\.0\.attn_k\.bias' and 7 more"),
        (lambda: qwen3(attention_bias=True), {}, r"weights 'blk\.0\.attn_k\.bias' and 7 more"),
    ],
)
def test_what_transformers_does_not_read_is_refused(make, more, message, tmp_path):
    written(tmp_path / "tiny.gguf", make(), **more)
    with pytest.raises(UsageError, match=rf"tiny\.gguf' has {message}.* Hugging Face folder") as caught:
        CircuitModel.from_pretrained(tmp_path / "tiny.gguf")
    assert "\n" not in str(caught.value)


def damaged(path):
    written(path, llama())
    path.write_bytes(path.read_bytes()[:3000])


def of_another_kind(path):
    path.write_bytes(b"no GGUF file at all")


def mixtral(path):
    written(path, llama(), expert_count=(4, gguf.GGUFValueType.UINT32))


def of_architecture(name):
    """A maker of a file that says only this."""

    def make(path):
        writer = gguf.GGUFWriter(path, name)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"There is no file '.*tiny\.gguf'"),
        (damaged, "is not a whole GGUF file"),
        (of_another_kind, "is not a whole GGUF file"),
        *(
            (
                of_architecture(name),
                rf"of the architecture '{name}', .* It reads llama \(also Mistral\), qwen2, .*folder",
            )
            for name in ("gptj", "gemma2", "gemma3", "qwen2moe", "mistral")
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(make, message, tmp_path):
    make(tmp_path / "tiny.gguf")
    with pytest.raises((UsageError, CircuitKitError), match=message) as caught:
        CircuitModel.from_pretrained(tmp_path / "tiny.gguf")
    assert "\n" not in str(caught.value)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, monkeypatch):
    written(tmp_path / "tiny.gguf", llama())
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name))
    with pytest.raises(UsageError, match=r'accelerate.*pip install "pahq-circuitkit\[gguf\]"'):
        CircuitModel.from_pretrained(tmp_path / "tiny.gguf")
