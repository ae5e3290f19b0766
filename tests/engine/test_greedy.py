"""ACDC's search against a second implementation in plain loops."""

from dataclasses import replace

import pytest
import torch
from support.prepared import prepare
from support.slow import SlowModel, slow_acdc
from support.tiny import random_batch, tiny_hf

from circuitkit.circuit.score_source import ScoreSource
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search import greedy
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.models.circuit_model import CircuitModel


def setting(variant, kv="group", layers=2):
    hf = tiny_hf(variant, seed=3)
    model, batch = CircuitModel.from_model(hf, kv=kv), random_batch(5, (4, 5))
    return hf, model, batch, prepare(model, batch)


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize(
    ("variant", "kv", "threshold", "absolute", "whole"),
    [
        ("gpt2", "group", 0.05, False, False),
        ("gpt2", "group", 0.03, True, True),
        ("llama", "group", 0.1, True, False),
        ("llama", "head", 0.02, False, True),
        ("gpt_neox", "group", 0.1, True, False),
        ("gemma2", "group", 0.02, True, True),
        ("olmo2", "head", 0.02, False, False),
    ],
)
def test_the_search_equals_plain_loops(variant, kv, threshold, absolute, whole, other):
    """From the full model with whole readers or without, and with the other of the two from a random part of it."""
    part, whole = (0.8, not whole) if other else (1.0, whole)
    hf, model, batch, prepared = setting(variant, kv)
    slow = SlowModel(hf, kv)
    ablated = slow.run(batch, set(slow.edges), None, batch.corrupted)[1]

    def value(logits):
        right, wrong = (t[:, 0, 0] for t in (batch.answers, batch.wrong_answers))
        rows = torch.arange(len(batch))
        return -(logits[rows, -1, right] - logits[rows, -1, wrong]).mean()

    start = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(1), dtype=torch.float32) < part
    names = {name for name, keep in zip(model.graph.names, start.tolist(), strict=True) if keep}
    kept, effects = slow_acdc(slow, batch, value, ablated, threshold, absolute, whole, names)
    search = GreedySearch(ReplayEditor([prepared], start), threshold, absolute, whole)
    search.run()
    assert search.done == search.edges == len(names)
    assert {name for name, keep in zip(model.graph.names, search.kept.tolist(), strict=True) if keep} == kept
    for name, score, score_sources in zip(
        model.graph.names, search.scores.tolist(), search.score_sources.tolist(), strict=True
    ):
        if name in effects:
            assert score == pytest.approx(effects[name], abs=1e-6)
            assert score_sources in (ScoreSource.TESTED, ScoreSource.JOINT)
        else:
            assert score_sources == (ScoreSource.DEAD if name in names else ScoreSource.GIVEN)
            assert score == 0
    assert 0 < len(kept) < len(names)
    assert search.smallest_gap > 1e-6  # or rounding could have decided


def test_a_threshold_below_every_effect_keeps_everything_and_above_removes_everything():
    _, model, _, prepared = setting("gpt2")
    low, high = GreedySearch(ReplayEditor([prepared]), -1e9), GreedySearch(ReplayEditor([prepared]), 1e9)
    low.run()
    high.run()
    assert low.kept.all()
    assert low.tests == len(model.graph)
    assert not high.kept.any()
    assert (low.wasted, high.wasted) == (0, 0), "every guess holds"
    assert high.tests == model.graph.n_writers, "all but the logits' edges die untested"


def test_batches_and_memory_budgets_change_nothing():
    _, model, batch, prepared = setting("llama")
    whole = GreedySearch(ReplayEditor([prepared]), 0.05, absolute=True)
    parts = [PreparedBatch(model, part, prepared.objective, prepared.ablation) for part in batch.split(1)]
    split = GreedySearch(ReplayEditor(parts, memory_budget=200_000), 0.05, absolute=True)
    whole.run()
    split.run()
    assert torch.equal(whole.kept, split.kept)
    assert torch.allclose(whole.scores, split.scores, atol=1e-12)


def test_many_hypotheses_at_once_are_the_same_as_one_by_one():
    _, model, _, prepared = setting("qwen3")
    editor = ReplayEditor([prepared])
    reader = model.graph.reader_index("k", 1, 1)
    editor.open(reader)
    removals = torch.rand(6, model.graph.prefix(reader)) < 0.4
    together = editor.values(removals)
    single = torch.stack([editor.values(one[None])[1] for one in removals])
    assert torch.allclose(together[1:], single, atol=1e-12)
    small = ReplayEditor([prepared], memory_budget=1_000_000)
    small.open(reader)
    assert torch.allclose(small.values(removals), together, atol=1e-12)


