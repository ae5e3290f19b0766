"""The incremental editor decides and scores as the replay editor does."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.prepared import ABLATIONS
from support.tiny import VARIANTS, random_batch, tiny

from circuitkit.data.objectives import AnswerLogProbability, KLDivergence, LogitDifference, ProbabilityDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.positions import Positions
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.errors import CircuitKitError
from circuitkit.storage.state import load_state, save_state

OBJECTIVES = [LogitDifference, ProbabilityDifference, AnswerLogProbability, KLDivergence]

CASES = st.fixed_dictionaries(
    {
        "variant": st.sampled_from(sorted(VARIANTS)),
        "kv": st.sampled_from(["group", "head"]),
        "ablation": st.sampled_from(ABLATIONS),
        "objective": st.sampled_from(OBJECTIVES),
        "lengths": st.lists(st.integers(2, 8), min_size=1, max_size=4),
        "positions": st.integers(1, 2),
        "missing": st.integers(0, 1),
        "parts": st.integers(1, 4),
        "seed": st.integers(0, 10**6),
        "density": st.sampled_from([1.0, 1.0, 0.7, 0.3]),
        "threshold": st.sampled_from([0.001, 0.01, 0.03, 0.1, 0.3]),
        "absolute": st.booleans(),
        "whole": st.booleans(),
        "order": st.sampled_from(["reverse", "normal", "shuffle"]),
        "budget": st.sampled_from([None, 300_000]),
    }
)


def prompts(case):
    """The prompts of a case; the first may have fewer answer positions than the others."""
    missing = min(case["missing"], case["positions"] - 1)
    return random_batch(case["seed"], tuple(case["lengths"]), positions=case["positions"], missing=missing)


def searches(case):
    """The same search by both editors."""
    seed = case["seed"]
    model = tiny(case["variant"], seed % 11, kv=case["kv"])
    batch = prompts(case)
    ablation = case["ablation"]()
    ablation.fit(model, [batch])
    prepared_batches = prepare_batches(model, batch.split(case["parts"]), case["objective"](), ablation)
    kept = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(seed)) < case["density"]
    found = []
    for editor in (ReplayEditor(prepared_batches, kept), IncrementalEditor(prepared_batches, kept, case["budget"])):
        search = GreedySearch(
            editor,
            case["threshold"],
            absolute=case["absolute"],
            try_whole_reader=case["whole"],
            order=case["order"],
            generator=torch.Generator().manual_seed(seed),
        )
        search.run()
        found.append(search)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_same_decisions_and_scores_as_replay(case):
    replay, incremental = searches(case)
    assert torch.equal(incremental.kept, replay.kept)
    assert torch.equal(incremental.score_sources, replay.score_sources)
    assert torch.allclose(incremental.scores, replay.scores, atol=1e-9)
    assert (incremental.tests, incremental.whole_tests) == (replay.tests, replay.whole_tests)
    assert torch.equal(incremental.editor.kept, replay.editor.kept)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_values_and_gradients_of_any_removals_and_commits(case):
    seed = case["seed"]
    model = tiny(case["variant"], seed % 11, kv=case["kv"])
    graph, batch = model.graph, prompts(case)
    ablation = case["ablation"]()
    ablation.fit(model, [batch])
    prepared_batches = prepare_batches(model, batch.split(case["parts"]), case["objective"](), ablation)
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(len(graph), generator=generator) < case["density"]
    replay, incremental = (
        ReplayEditor(prepared_batches, kept),
        IncrementalEditor(prepared_batches, kept, case["budget"]),
    )
    for reader in reversed(range(graph.n_readers)):
        if torch.rand(1, generator=generator) < 0.5 or not replay.is_live(reader):
            continue
        removals = torch.rand(3, graph.prefix(reader), generator=generator) < 0.3
        for editor in (replay, incremental):
            editor.open(reader)
        assert torch.allclose(incremental.values(removals), replay.values(removals), atol=1e-9)
        assert torch.allclose(incremental.gradient(), replay.gradient(), atol=1e-8)  # steep at a zero input
        for editor in (replay, incremental):
            every = torch.cat([torch.zeros_like(removals[:1]), removals])
            by_prompt, slopes = editor.values_by_prompt(every), editor.gradient_by_prompt()
            assert by_prompt.shape == (4, len(batch))
            assert torch.allclose(by_prompt.mean(1), editor.values(removals), atol=1e-12)
            assert torch.allclose(slopes.mean(1), editor.gradient(), atol=1e-10)
        assert torch.allclose(by_prompt, replay.values_by_prompt(every), atol=1e-9)
        assert torch.allclose(slopes, replay.gradient_by_prompt(), atol=1e-8)
        for removed in removals[:2]:  # in two steps
            for editor in (replay, incremental):
                editor.commit(removed)
            assert torch.allclose(incremental.values(removals), replay.values(removals), atol=1e-9)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_prompt_with_fewer_answer_positions_changes_no_other_position(missing):
    batch = random_batch(lengths=(9, 9, 9), positions=3, missing=missing)
    (prepared,) = prepare_batches(tiny("llama"), [batch], LogitDifference(), ABLATIONS[0]())
    first = int(batch.first_difference.min())
    assert Positions(prepared).changed.start == first == 3
    assert int(Positions(prepared).answers.columns.min()) == 6


def test_the_value_at_the_end_is_that_of_a_masked_run_in_single_precision():
    model = tiny("llama", dtype=torch.float32)
    batch = random_batch(lengths=(6, 9, 7, 8))
    ablation = ABLATIONS[0]()
    prepared_batches = prepare_batches(model, [batch], LogitDifference(), ablation)
    search = GreedySearch(IncrementalEditor(prepared_batches), 0.02, absolute=True)
    search.run()
    at_the_end = search.editor.values(torch.zeros(0, model.graph.prefix(search.editor.reader), dtype=torch.bool))
    with torch.no_grad():
        masked = MaskedRun(prepared_batches[0]).values(search.kept[None]).mean()
    assert float(at_the_end[0]) == pytest.approx(float(masked), abs=1e-4)
    assert 0 < int(search.kept.sum()) < len(model.graph)


def test_what_is_reported():
    model, batch = tiny("llama"), random_batch()
    prepared_batches = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0]())
    editor = IncrementalEditor(prepared_batches)
    search = GreedySearch(editor, 0.05, absolute=True)
    search.run()
    assert 0 < editor.forward_equivalents < search.hypotheses
    footprint = editor.footprint()
    assert set(footprint) == {"captures", "live", "cone", "copies"}
    assert all(footprint[part] > 0 for part in ("captures", "live", "cone"))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("editor", [ReplayEditor, IncrementalEditor])
def test_a_search_resumed_after_any_reader_is_bit_equal(editor, whole, fresh, tmp_path):
    model, batch = tiny("llama", dtype=torch.float32), random_batch(lengths=(6, 9, 7))

    def make(layer):
        return editor(prepare_batches(model, batch[layer:].split(2), LogitDifference(), ABLATIONS[0]()), start)

    def search(**more):
        generator = torch.Generator().manual_seed(1)
        more |= {"fresh": make} if fresh else {}
        return GreedySearch(make(2 if fresh else 0), 0.02, True, whole, "shuffle", generator, **more)

    start = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(0)) < 0.9

    reference = search()
    reference.run()
    states = []

    def keep(one):
        save_state(tmp_path / "state", one.state_dict())
        states.append(load_state(tmp_path / "state"))

    search(on_reader_end=keep).run()
    assert len(states) == model.graph.n_readers
    for state in states[::5]:
        resumed = search()
        resumed.load_state_dict(state)
        resumed.run()
        assert torch.equal(resumed.scores, reference.scores)
        assert torch.equal(resumed.kept, reference.kept)
        assert torch.equal(resumed.score_sources, reference.score_sources)
        assert resumed.tests == reference.tests
        assert resumed.hypotheses == reference.hypotheses
        assert resumed.smallest_gap == reference.smallest_gap


def test_an_editor_restarted_within_a_layer_has_the_values_of_a_new_one():
    model, batch = tiny("llama"), random_batch()
    prepared_batches, graph = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0]()), model.graph
    used, kept = IncrementalEditor(prepared_batches), torch.ones(len(graph), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for reader in (graph.logits, graph.reader_index("mlp", 1), graph.reader_index("q", 1, 2)):
        used.open(reader)
        used.commit(torch.rand(graph.prefix(reader), generator=generator) < 0.5)
        kept[graph.edges(reader)] = torch.rand(graph.prefix(reader), generator=generator) < 0.5
        new = ReplayEditor(prepared_batches)
        for editor in (used, new):
            editor.restart(kept)
            editor.open(reader)
        removals = torch.rand(3, graph.prefix(reader), generator=generator) < 0.5
        assert torch.allclose(used.values(removals), new.values(removals), atol=1e-10)


@pytest.mark.parametrize("kind", [IncrementalEditor, ReplayEditor])
def test_what_is_computed_is_counted_alike_in_one_batch_and_in_several(kind):
    model, batch = tiny("llama"), random_batch(lengths=(6, 6, 6))
    reader = model.graph.reader_names.index("a1.h0<q>")
    removals = torch.eye(model.graph.prefix(reader), dtype=torch.bool)[:3]
    counted = []
    for size in (3, 2):
        editor = kind(prepare_batches(model, batch.split(size), LogitDifference(), Resample()))
        editor.open(reader)
        before = editor.forward_equivalents
        editor.values(removals)
        counted.append(editor.forward_equivalents - before)
    assert counted[0] == pytest.approx(counted[1])
    if kind is ReplayEditor:  # the circuit as it stands and three removals, from layer 1 on
        assert counted[0] == pytest.approx(4 * (model.graph.layers - 1) / model.graph.layers)


def test_one_removal_that_does_not_fit_is_refused():
    model, batch = tiny("llama"), random_batch()
    prepared = prepare_batches(model, [batch], LogitDifference(), Resample())
    editor = ReplayEditor(prepared, memory_budget=prepared[0].inputs[0].nbytes)
    editor.open(model.graph.logits)
    with pytest.raises(CircuitKitError, match=r"takes .* MiB, but only .* may be used"):
        editor.values(torch.eye(model.graph.prefix(model.graph.logits), dtype=torch.bool))
