"""HISP: importances by masks on heads' outputs, as Michel et al. define them."""

import pytest
import torch
from support.slow import SlowModel
from support.tiny import random_batch, tiny_hf

import circuitkit
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel


def importances(slow, batch, ablated):
    """Sum over prompts of |dL/dmask| at mask 1, where a writer writes mask * o + (1 - mask) * õ; a prompt at a time."""
    _, clean = slow.run(batch, set(slow.edges), None, batch.clean)
    differences = {writer: ablated[writer] - clean[writer] for writer in slow.writers}
    total = dict.fromkeys(slow.writers, 0.0)
    for prompt in range(len(batch)):

        def value(logits, prompt=prompt):
            last = logits[prompt, -1]
            return last[batch.wrong_answers[prompt, 0, 0]] - last[batch.answers[prompt, 0, 0]]

        of_edges = slow.slopes(batch, value, differences, {})
        for writer in slow.writers:
            total[writer] += abs(sum(slope for edge, slope in of_edges.items() if edge.split("->")[0] == writer))
    return total


@pytest.mark.parametrize("ablation", ["zero", "resample"])
@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_an_edge_has_the_lesser_importance_of_its_ends(variant, ablation):
    hf = tiny_hf(variant)
    model, slow, batch = CircuitModel.from_model(hf), SlowModel(hf), random_batch()
    _, corrupted = slow.run(batch, set(slow.edges), None, batch.corrupted)
    ablated = {name: torch.zeros_like(out) for name, out in corrupted.items()} if ablation == "zero" else corrupted
    importance = importances(slow, batch, ablated)
    node = {"input": 1.0, "logits": 1.0}
    for layer in ("0", "1"):
        own = {name: value for name, value in importance.items() if name.split(".")[0] in (f"a{layer}", f"m{layer}")}
        length = sum(value**2 for value in own.values()) ** 0.5
        node |= {name: value / length for name, value in own.items()}
    circuit = circuitkit.discover(model, batch, "hisp", ablation=ablation).circuit
    for edge, score in circuit.to_dict().items():
        writer, reader = edge.split("->")
        fed = reader.split("<")[0]
        if ".kv" in fed:  # a key or value of two heads
            layer, group = fed.split(".kv")
            end = max(node[f"{layer}.h{head}"] for head in (2 * int(group), 2 * int(group) + 1))
        else:
            end = node[fed]
        assert score == pytest.approx(min(node[writer], end), rel=1e-5, abs=1e-6)
    assert len(circuit) == len(model.graph)


def test_it_refuses_an_objective_that_vanishes_at_the_full_model():
    with pytest.raises(UsageError, match="HISP with the objective KLDivergence would score every edge zero"):
        circuitkit.discover(CircuitModel.from_model(tiny_hf("gpt2")), random_batch(), "hisp", objective="kl")


def test_a_layer_that_does_nothing_scores_zero():
    hf = tiny_hf("gpt2")
    with torch.no_grad():
        for projection in (hf.transformer.h[1].attn.c_proj, hf.transformer.h[1].mlp.c_proj):
            projection.weight.zero_(), projection.bias.zero_()
    scores = circuitkit.discover(CircuitModel.from_model(hf), random_batch(), "hisp").circuit.to_dict()
    assert all((score == 0) == ("1." in edge or "m1" in edge) for edge, score in scores.items())
