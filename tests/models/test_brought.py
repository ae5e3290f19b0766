"""Whatever model people bring works, or gets one clear line."""

import copy

import accelerate
import pytest
import torch
from support.tiny import VOCABULARY, random_batch, tiny_hf
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, LlamaModel

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.fetch import TOY
from circuitkit.run.discoverer import Discoverer, discover


def expected(hf, batch):
    with torch.no_grad():
        rows = [hf(row[real][None]).logits[0, -1] for row, real in zip(batch.clean, batch.mask, strict=True)]
    return torch.stack(rows)


def compiled(hf):
    return torch.compile(hf, backend="eager")


def compiled_in_place(hf):
    hf.compile(backend="eager")
    return hf


def compiled_parts(hf):
    for layer in hf.model.layers:
        layer.mlp = torch.compile(layer.mlp, backend="eager")
        layer.self_attn.q_proj = torch.compile(layer.self_attn.q_proj, backend="eager")
    return hf


def more_tokens(hf):
    hf.resize_token_embeddings(VOCABULARY + 5, mean_resizing=False)
    return hf


def fewer_tokens_with_logits(hf):
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight[:30].detach().clone())
    hf.lm_head.out_features = 30
    return hf


def on_a_device_map(hf):
    return accelerate.dispatch_model(hf, {"": "cpu"}, force_hooks=True)


def with_accelerate_hooks(hf):
    for module in hf.modules():
        accelerate.hooks.add_hook_to_module(module, accelerate.hooks.AlignDevicesHook(execution_device="cpu"))
    return hf


def in_training(hf):
    hf.gradient_checkpointing_enable()
    return hf.train()


def without_gradients(hf):
    return hf.requires_grad_(False)


def made_in_inference_mode(hf):
    with torch.inference_mode():
        return copy.deepcopy(hf)


def fewer_layers(hf):
    hf.model.layers = hf.model.layers[:1]
    hf.config.num_hidden_layers = 1
    return hf


WORKS = [
    compiled, compiled_in_place, compiled_parts, more_tokens, fewer_tokens_with_logits, on_a_device_map,
    with_accelerate_hooks, in_training, without_gradients, fewer_layers,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("change", WORKS)
def test_a_model_that_works(change):
    hf = tiny_hf("llama")
    brought = change(hf)
    batch = random_batch()
    batch = PromptBatch.from_ids(
        [row[real].tolist() for row, real in zip(batch.clean, batch.mask, strict=True)],
        [row[real].tolist() for row, real in zip(batch.corrupted, batch.mask, strict=True)],
        [1, 2, 3],
        [4, 5, 6],
    )
    model = CircuitModel.from_model(brought)
    assert torch.allclose(model.answer_logits(batch)[:, 0], expected(brought.eval(), batch), atol=1e-5)
    found = discover(brought, batch, "eap")
    assert torch.equal(found.circuit.scores, discover(model, batch, "eap").circuit.scores)
    discover(model, batch, "eap", precision="pahq")
    assert torch.allclose(model.answer_logits(batch)[:, 0], expected(brought, batch), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype(dtype):
    hf = tiny_hf("llama", dtype=dtype)
    assert discover(hf, random_batch(), "eap").config["dtype"] == str(dtype).removeprefix("torch.")


def headless(hf):
    return LlamaModel(hf.config)


def classifier(hf):
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, eos_token_id=0))


def no_model(hf):
    return torch.nn.Linear(2, 2)


def two_dtypes(hf):
    hf.lm_head.float()
    return hf


def in_8_bits(hf):
    return hf.to(torch.float8_e4m3fn)


def offloaded(hf):
    return accelerate.cpu_offload(hf, "cpu")


def on_no_device(hf):
    return hf.to("meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (headless, "LlamaModel has no language-model head"),
        (classifier, "has no language-model head"),
        (no_model, "A Linear is not a transformers model"),
        (two_dtypes, r"several dtypes \(float32, float64\).*model\.to\(torch\.float64\)"),
        (in_8_bits, "weights in float8_e4m3fn, in which torch does not compute.*Load it in float32, .* or float16"),
        (offloaded, "not in memory"),
        (on_no_device, "not in memory"),
        (made_in_inference_mode, r"torch\.inference_mode"),
    ],
)
def test_a_model_that_is_one_clear_line(change, message):
    brought = change(tiny_hf("llama"))
    for call in (lambda: CircuitModel.from_model(brought), lambda: discover(brought, random_batch(), "eap")):
        with pytest.raises(UsageError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokenizer", ["its own", "no padding token", "none"])
def test_tokenizers(tokenizer):
    loaded = CircuitModel.from_pretrained("toy")
    given = None if tokenizer == "none" else AutoTokenizer.from_pretrained(TOY)
    if tokenizer == "no padding token":
        given.pad_token = None
    model = CircuitModel.from_model(loaded.model, given)
    if tokenizer == "none":
        with pytest.raises(UsageError, match="no tokenizer"):
            discover(model, "ioi", "eap", examples=4)
    else:
        assert torch.equal(
            discover(model, "ioi", "eap", examples=4).circuit.scores,
            discover("toy", "ioi", "eap", examples=4).circuit.scores,
        )


def test_a_transformers_model_is_given_its_tokenizer_if_that_is_here():
    hf = CircuitModel.from_pretrained("toy").model
    found = discover(hf, "ioi", "eap", examples=4)
    assert torch.equal(found.circuit.scores, discover("toy", "ioi", "eap", examples=4).circuit.scores)
    assert Discoverer(accelerator="cpu").dry_run(hf, "ioi", "eap", examples=4).prompts == 4


@pytest.mark.parametrize(
    ("variant", "clean", "answer", "message"),
    [
        ("gpt2", [[1] * 65], 1, "65 tokens, but the model has positions for 64"),
        ("llama", [[1, VOCABULARY]], 1, f"clean prompt of prompt 0 has the token {VOCABULARY}.*{VOCABULARY} tokens"),
        ("llama", [[1, 2]], VOCABULARY + 7, f"answer of prompt 0 has the token {VOCABULARY + 7}"),
    ],
)
def test_prompts_that_the_model_cannot_run_are_refused_before_any_work(variant, clean, answer, message, monkeypatch):
    model = CircuitModel.from_model(tiny_hf(variant))
    batch = PromptBatch.from_ids(clean, [[1] * len(clean[0])], [answer], [2])
    monkeypatch.setattr(CircuitModel, "context", lambda *_: pytest.fail("work was done"))
    for call in (discover, Discoverer(accelerator="cpu").dry_run):
        with pytest.raises(UsageError, match=message):
            call(model, batch, "eap")
