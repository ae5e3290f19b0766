"""Heads whose layer has a norm after the attention: a change in one head changes the outputs of all of them."""

import pytest
import torch
from support.prepared import prepare, slow_final
from support.tiny import random_batch, tiny

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun

COUPLED = ["gemma2", "gemma3_text", "olmo2"]
CIRCUITS = {
    "the other head writes to the logits": ["input->a0.kv0<k>", "a0.h3->logits", "input->logits"],
    "the other head writes to an MLP": ["input->a0.kv0<v>", "a0.h3->m0", "m0->logits"],
    "the other head writes to an MLP that is needed at every position": [
        "input->a0.kv0<v>", "a0.h3->m0", "m0->a1.kv0<k>", "a1.h0->logits", "input->a1.kv0<v>",
    ],
    "a third head is needed at the answers alone": [
        "input->a0.kv1<k>", "a0.h0->a1.kv0<k>", "a0.h1->logits", "a1.h0->logits", "input->logits",
    ],
    "the other head writes to a head that writes to nothing": [
        "input->a0.kv0<v>", "a0.h2->a1.h3<q>", "a1.h0->logits", "input->logits",
    ],
}  # fmt: skip
"""Circuits whose first edge leads into a head that no kept edge leaves."""


@pytest.mark.parametrize("variant", COUPLED)
def test_heads_are_parts_of_the_normed_output(variant):
    model, batch = tiny(variant), random_batch(lengths=(6, 6))
    found = []
    for layer in model.model.model.layers:
        layer.post_attention_layernorm.register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        model.model(batch.clean)
    outputs = MaskedRun(prepare(model, batch)).outputs(torch.ones(len(model.graph)))
    for layer, theirs in enumerate(found):
        assert torch.allclose(outputs[model.graph.heads_of(layer)].sum(0), theirs, atol=1e-5)


@pytest.mark.parametrize("names", CIRCUITS.values(), ids=CIRCUITS)
@pytest.mark.parametrize("variant", COUPLED)
def test_an_edge_into_a_head_acts_through_the_others(variant, names):
    prepared = prepare(tiny(variant), random_batch())
    circuit = Circuit.from_names(prepared.model.graph, names)
    kept, graph, edge = circuit.kept, circuit.graph, circuit.graph.parse(names[0])
    assert torch.equal(circuit.prune().kept, kept)
    without = kept.clone()
    without[edge] = False
    slow = [slow_final(prepared, mask.double()) for mask in (kept, without)]
    assert (slow[0] - slow[1]).abs().max() > 1e-4 * slow[0].abs().max()
    run = CircuitRun(prepared)
    for mask, expected in zip((kept, without), slow, strict=True):
        assert torch.allclose(run.final(mask), expected, atol=1e-11)
        assert torch.allclose(MaskedRun(prepared).final(mask[None])[0], expected, atol=1e-11)

    reader = int(graph.reader_of[edge])
    removals = torch.zeros(1, graph.prefix(reader), dtype=torch.bool)
    removals[0, int(graph.writer_of[edge])] = True
    for make in (ReplayEditor, IncrementalEditor):
        editor = make([prepared], kept)
        assert editor.is_live(reader)
        editor.open(reader)
        expected = torch.stack([prepared.values(final).mean() for final in slow])
        assert torch.allclose(editor.values(removals), expected, atol=1e-11)


@pytest.mark.parametrize("variant", COUPLED)
def test_an_edge_is_credited_with_what_it_does_to_the_other_heads(variant):
    """By its own head alone, its effect would be another."""
    model, batch = tiny(variant), random_batch()
    prepared, graph = prepare(model, batch), model.graph
    scores = attribute(prepared)
    one = MaskedRun(prepared)
    edge, eps = graph.parse("m0->a1.h0<q>"), 1e-6
    masks = torch.ones(2, len(graph), dtype=torch.float64)
    masks[1, edge] -= eps
    full, less = one.values(masks).sum(1)
    assert float(less - full) / eps == pytest.approx(float(scores[edge]), rel=1e-3)
    outputs = [one.outputs(mask) for mask in masks]
    others = slice(graph.head(1, 1), graph.head(1, graph.heads))
    assert (outputs[1] - outputs[0])[others].abs().max() > 1e-3 * eps
