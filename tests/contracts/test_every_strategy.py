"""What every strategy must do under every policy: the registered ones, and one from outside the package."""

import itertools

import pytest
import torch
from support.outside import outside
from support.tiny import random_batch, tiny
from support.weights import all_weights, prepared, same

import circuitkit
from circuitkit import CircuitModel
from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config import registry
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.precision.base import FullPrecision
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result

pytestmark = pytest.mark.filterwarnings("ignore:This precision cannot decide")

OPTIONS = {
    "acdc, fresh prompts": ("acdc", {"prompts_per_layer": 2, "screen": 0.5}),
    "acdc, raced": ("acdc", {"race": 1.0, "race_start": 1}),
    "acdc, all at once": (
        "acdc",
        {"prompts_per_layer": 3, "race": 1.0, "race_start": 1, "screen": 0.5},
    ),
}
"""Other settings of a strategy that change how it works: its name, and arguments besides those below."""
DECIDES = {
    *OPTIONS,
    "acdc",
    "annealed_pruning",
    "pahq_acdc",
    "edge_pruning",
    "subnetwork_probing",
    "ugs",
    "late_layers",
    "acdc, from edge pruning",
    "stable",
}
"""The strategies that choose edges; the others keep every edge."""
ARGUMENTS = {
    "acdc": {"threshold": 0.02, "absolute": True},
    "pahq_acdc": {"threshold": 0.02, "absolute": True},
    "edge_pruning": {"target": [0.5], "trainer": {"max_steps": 6}},
    "annealed_pruning": {"trainer": {"max_steps": 6}},
    "matryoshka": {"trainer": {"max_steps": 6}},
    "subnetwork_probing": {"l0_weight": 100.0, "learning_rate": 3.0, "trainer": {"max_steps": 6}},
    "ugs": {"edge_penalty": 0.5, "learning_rate": 3.0, "trainer": {"max_steps": 6}},
    "eap_ig": {"steps": 2},
    "acdc, from edge pruning": {
        "threshold": [0.02, 0.05],
        "absolute": True,
        "rising": True,
        "start": {"class_path": "edge_pruning", "init_args": {"target": 0.1, "trainer": {"max_steps": 4}}},
    },
    "ensemble": {"strategies": ["eap", {"class_path": "eap_ig", "init_args": {"steps": 2}}]},
    "stable": {"strategy": "eap", "samples": 5, "size": 0.4},
}
"""Small enough for a test; the other strategies have their defaults."""
RESUMES = {
    *OPTIONS,
    "acdc",
    "acdc, from edge pruning",
    "annealed_pruning",
    "pahq_acdc",
    "edge_pruning",
    "ensemble",
    "matryoshka",
    "stable",
    "subnetwork_probing",
    "ugs",
}
"""The strategies that continue an interrupted run from its saved state; the others start again."""
FAMILIES = ("gemma2", "gpt2", "gpt_neox", "gptj", "llama_biased", "olmo2", "opt", "phi3", "qwen3")


NAMES = [*registry.names("strategies"), "late_layers", "acdc, from edge pruning", *OPTIONS]


def make(name):
    name, more = OPTIONS.get(name, (name, {}))
    registered = name.partition(",")[0]
    found = outside("my_strategy").LateLayers if name == "late_layers" else registry.load("strategies", registered)
    return found(**ARGUMENTS.get(name, {}) | more)


def policies():
    found = {name: registry.load("precision", name) for name in registry.names("precision")}
    return {**found, "nf4, MLPs too": lambda: PAHQ("nf4", "attention+mlp")}


def in_turn(names, others):
    """Pair all names with all others, the families taking turns: all triples would take minutes."""
    for (row, name), (column, other) in itertools.product(enumerate(names), enumerate(others)):
        yield name, FAMILIES[(row + column) % len(FAMILIES)], other


def run(name, model, policy=None, callbacks=(), **more):
    discoverer = Discoverer("cpu", callbacks=list(callbacks), seed=more.pop("seed", 3))
    task = more.pop("task", None) or random_batch(lengths=(6, 7, 5, 7))
    return discoverer.run(model, task, make(name), precision=policy, sizes=(), examples=4, **more)


def state_of(model):
    return {name: (id(p), p.clone(), p.requires_grad, p.stride()) for name, p in model.model.named_parameters()}


