"""What is freed is returned to the system, and nothing else is freed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny import random_batch, tiny, tiny_hf

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.free_memory import MappedPages, ParameterIndex
from circuitkit.precision.pahq import PAHQ

RESIDENT = """
import ctypes, gc, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.pahq import PAHQ

def kib(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return kib("VmRSS")

source, mode = sys.argv[1:]
config = LlamaConfig(vocab_size=64 if source == "memory" else 16384, hidden_size=768, intermediate_size=2048,
                     num_hidden_layers=4, num_attention_heads=12, num_key_value_heads=4)
if source == "memory":
    model = CircuitModel.from_model(LlamaForCausalLM(config))
else:
    LlamaForCausalLM(config).save_pretrained(source)
    model = CircuitModel.from_pretrained(source)  # maps the file
small = CircuitModel.from_pretrained("toy")
for first in (True, False):  # the first use of a policy loads libraries
    policy = PAHQ(mode, "attention+mlp")
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    policy.prepare(small if first else model)
    peak, after, held = kib("VmHWM"), resident(), policy.footprint()
    print(before, peak, after, held["full"] // 1024, held["low"] // 1024)
    policy.close()
"""


@pytest.mark.skipif(
    not Path("/proc/self/smaps").exists(),
    reason="pages are only freed, and resident memory only read, where Linux has /proc",
)
@pytest.mark.parametrize("mode", ["int8", "nf4"])
@pytest.mark.parametrize("source", ["memory", "file"])
def test_resident_memory_falls(source, mode, tmp_path):
    """By at least 0.8 of what rounding saves, in a process of its own; and it never rises by much."""
    where = str(tmp_path) if source == "file" else source
    ran = subprocess.run([sys.executable, "-c", RESIDENT, where, mode], capture_output=True, text=True, check=True)
    before, peak, after, full, low = map(int, ran.stdout.split()[-5:])
    assert full > 90 * 1024
    unread = 16384 * 768 * 4 // 1024 if source == "file" else 0  # the unembedding, which loading has read
    assert before - after > 0.8 * (full - low + unread)
    assert peak - before < 0.7 * full  # not the full weights, the low ones and the store at once


SMAPS = """\
7f0000000000-7f0000100000 r--p 00000000 fe:00 16 /a/file with spaces
Anonymous:             0 kB
Swap:                  0 kB
7f0000100000-7f0000200000 rw-p 00100000 fe:00 16 /a/file that was written to
Anonymous:             4 kB
Swap:                  0 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f0000300000-7f0000400000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
Swap:                  0 kB
7f0000400000-7f0000500000 rw-p 00000000 fe:00 17 /a/file whose written pages are in the swap
Anonymous:             0 kB
Swap:                  8 kB
7f0000500000-7f0000600000 r--p 00000000 fe:00 18 /b
Anonymous:             0 kB
Swap:                  0 kB
"""


def test_pages_of_files_that_nobody_has_written_to_can_be_read_again(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: SMAPS)
    assert MappedPages()._ranges == [(0x7F0000000000, 0x7F0000100000), (0x7F0000500000, 0x7F0000600000)]


def test_what_is_tied_is_not_freed():
    hf = tiny_hf("llama")
    first, second = hf.model.layers
    second.self_attn.q_proj.weight = first.self_attn.q_proj.weight
    hf.model.embed_tokens.weight.data = torch.randn(37, 16, dtype=torch.float64)
    model = CircuitModel.from_model(hf)
    before = {name: p.detach().clone() for name, p in hf.named_parameters()}
    logits = hf(random_batch().clean).logits
    policy = PAHQ("nf4", "attention+mlp")
    policy.prepare(model)
    assert torch.equal(first.self_attn.q_proj.weight, before["model.layers.0.self_attn.q_proj.weight"])
    assert first.self_attn.k_proj.weight.numel() == 0
    with policy.full():
        assert torch.equal(model.weights.attention(1).q.flatten(0, 1), first.self_attn.q_proj.weight)
    policy.close()
    assert second.self_attn.q_proj.weight is first.self_attn.q_proj.weight
    assert all(torch.equal(p, before[name]) for name, p in hf.named_parameters())
    assert torch.equal(hf(random_batch().clean).logits, logits)


def test_what_is_only_partly_covered_is_not_freed():
    module = torch.nn.Linear(4, 6)
    owners = ParameterIndex(module)
    for views, left in (([module.weight[:3]], 24), ([torch.ones(24)], 24), ([module.weight[:3], module.weight[3:]], 0)):
        owners.freeable(views).free()
        assert module.weight.numel() == left


def test_layouts_come_back():
    """Also that of a weight that is stored transposed."""
    hf = tiny_hf("llama")
    weight = hf.model.layers[0].self_attn.q_proj.weight
    weight.data = weight.data.T.contiguous().T
    model, values, stride = CircuitModel.from_model(hf), weight.detach().clone(), weight.stride()
    policy = PAHQ("int8", "attention+mlp")
    policy.prepare(model)
    policy.close()
    assert torch.equal(weight, values)
    assert weight.stride() == stride == (1, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype):
    model = tiny("qwen3", dtype=dtype)
    before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    policy = PAHQ("nf4", "attention+mlp")
    policy.prepare(model)
    assert model.weights.attention(0).q.dtype == model.weights.mlp(0)["up_proj.weight"].dtype == dtype
    policy.close()
    assert all(torch.equal(p, before[name]) and p.dtype == dtype for name, p in model.model.named_parameters())
