"""What every strategy must do, under every policy: those that are registered, and one from outside the package."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny import random_batch, tiny

from circuitkit import CircuitModel, registry
from circuitkit.circuit import Circuit
from circuitkit.discoverer import Discoverer
from circuitkit.evaluation import Evaluator
from circuitkit.precision.per_head import PerHeadQuantization
from circuitkit.precision.policy import PrecisionPolicy
from circuitkit.result import Result

DECIDES = {"acdc", "pahq_acdc", "edge_pruning", "subnetwork_probing", "late_layers"}
"""Whose circuit is their own; the others only score."""
ARGUMENTS = {
    "acdc": {"threshold": 0.02, "absolute": True},
    "pahq_acdc": {"threshold": 0.02, "absolute": True},
    "edge_pruning": {"targets": [0.5], "trainer": {"max_steps": 6}},
    "subnetwork_probing": {"strength": 100.0, "learning_rate": 3.0, "trainer": {"max_steps": 6}},
    "eap_ig": {"steps": 2},
}
"""Small enough for a test; the others as they come."""
FAMILIES = ("gpt2", "gpt_neox", "llama_biased", "qwen3")


def outside():
    """The class of `examples/my_strategy`."""
    file = Path(__file__).parents[2] / "examples" / "my_strategy" / "my_strategy.py"
    spec = importlib.util.spec_from_file_location("my_strategy", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LateLayers


NAMES = [*registry.names("strategies"), "late_layers"]


def make(name):
    found = outside() if name == "late_layers" else registry.load("strategies", name)
    return found(**ARGUMENTS.get(name, {}))


def policies():
    found = {name: registry.load("policies", name) for name in registry.names("policies")}
    return {**found, "nf4, MLPs too": lambda: PerHeadQuantization("nf4", "attention+mlp")}


def run(name, model, policy=None, callbacks=(), **more):
    discoverer = Discoverer("cpu", callbacks=list(callbacks), seed=more.pop("seed", 3))
    task = more.pop("task", None) or random_batch(lengths=(6, 7, 5, 7))
    return discoverer.run(make(name), model, task, precision=policy, sizes=(), examples=4, **more)


def state_of(model):
    return {name: (id(p), p.clone(), p.requires_grad, p.stride()) for name, p in model.model.named_parameters()}


def same_state(one, other):
    return one.keys() == other.keys() and all(
        (a[0], a[2], a[3]) == (b[0], b[2], b[3]) and torch.equal(a[1], b[1])
        for a, b in ((one[name], other[name]) for name in one)
    )


@pytest.mark.filterwarnings("ignore:This precision cannot decide")
@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_it_scores_every_edge_under_every_policy(name, family, policy):
    model = tiny(family, dtype=torch.float32)
    before, hooks = state_of(model), sum(len(m._forward_hooks) for m in model.model.modules())
    circuit = run(name, model, policies()[policy]()).circuit
    assert circuit.scores.shape == (len(model.graph),) and bool(torch.isfinite(circuit.scores).all())
    assert bool((~circuit.kept).any()) == (name in DECIDES)
    assert same_state(before, state_of(model)) and type(model.weights).__name__ == "ModuleWeights"
    assert sum(len(m._forward_hooks) for m in model.model.modules()) == hooks


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_toy_model_under_every_policy(name, policy):
    model = CircuitModel.from_pretrained("toy")
    circuit = run(name, model, policies()[policy](), task="ioi").circuit
    assert bool(torch.isfinite(circuit.scores).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result_and_nothing_global_changes(name):
    model, random = tiny("llama", dtype=torch.float32), torch.get_rng_state()
    one, other = (run(name, model).circuit for _ in range(2))
    assert torch.equal(one.scores, other.scores) and torch.equal(one.kept, other.kept)
    assert torch.equal(torch.get_rng_state(), random) and torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pahq_acdc"])  # whose default is another policy
def test_full_precision_and_no_policy_are_bit_identical(name):
    model = tiny("gpt2", dtype=torch.float32)
    assert torch.equal(run(name, model).circuit.scores, run(name, model, PrecisionPolicy()).circuit.scores)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_loaded(name, tmp_path):
    model = tiny("llama", dtype=torch.float32)
    found = run(name, model, out=tmp_path / "run")
    loaded = Result.load(tmp_path / "run").circuit
    assert loaded == found.circuit and isinstance(loaded, Circuit)


class Interrupting:
    """Interrupts at the n-th report of progress, as Ctrl-C would."""

    def __init__(self, at):
        self.left = at

    def on_progress(self, run, done, total, unit, shown):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_goes_on_to_the_same_result(name, at, tmp_path, monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.base.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    model = tiny("llama", dtype=torch.float32)
    before, whole = state_of(model), run(name, model)
    try:
        run(name, model, out=tmp_path / "run", callbacks=[Interrupting(at)])
    except KeyboardInterrupt:
        assert not (tmp_path / "run" / "result.json").exists()
    resumed = run(name, model, out=tmp_path / "run", resume=True)
    assert torch.equal(resumed.circuit.scores, whole.circuit.scores)
    assert torch.equal(resumed.circuit.kept, whole.circuit.kept)
    assert same_state(before, state_of(model))


def test_a_strategy_of_a_strangers_composes_with_what_investigates():
    """Its scores are anchored quantization's, without a word about precision in it."""
    model = tiny("llama", dtype=torch.float32)
    full, low = (run("late_layers", model, policy).circuit.scores for policy in (None, PerHeadQuantization("nf4")))
    assert not torch.equal(full, low)
    assert torch.nn.functional.cosine_similarity(full, low, dim=0) > 0.9


def test_evaluation_is_in_full_precision():
    model = tiny("llama", dtype=torch.float32)
    seen = []

    class Watching(PerHeadQuantization):
        def close(self):
            super().close()
            seen.append(type(model.weights).__name__)

    original = Evaluator.__init__

    def watched(self, *arguments, **more):
        seen.append("evaluated")
        original(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "__init__", watched)
        Discoverer("cpu", callbacks=[]).run("eap", model, random_batch(), precision=Watching("nf4"), examples=4)
    assert seen == ["ModuleWeights", "evaluated"]
