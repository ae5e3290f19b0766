"""Tensors are where torch needs them on CUDA, shown on a pretend device; the results are the CPU's, bit for bit."""

import pytest
import torch
from support.prepared import prepare
from support.pretend_cuda import CUDA, pretend_cuda, to_pretend_cuda
from support.tiny import random_batch, tiny_hf

from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.models.circuit_model import CircuitModel


def compute(model, batch, ablation, objective):
    """Scores of edges, values of a circuit, and a search: all of them on the CPU."""
    some = torch.rand(len(model.graph), generator=torch.Generator().manual_seed(3), dtype=torch.float32) < 0.4
    found = [attribute(prepare(model, batch, ablation, objective)).cpu()]
    found.append(CircuitRun(prepare(model, batch, ablation, objective)).values(some).cpu())
    search = GreedySearch(IncrementalEditor([prepare(model, batch, ablation, objective)]), 0.02)
    search.run()
    return [*found, search.kept.cpu(), search.scores.cpu()]


@pytest.mark.parametrize(
    ("variant", "ablation", "objective"),
    [
        ("gpt2", Resample, LogitDifference),
        ("llama", Mean, KLDivergence),
        ("gemma2", Zero, LogitDifference),
        ("gpt_neox", Resample, KLDivergence),
    ],
)
def test_results_on_cuda_are_those_on_the_cpu(variant, ablation, objective, monkeypatch):
    monkeypatch.setattr("circuitkit.engine.memory.budget", lambda device: 1 << 28)
    batch = random_batch(5, (4, 5))
    expected = compute(CircuitModel.from_model(tiny_hf(variant)), batch, ablation, objective)
    model = CircuitModel.from_model(tiny_hf(variant))
    with pretend_cuda():
        to_pretend_cuda(model.model)
        model.refresh()
        assert model.device == CUDA
        found = compute(model, batch.to(model.device), ablation, objective)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_pretend_device_refuses_what_cuda_refuses():
    with pretend_cuda():
        here = torch.arange(3, dtype=torch.float32)
        there = here.to("cuda")
        assert (there[torch.tensor([0, 2])] + torch.tensor(1.0)).tolist() == [1, 3]  # as on CUDA
        with pytest.raises(RuntimeError, match="same device"):
            torch.where(here > 1, there, there)
        with pytest.raises(RuntimeError, match="same device"):
            here + there
        with pytest.raises(RuntimeError, match="index is on cuda"):
            here[(there > 1).nonzero()[:, 0]]
        assert torch.equal((there * 2).cpu(), here * 2)
