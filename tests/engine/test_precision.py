"""The engine under a precision policy: anchored quantization, what is investigated, and rechecks."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.prepared import ABLATIONS
from support.tiny import VARIANTS, random_batch, tiny

from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.storage.state import load_state, save_state


class Rounded(PrecisionPolicy):
    """Weights in steps of 1/8, but for the key-value group (or the MLP) under investigation; written for clarity."""

    depends_on_reader = True

    def __init__(self, anchored=True, rechecks=False, mlps=True):
        self.anchored, self.rechecks_close, self.mlps = anchored, rechecks, mlps
        self._high = set()

    def prepare(self, model):
        self.model, self.graph, self.full_weights = model, model.graph, model.weights
        model.weights = self

    def close(self):
        self.model.weights = self.full_weights

    def _low(self, unit):
        return self._high != "all" and unit not in self._high

    def _heads(self, layer, heads):
        share = self.graph.heads // self.graph.kv_heads
        return torch.tensor([self._low((layer, head // share)) for head in range(heads)])

    def attention(self, layer):
        full_weights, low = self.full_weights.attention(layer), self._heads(layer, self.graph.heads)
        groups = low[:: self.graph.heads // self.graph.kv_heads]
        parts = {name: (getattr(full_weights, name), low if name in "qo" else groups) for name in "qkvo"}
        return replace(
            full_weights, **{n: torch.where(w[:, None, None], (x * 8).round() / 8, x) for n, (x, w) in parts.items()}
        )

    def mlp(self, layer):
        low = self.mlps and self._low((layer, "mlp"))
        return {n: (x * 8).round() / 8 if low and x.ndim == 2 else x for n, x in self.full_weights.mlp(layer).items()}

    def low_precision_writers(self):
        low = torch.zeros(self.graph.n_writers, dtype=torch.bool)
        for layer in range(self.graph.layers):
            low[self.graph.heads_of(layer)] = self._heads(layer, self.graph.heads)
            if self.graph.mlps:
                low[self.graph.mlp(layer)] = self.mlps and self._low((layer, "mlp"))
        return low

    @contextmanager
    def _with(self, high):
        before, self._high = self._high, high
        try:
            yield
        finally:
            self._high = before

    def full(self):
        return self._with("all")

    def investigate(self, readers):
        share = self.graph.heads // self.graph.kv_heads
        high = set()
        for reader in readers:
            for writer in self.graph.writers_fed_by(reader):
                layer = (writer - 1) // self.graph.writers_per_layer
                heads = self.graph.heads_of(layer)
                is_head = heads.start <= writer < heads.stop
                high.add((layer, (writer - heads.start) // share if is_head else "mlp"))
        return self._with(high)

    def groups(self, graph):
        for reader in range(graph.n_readers):
            yield [reader]


CASES = st.fixed_dictionaries(
    {
        "variant": st.sampled_from(sorted(VARIANTS)),
        "kv": st.sampled_from(["group", "head"]),
        "ablation": st.sampled_from(ABLATIONS),
        "objective": st.sampled_from([LogitDifference, KLDivergence]),
        "lengths": st.lists(st.integers(2, 8), min_size=1, max_size=3),
        "seed": st.integers(0, 10**6),
        "density": st.sampled_from([1.0, 1.0, 0.7, 0.3]),
        "anchored": st.booleans(),
        "rechecks": st.booleans(),
        "threshold": st.sampled_from([0.01, 0.05, 0.2]),
        "absolute": st.booleans(),
        "whole": st.booleans(),
    }
)


def prepare_case(case):
    model = tiny(case["variant"], case["seed"] % 11, kv=case["kv"])
    batch = random_batch(case["seed"], tuple(case["lengths"]))
    ablation = case["ablation"]()
    ablation.fit(model, [batch])
    policy = Rounded(case["anchored"], case["rechecks"] and case["anchored"])
    policy.prepare(model)
    return prepare_batches(model, batch.split(2), case["objective"](), ablation, policy)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_both_editors_decide_alike_under_a_policy(case):
    found = []
    for editor in (ReplayEditor, IncrementalEditor):
        prepared_batches = prepare_case(case)
        generator = torch.Generator().manual_seed(case["seed"])
        kept = torch.rand(len(prepared_batches[0].model.graph), generator=generator) < case["density"]
        search = GreedySearch(editor(prepared_batches, kept), case["threshold"], case["absolute"], case["whole"])
        search.run()
        found.append(search)
    replay, incremental = found
    assert torch.equal(incremental.kept, replay.kept)
    assert torch.equal(incremental.score_sources, replay.score_sources)
    # With zero ablation, the replay's norms get streams of 1e-16 instead of 0, and each makes them 1000 times longer
    assert torch.allclose(incremental.scores, replay.scores, atol=1e-7)
    if replay.rechecks is not None:
        assert incremental.rechecks.counts() == replay.rechecks.counts()
        assert incremental.rechecks.report() == pytest.approx(replay.rechecks.report(), abs=1e-7)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_an_anchored_policy_is_exact_on_the_clean_run(variant):
    model, batch = tiny(variant), random_batch()
    (full,) = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0]())
    everything = torch.ones(1, len(model.graph))
    with torch.no_grad():
        exact = MaskedRun(full).values(everything)
        for anchored in (True, False):
            policy = Rounded(anchored)
            policy.prepare(model)
            (prepared,) = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0](), policy)
            for reader in range(model.graph.n_readers):
                with policy.investigate([reader]):
                    values = MaskedRun(prepared).values(everything)
                assert torch.allclose(values, exact, atol=1e-10) == anchored
            policy.close()


@pytest.mark.parametrize("variant", ["gemma2", "gemma3_text", "olmo2", "llama"])
def test_editors_agree_where_only_investigated_heads_have_edges(variant):
    """Coupled heads in full precision have an offset, because of the heads in low precision that nothing reads."""
    model, batch = tiny(variant), random_batch()
    graph, policy = model.graph, Rounded(True)
    policy.prepare(model)
    prepared_batches = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0](), policy)
    reader = graph.reader_index("q", 1)
    with policy.investigate([reader]):
        low = policy.low_precision_writers()
    heads = torch.arange(graph.n_writers)[graph.heads_of(1)]
    assert low[heads].any()
    assert not low[heads].all()
    kept = ~torch.isin(graph.writer_of, heads[low[heads]])
    removals = torch.eye(graph.prefix(reader), dtype=torch.bool)[:3]
    found = []
    for kind in (ReplayEditor, IncrementalEditor):
        editor = kind(prepared_batches, kept)
        editor.open(reader)
        found.append(editor.values(removals))
    assert torch.allclose(*found, atol=1e-12)


def searched(policy, threshold=0.05, state=None, **more):
    model, batch = tiny("llama"), random_batch(lengths=(6, 7, 5, 8))
    policy.prepare(model)
    prepared_batches = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0](), policy)
    search = GreedySearch(IncrementalEditor(prepared_batches), threshold, absolute=True, **more)
    if state is not None:
        search.load_state_dict(state)
    search.run()
    return search


def test_rechecks_restore_full_precisions_decisions():
    full, rechecked, raw = (searched(policy) for policy in (PrecisionPolicy(), Rounded(rechecks=True), Rounded()))
    assert full.rechecks is None
    assert raw.rechecks is None
    assert (rechecked.kept != full.kept).sum() < (raw.kept != full.kept).sum()
    counted = rechecked.rechecks.counts() | rechecked.rechecks.report()
    assert counted["rechecked"] > 0
    assert counted["audited"] > 0
    assert counted["rechecks_flipped"] <= counted["rechecked"]
    assert counted["error_median"] <= counted["error_p99"] <= counted["error_max"]


def test_a_precision_that_cannot_decide_says_so():
    search = searched(Rounded(rechecks=True), threshold=1e-4)
    (caveat,) = search.rechecks.caveats(search.editor.policy.advice())
    assert caveat.startswith("This precision cannot decide the threshold 0.0001: ")
    assert "Choose precision: full" in caveat
    assert searched(Rounded(rechecks=True), threshold=1e3).rechecks.caveats("") == []


def test_a_search_under_a_policy_resumes_bit_equal(tmp_path):
    whole, states = searched(Rounded(rechecks=True)), []

    def keep(search):
        save_state(tmp_path / "state", search.state_dict())
        states.append(load_state(tmp_path / "state"))

    searched(Rounded(rechecks=True), on_reader_end=keep)
    for state in states[::4]:
        resumed = searched(Rounded(rechecks=True), state=state)
        assert torch.equal(resumed.kept, whole.kept)
        assert torch.equal(resumed.scores, whole.scores)
        assert resumed.rechecks.state_dict()["errors"] == whole.rechecks.errors
        assert resumed.rechecks.counts() == whole.rechecks.counts()


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "qwen3", "gemma2", "olmo2"])
@pytest.mark.parametrize("anchored", [True, False])
def test_attribution_is_the_gradient_of_the_masked_run_under_a_policy(variant, anchored):
    model, policy = tiny(variant), Rounded(anchored)
    policy.prepare(model)
    (prepared,) = prepare_batches(model, [random_batch()], LogitDifference(), ABLATIONS[0](), policy)
    scores, run = attribute(prepared), MaskedRun(prepared)
    for reader in range(model.graph.n_readers):
        with policy.investigate([reader]):
            mask = torch.ones(1, len(model.graph), dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad(run.values(mask).sum(), mask)
        edges = model.graph.edges(reader)
        assert torch.allclose(scores[edges], -slope[0, edges], atol=1e-9)