def same_state(one, other):
    return one.keys() == other.keys() and all(
        (a[0], a[2], a[3]) == (b[0], b[2], b[3]) and torch.equal(a[1], b[1])
        for a, b in ((one[name], other[name]) for name in one)
    )


def test_the_strategies_and_policies_of_the_package_are_among_those_tested():
    assert DECIDES | set(ARGUMENTS) | RESUMES | {"eap", "edge_patching", "gim", "hisp", "random_edges", "relp"} <= set(
        NAMES
    )
    assert {"full", "pahq", "all_low"} <= set(policies())


@pytest.mark.parametrize("name", NAMES)
def test_it_scores_the_edges_out_of_positions_where_these_are_a_writer(name):
    """In a model without norms, whose positions see later ones."""
    model = tiny("tracr", dtype=torch.float32, positions="writer")
    circuit = run(name, model, ablation="zero").circuit
    assert bool(torch.isfinite(circuit.scores).all())
    assert bool(circuit.scores[model.graph.writer_of == 1].any())


@pytest.mark.parametrize(("name", "family", "policy"), in_turn(NAMES, policies()))
def test_it_scores_every_edge_under_every_policy(name, family, policy):
    model = tiny(family, dtype=torch.float32)
    before, hooks = state_of(model), sum(len(m._forward_hooks) for m in model.model.modules())
    circuit = run(name, model, policies()[policy]()).circuit
    assert circuit.scores.shape == (len(model.graph),)
    assert bool(torch.isfinite(circuit.scores).all())
    assert bool((~circuit.kept).any()) == (name in DECIDES)
    assert same_state(before, state_of(model))
    assert type(model.weights).__name__ == "ModuleWeights"
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
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.kept, other.kept)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


class Recorder(FullPrecision):
    """Full precision that records the calls it gets."""

    def __init__(self):
        self.calls = []

    def prepare(self, model):
        self.calls.append("prepare")

    def close(self):
        self.calls.append("close")

    def investigate(self, readers):
        self.calls.append(frozenset(readers))
        return super().investigate(readers)


@pytest.mark.parametrize("name", NAMES)
def test_full_precision_by_name_and_by_object_are_bit_identical(name):
    model, recorder = tiny("gpt2", dtype=torch.float32), Recorder()
    named, recorded = run(name, model, "full").circuit, run(name, model, recorder).circuit
    assert torch.equal(named.scores, recorded.scores)
    assert torch.equal(named.kept, recorded.kept)
    first, *between, last = recorder.calls
    assert (first, last) == ("prepare", "close")
    assert not {"prepare", "close"} & set(between)
    if name == "random_edges":
        assert not between
    elif name not in ("acdc", "pahq_acdc", *OPTIONS):  # which do not test readers that are dead by then
        assert set().union(*between) == set(range(model.graph.n_readers))
    else:
        tested = torch.isin(named.score_sources, torch.tensor([ScoreSource.TESTED, ScoreSource.ESTIMATED]))
        assert set().union(*between) == set(named.graph.reader_of[tested].tolist())
    if name != "pahq_acdc":  # whose own policy is another
        own = run(name, model).circuit
        assert torch.equal(named.scores, own.scores)
        assert torch.equal(named.kept, own.kept)


def rounded_to_bfloat16(model):
    """Round every parameter, in place, to values that bfloat16 can hold."""
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
    return model


@pytest.mark.parametrize("family", ["gpt_neox", "llama_biased"])
@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_rounds_nothing_makes_no_difference(name, family):
    """All that a policy adds (readers investigated in turn, anchors, rechecks) cancels out."""
    model, policy = rounded_to_bfloat16(tiny(family)), PAHQ("bf16", "attention+mlp")
    full = all_weights(model)
    with prepared(policy, model):
        assert same(all_weights(model), full)
    expected, found = (run(name, model, precision).circuit for precision in ("full", policy))
    assert torch.allclose(found.scores, expected.scores, rtol=0, atol=1e-12)
    assert torch.equal(found.kept, expected.kept)
    assert torch.equal(found.score_sources, expected.score_sources)


