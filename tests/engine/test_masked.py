"""The masked run against plain runs and against plain loops over edges."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow import SlowModel
from tiny import VARIANTS, random_batch, tiny, tiny_hf

from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.scene import Scene
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import AnswerLogProbability, LogitDifference

ABLATIONS = [Resample, Mean, Zero]


def scene_of(model, batch, ablation=Resample, objective=LogitDifference):
    made = ablation()
    made.fit(model, [batch])
    return Scene(model, batch, objective(), made)


@pytest.mark.parametrize("kv", ["group", "head"])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_edges_give_the_clean_logits_and_none_the_ablated(variant, ablation, kv):
    model, batch = tiny(variant, kv=kv), random_batch(positions=2)
    scene = scene_of(model, batch, ablation)
    edges = len(model.graph)
    full, empty = model.logits(MaskedRun(scene).final(torch.stack([torch.ones(edges), torch.zeros(edges)]))).all()
    with torch.no_grad():
        theirs = model.model(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    assert torch.allclose(full, model.at_answers(theirs, batch), atol=1e-5)  # transformers' norms are in float32
    if ablation is Resample:
        swapped = dataclasses.replace(batch, clean=batch.corrupted)
        assert torch.allclose(empty, model.answer_logits(swapped), atol=1e-10)
    else:
        stream = scene.ablated.sum(0) + model.constant(scene.context)
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
    scene, slow = scene_of(model, batch, ablation), SlowModel(hf, kv)
    assert slow.edges == model.graph.names
    masks = torch.rand(2, len(model.graph), generator=torch.Generator().manual_seed(seed)) < density
    ablated = dict(zip(slow.writers, scene.ablated, strict=True))
    ours = model.logits(MaskedRun(scene).final(masks)).all()
    for mask, found in zip(masks, ours, strict=True):
        kept = {name for name, keep in zip(slow.edges, mask.tolist(), strict=True) if keep}
        logits, outputs = slow.run(batch, kept, ablated, batch.clean)
        assert torch.allclose(found, model.at_answers(logits, batch), atol=1e-5)
        mine = MaskedRun(scene).outputs(mask)
        for writer, output in enumerate(mine):
            theirs = outputs[slow.writers[writer]]
            assert torch.allclose(output[batch.mask], theirs[batch.mask], atol=1e-5), slow.writers[writer]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_from_a_later_layer_is_the_same_run(variant):
    model, batch = tiny(variant), random_batch()
    scene = scene_of(model, batch)
    mask = torch.rand(3, len(model.graph)) < 0.5
    first = model.graph.attention(1).edges.start
    mask[:, :first] = mask[0, :first]  # the same before layer 1
    whole = MaskedRun(scene)
    later = MaskedRun(scene, 1, whole.outputs(mask[0])[: model.graph.head(1, 0)])
    assert torch.allclose(whole.values(mask), later.values(mask), atol=1e-12)


def test_a_half_kept_edge_carries_the_mean_of_both():
    model, batch = tiny("gpt2"), random_batch()
    scene = scene_of(model, batch)
    edge = model.graph.parse("a1.h0->logits")
    masks = torch.ones(3, len(model.graph), dtype=torch.float64)
    masks[1, edge], masks[2, edge] = 0.5, 0.0
    full, half, none = MaskedRun(scene).final(masks)
    assert torch.allclose(half, (full + none) / 2) and not torch.allclose(full, none)


def test_padding_makes_no_difference():
    model = tiny("llama")
    alone = random_batch(lengths=(5,))
    padded = random_batch(lengths=(5, 9))
    assert torch.equal(padded.clean[0, 4:], alone.clean[0])
    mask = torch.rand(1, len(model.graph)) < 0.5
    for ablation in (Resample, Zero):
        one = MaskedRun(scene_of(model, alone, ablation, AnswerLogProbability)).values(mask)
        padded = dataclasses.replace(padded, answers=alone.answers.repeat(2, 1, 1))
        two = MaskedRun(scene_of(model, padded, ablation, AnswerLogProbability)).values(mask)
        assert torch.allclose(one[0, 0], two[0, 0], atol=1e-12)
