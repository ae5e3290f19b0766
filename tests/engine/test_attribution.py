"""Attribution equals autograd through the masked run, and plain loops over runs and edges."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import SlowModel
from test_masked import ABLATIONS, scene_of
from tiny import VARIANTS, random_batch, tiny, tiny_hf

from circuitkit.engine import memory
from circuitkit.engine.ablation import Mean, Resample
from circuitkit.engine.attribution import attribute, attribute_writers
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.reader_gradients import CLEAN_RUN, Interpolation, ReaderGradients, writer_groups
from circuitkit.engine.scene import Scene, bytes_per_run
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.family import ModuleWeights
from circuitkit.objective import AnswerLogProbability, LogitDifference, ProbabilityDifference
from circuitkit.precision.policy import PrecisionPolicy

OBJECTIVES = [LogitDifference, ProbabilityDifference, AnswerLogProbability]


def by_autograd(scene: Scene) -> torch.Tensor:
    mask = torch.ones(1, len(scene.model.graph), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MaskedRun(scene).values(mask).sum(), mask)
    return -slope[0]


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kv", ["group", "head"])
def test_scores_are_the_gradients_of_the_masked_run(variant, ablation, kv):
    scene = scene_of(tiny(variant, kv=kv), random_batch(positions=2, answers=2), ablation)
    scores, expected = attribute(scene), by_autograd(scene)
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
    scene = scene_of(tiny(variant, seed % 5), random_batch(seed, tuple(lengths)), objective=objective)
    scores, expected = attribute(scene), by_autograd(scene)
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max().clamp(min=1e-3)  # all 0 for equal prompts


def test_a_small_difference_has_the_effect_that_was_estimated():
    """The definition: a corrupted run close to the clean one changes the objective by the score."""
    model, batch = tiny("qwen3"), random_batch()
    scene = scene_of(model, batch)
    scores = attribute(scene)
    run = MaskedRun(scene)
    eps = 1e-6
    for edge in range(0, len(model.graph), 7):
        mask = torch.ones(1, len(model.graph), dtype=torch.float64)
        full = run.values(mask).sum()
        mask[0, edge] = 1 - eps
        measured = (run.values(mask).sum() - full) / eps
        assert measured == pytest.approx(float(scores[edge]), rel=1e-3, abs=1e-5)


def test_the_policy_is_told_what_is_looked_at_and_its_groups_are_put_together():
    model, batch = tiny("llama"), random_batch()
    graph, asked = model.graph, []

    class TwoGroups(PrecisionPolicy):
        def groups(self, graph):
            yield range(0, graph.n_readers, 2)
            yield range(1, graph.n_readers, 2)

        def investigate(self, readers):
            asked.append(list(readers))
            return super().investigate(readers)

    plain = scene_of(model, batch)
    grouped = Scene(model, batch, plain.objective, plain.ablation, TwoGroups())
    assert torch.equal(attribute(plain), attribute(grouped))
    looked_at = [readers for readers in asked if readers]  # captures are made while nothing is
    assert looked_at == [list(range(0, graph.n_readers, 2)), list(range(1, graph.n_readers, 2))]


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(["group", "head"]),
    st.sampled_from(ABLATIONS),
    st.booleans(),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_interpolated_runs_equal_plain_loops_over_runs_and_edges(variant, kv, ablation, own_writers, shares, seed):
    hf = tiny_hf(variant, seed % 5)
    model = CircuitModel.from_model(hf, kv=kv)
    scene = scene_of(model, random_batch(seed, lengths=(4, 5)), ablation)
    groups = writer_groups(model.graph)[seed % 3 :: 2]
    interpolations = [Interpolation(group, tuple(shares)) for group in groups]
    found = attribute(scene, interpolations=interpolations, own_writers=own_writers)
    expected = slow_attribution(SlowModel(hf, kv), scene, interpolations, own_writers)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)  # transformers' float32 norms


def slow_attribution(slow, scene, interpolations, own_writers):
    """A run at a time, the gradient of an edge at a time."""
    batch = scene.batch
    _, clean = slow.run(batch, set(slow.edges), None, batch.clean)
    ablated = dict(zip(slow.writers, scene.ablated, strict=True))
    differences = {writer: ablated[writer] - clean[writer] for writer in slow.writers}

    def value(logits):
        rows = torch.arange(len(batch))
        last = logits[rows, batch.answer_positions[:, 0]]
        return (last[rows, batch.wrong_answers[:, 0, 0]] - last[rows, batch.answers[:, 0, 0]]).sum()

    total = torch.zeros(len(slow.edges), dtype=torch.float64)
    count = 0
    for interpolation in interpolations:
        writers = slow.writers[interpolation.writers]
        for share in interpolation.shares:
            given = {writer: ablated[writer] - share * differences[writer] for writer in writers}
            slopes = slow.slopes(batch, value, differences, given)
            counts = [not own_writers or edge.split("->")[0] in writers for edge in slow.edges]
            weight = 1 / len(interpolation.shares) if own_writers else 1.0
            total += weight * torch.tensor([slope * c for slope, c in zip(slopes.values(), counts, strict=True)])
            count += 1
    return total if own_writers else total / count


def test_own_gradients_score_the_edges_out_of_the_interpolated_writers_alone():
    scene = scene_of(tiny("llama"), random_batch())
    for group in writer_groups(scene.model.graph):
        scores = attribute(scene, interpolations=[Interpolation(group, (0.3, 0.6))], own_writers=True)
        writers = torch.arange(scene.model.graph.n_writers)[group]
        own = torch.isin(scene.model.graph.writer_of, writers)
        assert (scores[own] != 0).any() and not scores[~own].any()


def test_a_run_at_a_time_gives_what_all_runs_at_once_give(monkeypatch):
    scene = scene_of(tiny("qwen2"), random_batch())
    interpolations = [Interpolation(group, (0.0, 0.2, 0.4, 0.6, 0.8)) for group in writer_groups(scene.model.graph)]
    at_once = attribute(scene, interpolations=interpolations)
    sizes = []
    original = ReaderGradients._mixture

    def mixture(self, writers, shares):
        sizes.append(len(shares))
        return original(self, writers, shares)

    monkeypatch.setattr(ReaderGradients, "_mixture", mixture)
    run = len(scene.batch) * bytes_per_run(scene.model, scene.batch.length)
    captures = 2 * scene.model.graph.n_writers * scene.embedded.nbytes
    for budget, expected in ((captures + 2 * run, [2, 2, 1]), (captures + run, [1] * 5), (1, [1] * 5)):
        sizes.clear()
        assert torch.allclose(
            attribute(scene, interpolations=interpolations, memory_budget=budget), at_once, atol=1e-12
        )
        assert sizes == expected * len(interpolations)
    monkeypatch.setattr(memory, "budget", lambda device: 3 * run)
    sizes.clear()
    attribute(scene, interpolations=interpolations[:1])
    assert sizes == [3, 2]


def test_the_clean_run_as_an_interpolation_is_plain_attribution():
    scene = scene_of(tiny("gpt2"), random_batch())
    plain = attribute(scene)
    mixed = attribute(scene, interpolations=[Interpolation(slice(0, 1), (1.0, 1.0)), CLEAN_RUN])
    assert torch.allclose(mixed, plain, atol=1e-12)


@pytest.mark.parametrize("ablation", [Resample, Mean])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_out_of_input_add_up_to_the_change_from_clean_to_ablated_embeddings(variant, ablation):
    """Completeness of integrated gradients, by the midpoint rule; a path to zero embeddings is too steep (RMSNorm)."""
    model = tiny(variant)
    scene = scene_of(model, random_batch(), ablation)
    shares = tuple((step + 0.5) / 400 for step in range(400))
    scores = attribute(scene, interpolations=[Interpolation(slice(0, 1), shares)])

    def value(embedded):
        *_, (_, _, stream) = model.run(embedded, scene.context)
        return scene.values(model.at_answers(stream, scene.batch)).sum()

    change = value(scene.ablated[0].expand_as(scene.embedded)) - value(scene.embedded)
    assert float(scores[model.graph.writer_of == 0].sum()) == pytest.approx(float(change), rel=1e-3, abs=1e-3)


def test_other_writers_than_a_group_cannot_be_interpolated():
    with pytest.raises(UsageError, match=r"slice\(1, 2, None\).*writer_groups"):
        attribute(scene_of(tiny("gpt2"), random_batch()), interpolations=[Interpolation(slice(1, 2), (0.5,))])
    with pytest.raises(UsageError, match="no shares"):
        Interpolation(slice(0, 1), ())


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_writers_effect_is_the_sum_of_its_edges_on_each_prompt(variant, ablation):
    model, batch = tiny(variant), random_batch()
    scene = scene_of(model, batch, ablation)
    effects = attribute_writers(scene)
    for prompt in range(len(batch)):
        one = Scene(model, batch[prompt : prompt + 1], scene.objective, scene.ablation)
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
    plain, policy = scene_of(model, batch), LayerByLayer()
    scene = Scene(model, batch, plain.objective, plain.ablation, policy)
    assert torch.equal(plain.ablated, scene.ablated)  # both made outside of any investigation
    effects = attribute_writers(scene)
    for layer, group in enumerate(policy.groups(graph)):
        with policy.investigate(group):
            expected = attribute_writers(plain)
        own = [0] if layer == 0 else []
        own += [writer for reader in group for writer in graph.owners(reader)]
        assert torch.equal(effects[own], expected[own])
