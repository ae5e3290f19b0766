"""The real model: SmolLM2-135M, fetched once; skipped, with a reason, if it cannot be fetched."""

from dataclasses import replace

import pytest
import torch
from support.smollm2 import smollm2  # noqa: F401  a fixture

from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.ioi import IOI


@pytest.fixture(scope="module")
def model(smollm2):  # noqa: F811
    return CircuitModel.from_pretrained(smollm2)


def test_parity_and_the_graph(model):
    assert model.check_parity() < 1e-4
    assert len(model.graph) == 70_651
    assert (model.graph.heads, model.graph.kv_heads, model.graph.layers) == (9, 3, 30)


def test_left_padded_prompts_as_transformers_computes_them(model):
    batch = IOI().prompts(model.tokenizer, "test", 6, seed=0)
    assert batch.padded
    with torch.no_grad():
        theirs = model.model(batch.clean, attention_mask=batch.mask.long(), position_ids=batch.positions).logits
    theirs = model.at_answers(theirs, batch)
    assert (model.answer_logits(batch) - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_the_masked_runs_ends(model):
    batch = IOI(template=0).prompts(model.tokenizer, "test", 2, seed=0)
    (prepared,) = prepare_batches(model, [batch], LogitDifference(), Resample())
    masks = torch.stack([torch.ones(70_651), torch.zeros(70_651)])
    with torch.no_grad():
        full, empty = MaskedRun(prepared).values(masks)
    swapped = replace(batch, clean=batch.corrupted)
    assert torch.allclose(full, prepared.values(model.final_stream(batch)), atol=1e-3)
    assert torch.allclose(empty, prepared.values(model.final_stream(swapped)), atol=1e-3)


def test_a_whole_search_ends_where_a_masked_run_of_its_circuit_does(model):
    batch = IOI(template=0).prompts(model.tokenizer, "train", 4, seed=0)
    (prepared,) = prepare_batches(model, [batch], LogitDifference(), Resample())
    search = GreedySearch(IncrementalEditor([prepared]), 0.3)
    search.run()
    nothing = torch.zeros(0, model.graph.prefix(search.editor.reader), dtype=torch.bool)
    with torch.no_grad():
        masked = float(MaskedRun(prepared).values(search.kept[None]).mean())
    assert float(search.editor.values(nothing)[0]) == pytest.approx(masked, abs=1e-4)
    assert 5 < int(search.kept.sum()) < 100
    assert torch.isfinite(attribute(prepared)).all()
