"""Attribution equals autograd through the masked run, and plain loops over runs and edges."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.prepared import ABLATIONS, prepare
from support.slow import SlowModel
from support.tiny import VARIANTS, random_batch, tiny, tiny_hf

from circuitkit.data.objectives import AnswerLogProbability, LogitDifference, ProbabilityDifference
from circuitkit.engine import memory
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute, attribute_prompts, attribute_writers
from circuitkit.engine.attribution.reader_gradients import (
    CLEAN_RUN,
    Interpolation,
    ReaderGradients,
    bytes_per_run,
    writer_groups,
)
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import UsageError
from circuitkit.models.backward_rule import PLAIN
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import ModuleWeights
from circuitkit.precision.base import PrecisionPolicy

OBJECTIVES = [LogitDifference, ProbabilityDifference, AnswerLogProbability]


def by_autograd(prepared: PreparedBatch) -> torch.Tensor:
    mask = torch.ones(1, len(prepared.model.graph), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MaskedRun(prepared).values(mask).sum(), mask)
    return -slope[0]


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kv", ["group", "head"])
def test_scores_are_the_gradients_of_the_masked_run(variant, ablation, kv):
    prepared = prepare(tiny(variant, kv=kv), random_batch(positions=2, answers=2), ablation)
    scores, expected = attribute(prepared), by_autograd(prepared)
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert expected.abs().max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(OBJECTIVES),
    st.lists(st.integers(2, 9), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_on_random_prompts_and_objectives(variant, objective, lengths, seed):
    prepared = prepare(tiny(variant, seed % 5), random_batch(seed, tuple(lengths)), objective=objective)
    scores, expected = attribute(prepared), by_autograd(prepared)
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max().clamp(min=1e-3)  # all 0 for equal prompts


def test_a_small_difference_has_the_effect_that_was_estimated():
    """The definition: a corrupted run close to the clean one changes the objective by the score."""
    model, batch = tiny("qwen3"), random_batch()
    prepared = prepare(model, batch)
    scores = attribute(prepared)
    run = MaskedRun(prepared)
    eps = 1e-6
    for edge in range(0, len(model.graph), 7):
        mask = torch.ones(1, len(model.graph), dtype=torch.float64)
        full = run.values(mask).sum()
        mask[0, edge] = 1 - eps
        measured = (run.values(mask).sum() - full) / eps
        assert measured == pytest.approx(float(scores[edge]), rel=1e-3, abs=1e-5)


def test_the_policy_is_told_what_is_investigated_and_its_groups_are_combined():
    model, batch = tiny("llama"), random_batch()
    graph, asked = model.graph, []

    class TwoGroups(PrecisionPolicy):
        def groups(self, graph):
            yield range(0, graph.n_readers, 2)
            yield range(1, graph.n_readers, 2)

        def investigate(self, readers):
            asked.append(list(readers))
            return super().investigate(readers)

    plain = prepare(model, batch)
    grouped = PreparedBatch(model, batch, plain.objective, plain.ablation, TwoGroups())
    assert torch.equal(attribute(plain), attribute(grouped))
    investigated = [readers for readers in asked if readers]  # captures are made while nothing is
    assert investigated == [list(range(0, graph.n_readers, 2)), list(range(1, graph.n_readers, 2))]


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(["group", "head"]),
    st.sampled_from(ABLATIONS),
    st.booleans(),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_interpolated_runs_equal_plain_loops_over_runs_and_edges(variant, kv, ablation, own_writers, alphas, seed):
    hf = tiny_hf(variant, seed % 5)
    model = CircuitModel.from_model(hf, kv=kv)
    prepared = prepare(model, random_batch(seed, lengths=(4, 5)), ablation)
    groups = writer_groups(model.graph)[seed % 3 :: 2]
    interpolations = [Interpolation(group, tuple(alphas)) for group in groups]
    found = attribute(prepared, interpolations=interpolations, own_writers=own_writers)
    expected = slow_attribution(SlowModel(hf, kv), prepared, interpolations, own_writers)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)  # transformers' float32 norms


def slow_attribution(slow, prepared, interpolations, own_writers):
    """A run at a time, the gradient of an edge at a time."""
    batch = prepared.batch
    _, clean = slow.run(batch, set(slow.edges), None, batch.clean)
    ablated = dict(zip(slow.writers, prepared.ablated, strict=True))
    differences = {writer: ablated[writer] - clean[writer] for writer in slow.writers}

    def value(logits):
        rows = torch.arange(len(batch))
        last = logits[rows, batch.answer_positions[:, 0]]
        return (last[rows, batch.wrong_answers[:, 0, 0]] - last[rows, batch.answers[:, 0, 0]]).sum()

    total = torch.zeros(len(slow.edges), dtype=torch.float64)
    count = 0
    for interpolation in interpolations:
        writers = slow.writers[interpolation.writers]
        for share in interpolation.alphas:
            given = {writer: ablated[writer] - share * differences[writer] for writer in writers}
            slopes = slow.slopes(batch, value, differences, given)
            counts = [not own_writers or edge.split("->")[0] in writers for edge in slow.edges]
            weight = 1 / len(interpolation.alphas) if own_writers else 1.0
            total += weight * torch.tensor([slope * c for slope, c in zip(slopes.values(), counts, strict=True)])
            count += 1
    return total if own_writers else total / count


def test_own_gradients_score_the_edges_out_of_the_interpolated_writers_alone():
    prepared = prepare(tiny("llama"), random_batch())
    for group in writer_groups(prepared.model.graph):
        scores = attribute(prepared, interpolations=[Interpolation(group, (0.3, 0.6))], own_writers=True)
        writers = torch.arange(prepared.model.graph.n_writers)[group]
        own = torch.isin(prepared.model.graph.writer_of, writers)
        assert (scores[own] != 0).any()
        assert not scores[~own].any()


def test_one_run_at_a_time_equals_all_runs_at_once(monkeypatch):
    prepared = prepare(tiny("qwen2"), random_batch())
    interpolations = [Interpolation(group, (0.0, 0.2, 0.4, 0.6, 0.8)) for group in writer_groups(prepared.model.graph)]
    at_once = attribute(prepared, interpolations=interpolations)
    sizes = []
    original = ReaderGradients._mix

    def mixture(self, writers, alphas):
        sizes.append(len(alphas))
        return original(self, writers, alphas)

    monkeypatch.setattr(ReaderGradients, "_mix", mixture)
    one = PreparedBatch(prepared.model, prepared.batch[:1], prepared.objective, Zero())
    run = len(prepared.batch) * bytes_per_run(one)
    captures = prepared.model.graph.n_writers * prepared.inputs.nbytes
    for budget, expected in ((captures + 2 * run, [2, 2, 1]), (captures + run, [1] * 5), (1, [1] * 5)):
        sizes.clear()
        assert torch.allclose(
            attribute(prepared, interpolations=interpolations, memory_budget=budget), at_once, atol=1e-12
        )
        assert sizes == expected * len(interpolations)
    monkeypatch.setattr(memory, "budget", lambda device: 3 * run)
    sizes.clear()
    attribute(prepared, interpolations=interpolations[:1])
    assert sizes == [3, 2]


def test_the_clean_run_as_an_interpolation_is_plain_attribution():
    prepared = prepare(tiny("gpt2"), random_batch())
    plain = attribute(prepared)
    mixed = attribute(prepared, interpolations=[Interpolation(slice(0, 1), (1.0, 1.0)), CLEAN_RUN])
    assert torch.allclose(mixed, plain, atol=1e-12)


@pytest.mark.parametrize("ablation", [Resample, Mean])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_out_of_input_add_up_to_the_change_from_clean_to_ablated_embeddings(variant, ablation):
    """Completeness of integrated gradients, by the midpoint rule; a path to zero embeddings is too steep (RMSNorm)."""
    model = tiny(variant)
    prepared = prepare(model, random_batch(), ablation)
    steps = 4000 if variant == "opt" else 400  # the gradient of its ReLU jumps
    alphas = tuple((step + 0.5) / steps for step in range(steps))
    scores = attribute(prepared, interpolations=[Interpolation(slice(0, 1), alphas)])

    def value(inputs):
        *_, (_, _, stream) = model.run(inputs, prepared.context)
        return prepared.values(model.at_answers(stream, prepared.batch)).sum()

    change = value(prepared.ablated[:1].expand_as(prepared.inputs)) - value(prepared.inputs)
    assert float(scores[model.graph.writer_of == 0].sum()) == pytest.approx(float(change), rel=1e-3, abs=1e-3)


def test_other_writers_than_a_group_cannot_be_interpolated():
    with pytest.raises(UsageError, match=r"slice\(1, 2, None\).*writer_groups"):
        attribute(prepare(tiny("gpt2"), random_batch()), interpolations=[Interpolation(slice(1, 2), (0.5,))])
    with pytest.raises(UsageError, match="no alphas"):
        Interpolation(slice(0, 1), ())


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_writers_effect_is_the_sum_of_its_edges_on_each_prompt(variant, ablation):
    model, batch = tiny(variant), random_batch()
    prepared = prepare(model, batch, ablation)
    effects = attribute_writers(prepared)
    for prompt in range(len(batch)):
        one = PreparedBatch(model, batch[prompt : prompt + 1], prepared.objective, prepared.ablation)
        expected = torch.zeros(model.graph.n_writers, dtype=torch.float64)
        expected.index_add_(0, model.graph.writer_of, attribute(one))
        assert torch.allclose(effects[:, prompt], expected, atol=1e-10)


def test_each_writers_effect_is_of_the_pass_that_investigates_its_readers():
    model, batch = tiny("llama"), random_batch()
    graph = model.graph

    class Stronger(ModuleWeights):
        """Every head writes more, by a factor that depends on what is investigated."""

        factor = 1.0

        def attention(self, layer):
            weights = super().attention(layer)
            return dataclasses.replace(weights, o=weights.o * self.factor)

    class LayerByLayer(PrecisionPolicy):
        def groups(self, graph):
            for layer in range(graph.layers + 1):
                yield [reader for reader in range(graph.n_readers) if graph.reader(reader).layer == layer]

        @contextmanager
        def investigate(self, readers):
            before = model.weights.factor
            model.weights.factor = 1.5 + graph.reader(readers[0]).layer if readers else 1.0
            yield
            model.weights.factor = before

    model.weights = Stronger(model.family)
    plain, policy = prepare(model, batch), LayerByLayer()
    prepared = PreparedBatch(model, batch, plain.objective, plain.ablation, policy)
    assert torch.equal(plain.ablated, prepared.ablated)  # both made outside of any investigation
    effects = attribute_writers(prepared)
    for layer, group in enumerate(policy.groups(graph)):
        with policy.investigate(group):
            expected = attribute_writers(plain)
        own = [0] if layer == 0 else []
        own += [writer for reader in group for writer in graph.writers_fed_by(reader)]
        assert torch.equal(effects[own], expected[own])


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("interpolated", [False, True])
@pytest.mark.parametrize("own_writers", [False, True])
def test_every_prompts_scores_are_those_of_the_prompt_alone(variant, ablation, interpolated, own_writers):
    prepared = prepare(tiny(variant), random_batch(positions=2, answers=2), ablation)
    groups = writer_groups(prepared.model.graph) if own_writers else [slice(0, 1)]
    runs = [Interpolation(group, (0.2, 0.6)) for group in groups] if interpolated else [CLEAN_RUN]
    found = attribute_prompts(prepared, PLAIN, runs, own_writers)
    for number, scores in enumerate(found):
        one = dataclasses.replace(prepared, batch=prepared.batch[number : number + 1])
        assert torch.allclose(scores, attribute(one, PLAIN, runs, own_writers), rtol=0, atol=1e-12)
    assert torch.allclose(found.sum(0), attribute(prepared, PLAIN, runs, own_writers), rtol=0, atol=1e-12)
    assert (found - found.mean(0)).abs().max() > 1e-3