def test_the_gradient_is_the_derivative_in_the_circuit_as_it_stands():
    _, model, _, prepared = setting("llama")
    editor = ReplayEditor([prepared], torch.rand(len(model.graph), generator=torch.Generator().manual_seed(1)) < 0.8)
    reader = model.graph.reader_index("mlp", 1)
    editor.open(reader)
    estimates = editor.gradient()
    kept = editor.kept[model.graph.edges(reader)]
    assert (estimates[~kept] == 0).all()
    assert (estimates[kept] != 0).any()
    # against a finite difference of equation (1)
    from circuitkit.engine.masked_run import MaskedRun

    edge = model.graph.edges(reader).start + int(kept.nonzero()[0])
    masks = editor.kept.double().repeat(2, 1)
    masks[1, edge] -= 1e-6
    before, after = MaskedRun(prepared).values(masks).mean(1)
    assert float((after - before) / 1e-6) == pytest.approx(float(estimates[kept][0]), rel=1e-3)


@pytest.mark.parametrize("order", ["normal", "shuffle"])
def test_other_orders_test_the_same_edges_of_the_logits_in_another_order(order):
    _, model, _, prepared = setting("gpt2")
    tested: list[int] = []

    class Spy(GreedySearch):
        def _test(self, reader, items, estimates):
            done, halves = super()._test(reader, items, estimates)
            if reader == model.graph.logits:
                tested.extend(item.writers[0] for item in items[:done])
            return done, halves

    search = Spy(ReplayEditor([prepared]), 0.05, order=order, generator=torch.Generator().manual_seed(0))
    search.run()
    assert sorted(tested) == list(range(model.graph.n_writers))
    assert tested[0] == model.graph.mlp(1)
    assert tested[-1] == 0
    assert tested != sorted(tested, reverse=True)


def test_objectives_are_means_over_prompts():
    _, model, batch, prepared = setting("gpt2")
    editor = ReplayEditor([prepared])
    editor.open(model.graph.logits)
    value = editor.values(torch.zeros(0, model.graph.n_writers, dtype=torch.bool))[0]
    logits = model.answer_logits(batch)[:, 0]
    rows = torch.arange(len(batch))
    expected = logits[rows, batch.answers[:, 0, 0]] - logits[rows, batch.wrong_answers[:, 0, 0]]
    assert float(value) == pytest.approx(-float(expected.mean()))
    assert isinstance(prepared.objective, LogitDifference)


def test_guessing_ahead_changes_no_decision(monkeypatch):
    """One edge at a time, guessed by estimates, and guessed wrongly throughout."""
    _, _, _, prepared = setting("qwen3")
    guess = greedy.list_items
    one, ahead, wrong = (GreedySearch(ReplayEditor([prepared]), 0.03, absolute=True) for _ in range(3))
    monkeypatch.setattr("circuitkit.engine.search.greedy.DEEPEST", 1)
    one.run()
    monkeypatch.setattr("circuitkit.engine.search.greedy.DEEPEST", 64)
    ahead.run()
    monkeypatch.setattr(
        greedy,
        "list_items",
        lambda *given: [replace(item, expect_removal=not item.expect_removal) for item in guess(*given)],
    )
    wrong.run()
    assert one.wasted == 0
    assert wrong.wasted > ahead.wasted
    assert ahead.hypotheses < one.hypotheses
    for other in (ahead, wrong):
        assert torch.equal(other.kept, one.kept)
        assert torch.equal(other.score_sources, one.score_sources)
        assert torch.allclose(other.scores, one.scores, atol=1e-12)
        assert other.tests == one.tests


@pytest.mark.parametrize("absolute", [True, False])
def test_screening_checks_what_it_removes(absolute):
    _, _, _, prepared = setting("llama")
    exact, screened = (GreedySearch(ReplayEditor([prepared]), 0.05, absolute, screen=screen) for screen in (None, 0.25))
    exact.run()
    screened.run()
    assert screened.joint_tests > 0
    assert screened.tests < exact.tests
    estimated = screened.score_sources == ScoreSource.ESTIMATED
    assert estimated.any()
    assert not screened.kept[estimated].any()
    assert (screened.scores[estimated].abs() < 0.25 * 0.05).all()
    assert screened.decided.all()
    both, either = (exact.kept & screened.kept).sum(), (exact.kept | screened.kept).sum()
    assert both / either > 0.5


def test_a_group_that_fails_its_joint_test_is_split_down_to_single_tests():
    """Estimates of zero pass the screen; only the joint checks stand against them."""
    _, _, _, prepared = setting("gpt2")

    class Blind(ReplayEditor):
        def gradient(self):
            return torch.zeros(self.graph.prefix(self.reader), dtype=torch.float64)

    search = GreedySearch(Blind([prepared]), 0.05, absolute=True, screen=0.1)
    search.run()
    assert search.joint_tests > 0
    assert search.tests > 0
    assert (search.score_sources == ScoreSource.TESTED).sum() == search.tests
    assert search.kept.any()
