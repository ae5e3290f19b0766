"""Position embeddings as a writer: all computations agree with equation (1); resampling leaves them as they are."""

import pytest
import torch
from support.prepared import ABLATIONS, prepare, slow_final
from support.tiny import random_batch, tiny, tiny_hf

from circuitkit.circuit.circuit import Circuit
from circuitkit.contracts.weights import prepare_policy
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute, attribute_writers
from circuitkit.engine.attribution.reader_gradients import Interpolation, writer_groups
from circuitkit.engine.capture import capture
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.pahq import PAHQ
from circuitkit.precision.quantization import Mode
from circuitkit.run.discoverer import discover

every_ablation = pytest.mark.parametrize("ablation", ABLATIONS)


def model_of(seed: int = 0, variant: str = "gpt2") -> CircuitModel:
    return tiny(variant, seed, positions="writer")


def edges_of(model: CircuitModel) -> torch.Tensor:
    return model.graph.writer_of == 1


def test_the_writers_before_the_first_layer_are_the_embeddings() -> None:
    model, hf, batch = model_of(), tiny_hf("gpt2"), random_batch()
    tokens, positions = model.inputs(batch.clean, model.context(batch))
    assert torch.equal(tokens, hf.transformer.wte(batch.clean))
    assert torch.equal(positions, hf.transformer.wpe(batch.positions))
    assert model.constant(model.context(batch)) == 0


def test_a_model_without_learned_positions_has_none_to_write() -> None:
    with pytest.raises(UsageError, match="a llama model has no position embeddings"):
        tiny("llama", positions="writer")


@every_ablation
@pytest.mark.parametrize("variant", ["gpt2", "opt", "tracr"])
def test_runs_equal_equation_1(variant: str, ablation: type) -> None:
    model = model_of(variant=variant)
    for batch in (random_batch(positions=2), random_batch(1, lengths=(6, 6, 6))):
        prepared, edges = prepare(model, batch, ablation), len(model.graph)
        masked, run = MaskedRun(prepared), CircuitRun(prepared)
        random = torch.Generator().manual_seed(0)
        masks = torch.stack([torch.rand(edges, generator=random) < part for part in (0, 0.1, 0.5, 0.9, 1)])
        with torch.no_grad():
            finals = masked.final(masks)
        for mask, final in zip(masks, finals, strict=True):
            assert torch.allclose(final, slow_final(prepared, mask.double()), atol=1e-12)
            assert torch.allclose(final, run.final(mask), atol=1e-12)
        assert torch.allclose(model.logits(finals[-1]).all(), model.answer_logits(batch), atol=1e-12)
        ablated = prepared.ablated.sum(0)
        for layer in range(model.graph.layers):
            ablated = ablated + model.attention_constant(layer)
        wanted = model.at_answers(ablated.expand(*batch.clean.shape, -1), batch)
        assert torch.allclose(finals[0], wanted, atol=1e-12)


@every_ablation
def test_scores_are_the_gradients_of_the_masked_run(ablation: type) -> None:
    model = model_of()
    prepared = prepare(model, random_batch(positions=2), ablation)
    mask = torch.ones(1, len(model.graph), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MaskedRun(prepared).values(mask).sum(), mask)
    scores = attribute(prepared)
    assert torch.allclose(scores, -slope[0], atol=1e-12)
    assert bool((scores[edges_of(model)] == 0).all()) == (ablation is Resample)
    effects = attribute_writers(prepared).sum(1)
    for writer in range(model.graph.n_writers):
        assert torch.allclose(scores[model.graph.writer_of == writer].sum(), effects[writer], atol=1e-12)


@every_ablation
def test_interpolation_moves_both_embeddings_together(ablation: type) -> None:
    """With positions as a constant, only the tokens move; resampling leaves the positions, so that it is the same."""
    model, without, batch = model_of(), tiny("gpt2"), random_batch()
    group = writer_groups(model.graph)[0]
    assert group == slice(0, 2)
    scores = attribute(prepare(model, batch, ablation), interpolations=[Interpolation(group, (0.0, 0.5))])
    others = attribute(prepare(without, batch, ablation), interpolations=[Interpolation(slice(0, 1), (0.0, 0.5))])
    same = torch.allclose(scores[~edges_of(model)], others, atol=1e-12)
    assert same == (ablation is Resample)


@every_ablation
@pytest.mark.parametrize("seed", range(2))
def test_the_incremental_editor_equals_replay(ablation: type, seed: int) -> None:
    model, batch = model_of(seed), random_batch(seed, lengths=(5, 7, 4), positions=1 + seed % 2)
    made = ablation()
    made.fit(model, [batch])
    prepared_batches = prepare_batches(model, batch.split(2), LogitDifference(), made)
    kept = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(seed)) < (1.0, 0.8)[seed]
    found = []
    for editor in (ReplayEditor(prepared_batches, kept), IncrementalEditor(prepared_batches, kept)):
        search = GreedySearch(editor, 0.03, absolute=True)
        search.run()
        found.append(search)
    assert torch.equal(found[0].kept, found[1].kept)
    assert torch.allclose(found[0].scores, found[1].scores, atol=1e-9)
    tested = found[0].scores[edges_of(model)]
    assert bool((tested.abs() < 1e-12).all()) == (ablation is Resample)


def test_mean_and_zero_change_the_positions() -> None:
    model, batch = model_of(), random_batch()
    written = model.inputs(batch.clean, context := model.context(batch))[1]
    mean = Mean()
    mean.fit(model, [batch])
    assert torch.equal(Resample().outputs(model, batch, context)[1], written)
    assert (Zero().outputs(model, batch, context)[1] == 0).all()
    assert torch.allclose(mean.outputs(model, batch, context)[1], written[batch.mask].mean(0), atol=1e-12)


@pytest.mark.parametrize("mode", ["int8", "nf4", "bf16"])
@torch.no_grad()
def test_low_precision_does_not_reach_the_embeddings(mode: Mode) -> None:
    """The outputs of `input` and `positions` are those of full precision, bit for bit; other writers' are not."""
    model, batch = tiny("gpt2", dtype=torch.float32, positions="writer"), random_batch()
    context = model.context(batch)
    exact = capture(model, model.inputs(batch.clean, context), context)
    with prepare_policy(PAHQ(mode, "attention+mlp"), model) as policy:
        for reader in ("a1.h0<q>", "logits"):
            with policy.investigate([model.graph.parse_reader(reader)]):
                lowered = policy.low_precision_writers()
                found = capture(model, model.inputs(batch.clean, context), context)
            assert lowered is not None
            assert not lowered[:2].any()
            assert torch.equal(found[:2], exact[:2])
            assert lowered[2]
            assert not torch.allclose(found[2:], exact[2:], rtol=1e-4)


def test_a_search_in_low_precision_has_positions() -> None:
    model, batch = tiny("gpt2", dtype=torch.float32, positions="writer"), random_batch()
    result = discover(
        model, batch, "acdc", strategy_args={"threshold": 0.05}, precision=PAHQ(), ablation="zero", sizes=[]
    )
    assert isinstance(result.circuit, Circuit)
    tested = result.circuit.scores[edges_of(model)]
    assert tested.isfinite().all()
    assert (tested != 0).any()
