"""Checkpoints that lack weights, and names that nothing answers to."""

import json
import logging
from importlib.metadata import EntryPoint

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny import VARIANTS, tiny_hf

from circuitkit import discover
from circuitkit.config import registry
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models import loading
from circuitkit.models.circuit_model import CircuitModel


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_whole_checkpoint_is_loaded(variant, tmp_path):
    hf = tiny_hf(variant, dtype=torch.float32)
    hf.save_pretrained(tmp_path)
    loaded = CircuitModel.from_pretrained(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in hf.state_dict().items())


def test_tied_weights_are_not_missing(tmp_path):
    hf = tiny_hf("gpt2", dtype=torch.float32)
    assert hf.lm_head.weight is hf.transformer.wte.weight
    hf.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    CircuitModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("layers.1.mlp.up_proj", r"lacks weights: 'model\.layers\.1\.mlp\.up_proj\.weight'\. Download"),
        ("self_attn", r"lacks weights: 'model\.layers\.0\.self_attn\.k_proj\.weight' and 7 more\."),
        ("lm_head", r"lacks weights: 'lm_head\.weight'\."),
    ],
)
def test_a_checkpoint_that_lacks_weights_is_refused(part, message, tmp_path, caplog):
    tiny_hf("llama", dtype=torch.float32).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda weights: {name: tensor for name, tensor in weights.items() if part not in name})
    with pytest.raises(CircuitKitError, match=message) as caught:
        CircuitModel.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert not caplog.records


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    tiny_hf("llama", dtype=torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(CircuitKitError, match=r"another shape .*'model\.layers\.0\.mlp\.down_proj\.weight' and 5 more"):
        CircuitModel.from_pretrained(tmp_path)


def test_a_name_that_no_hub_answers_for_is_one_line(monkeypatch, caplog, capfd):
    hub = logging.getLogger("huggingface_hub.utils._http")

    def no_answer(*args, **kwargs):
        hub.warning("thrown while requesting HEAD; Retrying in 1s [Retry 1/5].")
        raise OSError("We couldn't connect to the hub.\nMore lines.")

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", no_answer)
    with pytest.raises(UsageError, match="There is no model 'nobody/nothing'") as caught:
        CircuitModel.from_pretrained("nobody/nothing")
    assert "\n" not in str(caught.value)
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert hub.isEnabledFor(logging.WARNING), "only while loading"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_folder_without_a_tokenizer_has_none(kind, tmp_path):
    """Transformers makes an empty tokenizer for some types of models."""
    tiny_hf(kind).save_pretrained(tmp_path)
    model = CircuitModel.from_pretrained(tmp_path)
    assert model.tokenizer is None
    with pytest.raises(UsageError, match="no tokenizer"):
        discover(model, "ioi", "eap", examples=4)


def test_a_class_registered_as_a_family_that_is_none(tmp_path, monkeypatch):
    tiny_hf("llama").save_pretrained(tmp_path)
    entries = registry._entries("families") | {"llama": EntryPoint("llama", "pathlib:Path", "circuitkit.families")}
    monkeypatch.setattr(registry, "_entries", lambda _: entries)
    with pytest.raises(UsageError, match=r"pathlib\.Path, registered for 'llama' models, is no subclass of"):
        CircuitModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "nowhere/" + "x" * 300])
def test_a_long_name_is_no_model(name):
    with pytest.raises(UsageError, match="There is no model"):
        CircuitModel.from_pretrained(name)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UsageError, match=r"has no config\.json, and so no model\. Give one that `save_pretrained`"):
        CircuitModel.from_pretrained(tmp_path)
