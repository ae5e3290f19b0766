"""What every strategy must do under every policy: the registered ones, and one from outside the package."""

import inspect
import itertools
from contextlib import nullcontext

import pytest
import torch
from support.outside import outside
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit import CircuitModel
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config import registry
from circuitkit.contracts.arguments import check_arguments
from circuitkit.contracts.model_state import ModelState
from circuitkit.contracts.outcome import NotApplicableError
from circuitkit.contracts.resuming import check_forgetting, check_resuming
from circuitkit.contracts.strategies import (
    StrategyCase,
    check_cost,
    check_files,
    check_operating_point,
    check_rounding_of_nothing,
    check_same_seed,
    check_scores,
    round_weights,
)
from circuitkit.contracts.weights import all_weights, are_equal, prepare_policy
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.precision.base import FullPrecision
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.discoverer import Discoverer

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
NO_ESTIMATE = {"late_layers"}
"""The strategies that say nothing about their cost before a run."""
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


def case(name, model, prompts=None):
    """The checks that `circuitkit check` runs on a class of one's own, for a strategy of the table."""
    own = random_batch(lengths=(6, 7, 5, 7)) if prompts is None else prompts
    return StrategyCase(lambda: make(name), model, own, random_batch(7, lengths=(6, 5, 6)))


def run(name, model, policy=None, **more):
    return case(name, model).run(policy=policy, **more)


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
    circuit = check_scores(case(name, tiny(family, dtype=torch.float32)), policies()[policy]())
    assert bool((~circuit.kept).any()) == (name in DECIDES)


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_toy_model_under_every_policy(name, policy):
    check_scores(case(name, CircuitModel.from_pretrained("toy"), "ioi"), policies()[policy]())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_result_and_nothing_global_changes(name):
    model = tiny("llama", dtype=torch.float32)
    before = ModelState(model)
    check_same_seed(case(name, model))
    before.check()


@pytest.mark.parametrize("name", NAMES)
def test_its_arguments_are_its_configuration(name):
    has_none = not inspect.signature(type(make(name))).parameters
    with pytest.raises(NotApplicableError) if has_none else nullcontext():
        check_arguments(case(name, None).make, "strategies")


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_predicts_what_it_costs(name):
    with pytest.raises(NotApplicableError) if name in NO_ESTIMATE else nullcontext():
        check_cost(case(name, tiny("llama", dtype=torch.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_operating_point_gives_no_larger_circuit(name):
    with pytest.raises(NotApplicableError) if make(name).operating_point is None else nullcontext():
        check_operating_point(case(name, tiny("llama", dtype=torch.float32)))


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


@pytest.mark.parametrize("family", ["gpt_neox", "llama_biased"])
@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_rounds_nothing_makes_no_difference(name, family):
    """All that a policy adds (readers investigated in turn, anchors, rechecks) cancels out."""
    model, policy = round_weights(tiny(family)), PAHQ("bf16", "attention+mlp")
    full = all_weights(model)
    with prepare_policy(policy, model):
        assert are_equal(all_weights(model), full)
    check_rounding_of_nothing(case(name, model))


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
def test_what_is_saved_is_loaded(name):
    check_files(case(name, tiny("llama", dtype=torch.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_resumes_to_the_same_result(name):
    """Interrupted at the start, and at the first, a middle and the last report."""
    for at, (reports, resumed) in check_resuming(case(name, tiny("llama", dtype=torch.float32))).reports.items():
        assert (reports == 0) == (name == "random_edges")
        saved = max(at - 1, 0) if name in RESUMES else 0  # a report comes before its state is saved
        assert resumed == reports - saved


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_keeps_nothing_of_a_run_for_the_next(name):
    """Neither of a resumed one nor of one that was interrupted."""
    check_forgetting(case(name, tiny("llama", dtype=torch.float32)))


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
