"""A wrapped model that changes: every run sees its weights of that moment, and none of its hooks."""

import threading

import pytest
import torch
from support.tiny import random_batch, tiny_hf
from torch import nn

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluator import evaluate
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import Discoverer, discover


def full_value(model: CircuitModel, batch) -> float:
    circuit = Circuit.from_scores(model.graph, torch.rand(len(model.graph), generator=torch.Generator().manual_seed(0)))
    return evaluate(model, circuit, batch, sizes=[0.5]).full


def train(hf):
    other = CircuitModel.from_model(hf)  # a second wrapper
    optimizer = torch.optim.SGD(hf.parameters(), lr=0.1)
    for seed in range(3):
        batch = random_batch(seed).to(other.device)
        optimizer.zero_grad()
        hf(batch.clean, labels=batch.clean).loss.backward()
        optimizer.step()


def assign(hf):
    hf.load_state_dict({name: tensor * 1.5 for name, tensor in hf.state_dict().items()}, assign=True)


def replace_data(hf):
    for parameter in hf.parameters():
        parameter.data = parameter.data * 1.5


def replace_mlp(hf):
    hf.model.layers[0].mlp = tiny_hf("llama", seed=5).model.layers[1].mlp


def in_place(hf):
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(1.5)


def single(hf):
    hf.float()


def another_scale(hf):
    hf.model.layers[1].self_attn.scaling *= 2


@pytest.mark.filterwarnings("ignore:The full model does worse")
@pytest.mark.parametrize("change", [train, assign, replace_data, replace_mlp, in_place, single, another_scale])
def test_every_run_sees_the_weights_of_its_moment(change):
    hf, batch = tiny_hf("llama"), random_batch()
    model = CircuitModel.from_model(hf)
    before = full_value(model, batch)
    change(hf)
    fresh = full_value(CircuitModel.from_model(hf), batch)
    assert fresh != before
    assert full_value(model, batch) == fresh
    for run in (Discoverer(accelerator="cpu", callbacks=[]).run, Discoverer(accelerator="cpu").dry_run):
        change(hf)
        found = run(model, batch, "eap")
        if hasattr(found, "evaluations"):
            assert found.evaluations["train"][0].full == full_value(CircuitModel.from_model(hf), batch)
    scores = discover(model, batch, "eap").circuit.scores
    assert torch.equal(scores, discover(CircuitModel.from_model(hf), batch, "eap").circuit.scores)


def test_a_model_with_fewer_layers_than_when_it_was_wrapped_is_refused():
    hf, batch = tiny_hf("llama"), random_batch()
    model = CircuitModel.from_model(hf)
    hf.model.layers = hf.model.layers[:1]
    hf.config.num_hidden_layers = 1
    with pytest.raises(UsageError, match=r"when it was wrapped.*Wrap it again"):
        discover(model, batch, "eap")


def test_a_hook_that_was_removed_is_gone():
    hf, batch = tiny_hf("gpt2"), random_batch()
    expected = full_value(CircuitModel.from_model(hf), batch)
    lock, calls = threading.Lock(), []

    def record(module, args, output):
        with lock:
            calls.append(output)

    handle = hf.transformer.h[0].mlp.register_forward_hook(record)
    model = CircuitModel.from_model(hf)
    handle.remove()
    calls.clear()
    assert full_value(model, batch) == expected
    assert not calls


def test_hooks_that_record_see_the_models_own_runs_only():
    hf = tiny_hf("gpt2")
    model, calls = CircuitModel.from_model(hf), []
    for module in (hf.transformer.h[0].mlp, hf.transformer.h[1].mlp.act):
        module.register_forward_hook(lambda *_: calls.append("forward"))
        module.register_forward_pre_hook(lambda *_: calls.append("before"))
        module.register_full_backward_hook(lambda *_: calls.append("backward"))
    model.synchronize()
    assert set(calls) == {"forward", "before"}, "the parity check runs the model itself"
    calls.clear()
    x = torch.randn(1, 3, model.family.width, dtype=torch.float64, requires_grad=True)
    model.mlp(0, x).sum().backward()
    assert not calls


@pytest.mark.parametrize("wrapped_before", [False, True])
def test_hooks_that_change_values_are_refused_naming_the_modules(wrapped_before):
    hf, batch = tiny_hf("gpt2"), random_batch()
    model = CircuitModel.from_model(hf) if wrapped_before else None
    handle = hf.transformer.h[1].mlp.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(CircuitKitError, match=r"hooks \(transformer\.h\.1\.mlp\).*Remove"):
        discover(model, batch, "eap") if model else CircuitModel.from_model(hf)
    handle.remove()
    discover(model or CircuitModel.from_model(hf), batch, "eap")


def test_a_forward_that_was_replaced_is_refused():
    hf = tiny_hf("gpt2")
    mlp: nn.Module = hf.transformer.h[0].mlp
    original = mlp.forward
    mlp.forward = lambda x: original(x) * 2
    with pytest.raises(UsageError, match="forward method of a GPT2MLP"):
        CircuitModel.from_model(hf)


def test_a_short_repr():
    hf = tiny_hf("llama")
    hf.config.name_or_path = "somewhere/tiny"
    assert repr(CircuitModel.from_model(hf, kv="head")) == "CircuitModel('somewhere/tiny', kv='head', dtype='float64')"