# Without one that computes nothing, one with so few decisions that all are repeated in full precision, and votes, which
# are whole numbers: none has to change
@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("random_edges", "acdc, from edge pruning", "stable")]
)
def test_a_policy_that_rounds_makes_a_difference(name):
    """The counterpart of the test above: without it, a policy that is never in effect would pass."""
    model = tiny("gpt_neox")
    full, low = (run(name, model, precision).circuit for precision in ("full", PAHQ("bf16", "attention+mlp")))
    assert (full.scores - low.scores).abs().max() > 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_loaded(name, tmp_path):
    model = tiny("llama", dtype=torch.float32)
    found = run(name, model, out=tmp_path / "run")
    loaded = Result.load(tmp_path / "run").circuit
    assert loaded == found.circuit
    assert isinstance(loaded, Circuit)


class Interrupting:
    """Counts reports of progress, and interrupts at one of them, as Ctrl-C would."""

    def __init__(self, at=None):
        self.seen, self.at = 0, at

    def on_discovery_start(self, run):
        if self.at == 0:
            raise KeyboardInterrupt

    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1
        if self.seen == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_resumes_to_the_same_result(name, tmp_path, monkeypatch):
    """Interrupted at the start, and at the first, a middle and the last report."""
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    model, undisturbed = tiny("llama", dtype=torch.float32), Interrupting()
    before, whole = state_of(model), run(name, model, callbacks=[undisturbed])
    reports = undisturbed.seen
    assert (reports == 0) == (name == "random_edges")
    for at in sorted({0, min(1, reports), (reports + 1) // 2, reports}):
        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            run(name, model, out=folder, callbacks=[Interrupting(at)])
        assert not (folder / "result.json").exists()
        assert same_state(before, state_of(model))
        counter = Interrupting()
        resumed = run(name, model, out=folder, resume=True, callbacks=[counter])
        assert torch.equal(resumed.circuit.scores, whole.circuit.scores)
        assert torch.equal(resumed.circuit.kept, whole.circuit.kept)
        saved = max(at - 1, 0) if name in RESUMES else 0  # a report comes before its state is saved
        assert counter.seen == reports - saved
    assert same_state(before, state_of(model))


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_keeps_nothing_of_a_run_for_the_next(name, tmp_path, monkeypatch):
    """Neither of a resumed one nor of one that was interrupted."""
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    model, strategy, undisturbed = tiny("llama", dtype=torch.float32), make(name), Interrupting()
    before = repr(vars(strategy))
    other = random_batch(7, lengths=(6, 5, 6))
    first, second = run(name, model, callbacks=[undisturbed]), run(name, model, task=other)

    def again(task=None, **more):
        monkeypatch.setitem(globals(), "make", lambda _: strategy)
        found = run(name, model, task=task, **more)
        assert repr(vars(strategy)) == before
        return found.circuit

    with pytest.raises(KeyboardInterrupt):
        again(out=tmp_path / "run", callbacks=[Interrupting((undisturbed.seen + 1) // 2)])
    assert torch.equal(again(task=other).scores, second.circuit.scores)
    assert torch.equal(again(out=tmp_path / "run", resume=True).scores, first.circuit.scores)
    assert torch.equal(again(task=other).scores, second.circuit.scores)
    assert torch.equal(again(out=tmp_path / "other").scores, first.circuit.scores)


def test_a_strategy_from_outside_runs_under_a_policy_that_investigates():
    """Its scores are those under anchored quantization, though it knows nothing of precision."""
    model = tiny("llama", dtype=torch.float32)
    full, low = (run("late_layers", model, policy).circuit.scores for policy in (None, PAHQ("nf4")))
    assert not torch.equal(full, low)
    assert torch.nn.functional.cosine_similarity(full, low, dim=0) > 0.9


def test_evaluation_is_in_full_precision():
    model, batch = tiny("llama", dtype=torch.float32), random_batch()
    seen = []

    class Watching(PAHQ):
        def close(self):
            super().close()
            seen.append(type(model.weights).__name__)

    class Watched(Evaluator):
        def __init__(self, *arguments, **more):
            seen.append("evaluated")
            super().__init__(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitkit.run.evaluating.Evaluator", Watched)
        result = Discoverer("cpu", callbacks=[]).run(model, batch, "eap", precision=Watching("nf4"), examples=4)
    (found,) = result.evaluations["train"]
    sizes = [point.fraction for point in found.curve("absolute")]
    assert found.points == circuitkit.evaluate(model, result.circuit, batch, sizes=sizes).points
    assert seen == ["ModuleWeights", "evaluated"]
