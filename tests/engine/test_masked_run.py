"""The masked run against plain runs and against plain loops over edges."""

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.prepared import ABLATIONS, prepare, slow_final
from support.slow import SlowModel
from support.tiny import VARIANTS, answer_logits_alone, random_batch, tiny, tiny_hf

from circuitkit.data.objectives import AnswerLogProbability
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision


@pytest.mark.parametrize("kv", ["group", "head"])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_edges_give_the_clean_logits_and_none_the_ablated(variant, ablation, kv):
    model, batch = tiny(variant, kv=kv), random_batch(positions=2)
    prepared = prepare(model, batch, ablation)
    edges = len(model.graph)
    full, empty = model.logits(MaskedRun(prepared).final(torch.stack([torch.ones(edges), torch.zeros(edges)]))).all()
    theirs = answer_logits_alone(model.model, batch)
    assert torch.allclose(full, theirs, atol=1e-5)  # transformers' norms are in float32
    if ablation is Resample:
        swapped = dataclasses.replace(batch, clean=batch.corrupted)
        assert torch.allclose(empty, model.answer_logits(swapped), atol=1e-10)
    else:
        stream = prepared.ablated.sum(0) + model.constant(prepared.context)
        for layer in range(model.graph.layers):
            stream = stream + model.attention_constant(layer)
        stream = stream.expand(*batch.clean.shape, -1)
        assert torch.allclose(empty, model.logits(model.at_answers(stream, batch)).all(), atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(["group", "head"]),
    st.sampled_from(ABLATIONS),
    st.floats(0, 1),
    st.integers(0, 10**6),
)
def test_any_mask_equals_plain_loops_over_edges(variant, kv, ablation, density, seed):
    hf = tiny_hf(variant, seed % 7)
    model = CircuitModel.from_model(hf, kv=kv)
    batch = random_batch(seed, lengths=(4, 5))
    prepared, slow = prepare(model, batch, ablation), SlowModel(hf, kv)
    assert slow.edges == model.graph.names
    masks = torch.rand(2, len(model.graph), generator=torch.Generator().manual_seed(seed)) < density
    ablated = dict(zip(slow.writers, prepared.ablated, strict=True))
    ours = model.logits(MaskedRun(prepared).final(masks)).all()
    for mask, found in zip(masks, ours, strict=True):
        kept = {name for name, keep in zip(slow.edges, mask.tolist(), strict=True) if keep}
        logits, outputs = slow.run(batch, kept, ablated, batch.clean)
        assert torch.allclose(found, model.at_answers(logits, batch), atol=1e-5)
        mine = MaskedRun(prepared).outputs(mask)
        for writer, output in enumerate(mine):
            theirs = outputs[slow.writers[writer]]
            assert torch.allclose(output[batch.mask], theirs[batch.mask], atol=1e-5), slow.writers[writer]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_from_a_later_layer_is_the_same_run(variant):
    model, batch = tiny(variant), random_batch()
    prepared = prepare(model, batch)
    mask = torch.rand(3, len(model.graph)) < 0.5
    first = model.graph.attention(1).edges.start
    mask[:, :first] = mask[0, :first]  # the same before layer 1
    whole = MaskedRun(prepared)
    later = MaskedRun(prepared, 1, whole.outputs(mask[0])[: model.graph.head(1, 0)])
    assert torch.allclose(whole.values(mask), later.values(mask), atol=1e-12)


def test_a_half_kept_edge_carries_the_mean_of_both():
    model, batch = tiny("gpt2"), random_batch()
    prepared = prepare(model, batch)
    edge = model.graph.parse("a1.h0->logits")
    masks = torch.ones(3, len(model.graph), dtype=torch.float64)
    masks[1, edge], masks[2, edge] = 0.5, 0.0
    full, half, none = MaskedRun(prepared).final(masks)
    assert torch.allclose(half, (full + none) / 2)
    assert not torch.allclose(full, none)


