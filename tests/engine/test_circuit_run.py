"""The run of a circuit against equation (1) edge by edge, and against the masked run."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.prepared import ABLATIONS, prepare, slow_final
from support.tiny import VARIANTS, random_batch, tiny

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation, Resample, Zero
from circuitkit.engine.capture import capture
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.footprint import Footprints
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch

DENSITIES = [0.0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.9, 0.98, 1.0]


def random_circuits(graph, densities, seed=0):
    """Random circuits, each a part of the next."""
    ranks = torch.rand(len(graph), generator=torch.Generator().manual_seed(seed))
    return [ranks < density for density in densities]


def check(prepared: PreparedBatch, circuits: list[torch.Tensor]) -> None:
    """Compare one run object, used for all circuits, with two slow computations of each; every 4th edge by edge."""
    run, masked = CircuitRun(prepared), MaskedRun(prepared)
    scale = prepared.model.final_stream(prepared.batch).abs().max()
    for number, kept in enumerate(circuits):
        found = run.final(kept)
        with torch.no_grad():
            # With the ablation zero, the masked run has rounding errors in place of zeros, which norms then magnify
            tolerance = 1e-12 if prepared.ablation.is_run else 1e-9
            assert (found - masked.final(kept[None])[0]).abs().max() <= tolerance * scale
            if number % 4 == 1:
                assert (found - slow_final(prepared, kept.to(found))).abs().max() <= 1e-12 * scale
        assert torch.equal(run.values(kept), prepared.values(found))
        assert not found.requires_grad


@pytest.mark.parametrize("kv", ["group", "head"])
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_circuit_gives_what_equation_1_gives(variant, ablation, kv):
    model = tiny(variant, kv=kv)
    for batch in (random_batch(), random_batch(lengths=(8, 8), positions=2, missing=1)):
        check(prepare(model, batch, ablation), random_circuits(model.graph, DENSITIES))


def moved_answers(batch: PromptBatch, generator: torch.Generator) -> PromptBatch:
    """The same prompts, read somewhere inside them, perhaps before clean and corrupted differ."""
    starts = batch.mask.long().argmax(1, keepdim=True)
    part = torch.rand(batch.answer_positions.shape, generator=generator)
    where = starts + (part * (batch.length - starts)).long()
    return dataclasses.replace(batch, answer_positions=torch.where(batch.answer_positions < 0, -1, where))


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "variant": st.sampled_from(sorted(VARIANTS)),
            "kv": st.sampled_from(["group", "head"]),
            "ablation": st.sampled_from(ABLATIONS),
            "lengths": st.lists(st.integers(2, 9), min_size=1, max_size=4),
            "positions": st.integers(1, 2),
            "missing": st.integers(0, 1),
            "moved": st.booleans(),
            "unchanged": st.booleans(),
            "densities": st.lists(st.floats(0, 1), min_size=2, max_size=5),
            "pruned": st.booleans(),
            "seed": st.integers(0, 10**6),
        }
    )
)
def test_nested_circuits_of_any_prompts(case):
    generator = torch.Generator().manual_seed(case["seed"])
    missing = min(case["missing"], case["positions"] - 1)
    batch = random_batch(case["seed"], tuple(case["lengths"]), positions=case["positions"], missing=missing)
    if case["unchanged"]:
        batch = dataclasses.replace(batch, corrupted=torch.cat([batch.clean[:1], batch.corrupted[1:]]))
    if case["moved"]:
        batch = moved_answers(batch, generator)
    prepared = prepare(tiny(case["variant"], case["seed"] % 7, kv=case["kv"]), batch, case["ablation"])
    circuits = random_circuits(prepared.model.graph, sorted(case["densities"]), case["seed"])
    assert all(bool((small <= large).all()) for small, large in pairwise(circuits))
    if case["pruned"]:
        ranking = Circuit.from_scores(prepared.model.graph, torch.zeros(len(circuits[0]), dtype=torch.float64))
        circuits = [dataclasses.replace(ranking, kept=kept).prune().kept for kept in circuits]
    check(prepared, circuits)


def mlp_rows(monkeypatch, model):
    """Record how many vectors each MLP gets, in the order of the calls."""
    rows, mlp = [], model.mlp
    monkeypatch.setattr(model, "mlp", lambda layer, x: (rows.append((layer, x[..., 0].numel())), mlp(layer, x))[1])
    return rows


CHAIN = ["input->m0", "m0->m1", "m1->logits"]
COUNTS = {
    "a chain is computed at the answers": (Zero, CHAIN, [(0, 3), (1, 3)]),
    "what a key depends on is computed at every position": (
        Zero, ["input->m0", "m0->a1.kv0<k>", "a1.h0->logits", "m0->logits"], [(0, 5 + 9 + 8)],
    ),
    "with resample, where the tokens differ": (
        Resample, ["input->m0", "m0->a1.kv0<k>", "a1.h0->logits", "m0->logits"], [(0, None)],
    ),
    "a dead node is not computed": (Zero, ["input->m0", "input->m1", "m1->logits"], [(1, 3)]),
    "a node without a path from the input is computed": (Zero, ["m0->m1", "m1->logits"], [(0, 3), (1, 3)]),
    "but not with resample": (Resample, ["m0->m1", "m1->logits", "input->logits"], []),
    "nothing": (Resample, [], []),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTS)
def test_what_is_computed(case, monkeypatch):
    ablation, names, expected = COUNTS[case]
    model, batch = tiny("llama"), random_batch(lengths=(5, 9, 8))
    prepared = prepare(model, batch, ablation)
    kept = Circuit.from_names(model.graph, names).kept
    check(prepared, [kept])
    run = CircuitRun(prepared)
    rows = mlp_rows(monkeypatch, model)
    run.final(kept)
    differing = int((batch.clean != batch.corrupted).sum())
    assert differing < int(batch.mask.sum())
    assert rows == [(layer, differing if count is None else count) for layer, count in expected]


def test_multiply_adds_are_counted():
    model, batch = tiny("llama"), random_batch(lengths=(6, 6))
    family, graph = model.family, model.graph
    run = CircuitRun(prepare(model, batch, Zero))
    assert run.forward_equivalents == 0
    projection = family.width * family.head_width
    attending = 2 * 6 * family.head_width
    mlp = 3 * family.width * 24
    forward = 2 * 6 * graph.layers * (2 * projection * (graph.heads + graph.kv_heads) + attending * graph.heads + mlp)
    run.final(Circuit.from_names(graph, ["input->m0", "input->m1", "m0->m1", "m1->logits"]).kept)
    # Both MLPs at two answers. They keep all live writers before them, at no cost; the logits keep one of three
    assert run.forward_equivalents == pytest.approx(2 * (2 * mlp + family.width) / forward)
    before = run.forward_equivalents
    run.final(torch.ones(len(graph), dtype=torch.bool))
    # Every node, and no sums; but of the last layer, queries, heads and the MLP at the answers alone
    saved = 2 * 5 * (graph.heads * (2 * projection + attending) + mlp)
    assert run.forward_equivalents - before == pytest.approx((forward - saved) / forward)


def test_multiply_adds_of_the_past_are_counted():
    """Keys and values at positions before the first that differ, where the heads are those of the ablated run."""
    model, batch = tiny("llama"), random_batch(lengths=(9, 9))
    family, graph = model.family, model.graph
    run = CircuitRun(prepare(model, batch, Resample))
    positions = 2 * 3  # both prompts have their first three tokens in common
    assert len(run.rows.past) == positions
    projections = 2 * family.kv_heads * family.width * family.head_width
    assert run.forward_equivalents == pytest.approx(graph.layers * positions * projections / run._macs_of_forward)


class Broadcast(Ablation):
    """Ablated outputs that belong to no run, one vector per prompt."""

    def outputs(self, model, batch, context):
        return capture(model, model.inputs(batch.corrupted, context), context).mean(2, keepdim=True)


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_an_ablation_of_ones_own(variant):
    model = tiny(variant)
    check(prepare(model, random_batch(), Broadcast), random_circuits(model.graph, DENSITIES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_other_precisions(dtype):
    model = tiny("llama", dtype=dtype)
    prepared = prepare(model, random_batch())
    run, masked = CircuitRun(prepared), MaskedRun(prepared)
    for kept in random_circuits(model.graph, DENSITIES):
        with torch.no_grad():
            expected = masked.final(kept[None])[0]
        assert run.final(kept).dtype == dtype
        assert torch.allclose(
            run.final(kept), expected, rtol=0, atol=float(30 * torch.finfo(dtype).eps * expected.abs().max())
        )


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama"])
def test_what_is_held_fits_what_is_predicted(variant, ablation):
    model, batch = tiny(variant), random_batch(lengths=(8, 8, 8))
    prepared = prepare(model, batch, ablation)
    run = CircuitRun(prepared)
    need = Footprints(model, batch, prepared.objective, prepared.ablation, prepared.policy).circuit_run()
    streams = sum(stream.untyped_storage().nbytes() for stream in run.streams)
    assert 0 < streams <= len(batch) * need.held["streams"]
    differences = model.graph.n_writers * len(run.rows.numbers) * model.family.width * 8  # of the full circuit
    past = sum(tensor.nbytes for layer in run.past for tensor in layer.values())
    assert bool(past) == ablation.is_run
    assert differences + past <= len(batch) * need.working["differences"]