def test_padding_makes_no_difference():
    model = tiny("llama")
    alone = random_batch(lengths=(5,))
    padded = random_batch(lengths=(5, 9))
    assert torch.equal(padded.clean[0, 4:], alone.clean[0])
    mask = torch.rand(1, len(model.graph)) < 0.5
    for ablation in (Resample, Zero):
        one = MaskedRun(prepare(model, alone, ablation, AnswerLogProbability)).values(mask)
        padded = dataclasses.replace(padded, answers=alone.answers.repeat(2, 1, 1))
        two = MaskedRun(prepare(model, padded, ablation, AnswerLogProbability)).values(mask)
        assert torch.allclose(one[0, 0], two[0, 0], atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(["group", "head"]),
    st.sampled_from(ABLATIONS),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_gradients_equal_autograds_through_plain_loops(variant, kv, ablation, count, checkpoint, seed):
    prepared = prepare(tiny(variant, seed % 5, kv=kv), random_batch(seed, positions=1 + seed % 2), ablation)
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, len(prepared.model.graph), generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.rand(count, len(prepared.batch), generator=generator, dtype=torch.float64)
    values = MaskedRun(prepared, checkpoint=checkpoint).values(masks)
    expected = torch.stack([prepared.values(slow_final(prepared, mask)) for mask in masks])
    assert torch.allclose(values, expected, atol=1e-11)
    (slopes,) = torch.autograd.grad((values * weights).sum(), masks, retain_graph=True)
    (again,) = torch.autograd.grad((values * weights).sum(), masks)
    (by_loops,) = torch.autograd.grad((expected * weights).sum(), masks)
    assert (slopes - by_loops).abs().max() <= 1e-10 * by_loops.abs().max()
    assert torch.equal(slopes, again)  # the buffer of gradients is made anew


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_a_run_from_a_later_layer(variant, count, start):
    model = tiny(variant)
    prepared = prepare(model, random_batch())
    masks = torch.rand(count, len(model.graph), dtype=torch.float64)
    first = model.graph.head(start, 0)  # of as many layers as there are: all writers
    edges = slice(model.graph.blocks[2 * start].edges.start, None)
    masks[:, : edges.start] = masks[0, : edges.start].clone()  # the same before
    masks.requires_grad_()
    whole = MaskedRun(prepared)
    with torch.no_grad():
        upstream = whole.outputs(masks[0])[:first]
    (expected,) = torch.autograd.grad(whole.values(masks).sum(), masks)
    (slopes,) = torch.autograd.grad(MaskedRun(prepared, start, upstream).values(masks).sum(), masks)
    assert torch.allclose(slopes[:, edges], expected[:, edges], atol=1e-11)


class Halves(FullPrecision):
    """Investigates the even readers, then the odd ones, and notes what happens inside."""

    def __init__(self):
        self.inside, self.log = [], []

    def groups(self, graph):
        yield range(0, graph.n_readers, 2)
        yield range(1, graph.n_readers, 2)

    @contextmanager
    def investigate(self, readers):
        self.inside.append(readers)
        try:
            yield
        finally:
            self.inside.pop()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_rotating_run_investigates_one_group_per_call_also_when_layers_are_repeated(checkpoint, monkeypatch):
    policy = Halves()
    model = tiny("llama")
    plain = prepare(model, random_batch())
    prepared = dataclasses.replace(plain, policy=policy)
    heads = model.heads
    monkeypatch.setattr(model, "heads", lambda *a: (policy.log.append(list(policy.inside)), heads(*a))[1])
    even, odd = policy.groups(model.graph)
    run = MaskedRun(prepared, rotate=True, checkpoint=checkpoint)
    passes = 2 if checkpoint else 1
    for group in (even, odd, even):
        policy.log.clear()
        mask = torch.rand(1, len(model.graph), dtype=torch.float64, requires_grad=True)
        run.values(mask).sum().backward()
        assert policy.log == [[group]] * (model.graph.layers * passes)
        assert not policy.inside
    run.group = 1
    policy.log.clear()
    run.final(mask.detach())
    assert policy.log == [[odd]] * model.graph.layers
    policy.log.clear()
    MaskedRun(prepared).values(mask)
    assert policy.log == [[]] * model.graph.layers  # left to the caller
