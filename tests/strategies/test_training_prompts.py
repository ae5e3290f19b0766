"""The prompts of a training: which come when, the gradient of a step, and what is let go."""

import gc
import weakref

import pytest
import torch
from lightning.fabric import Fabric
from support.prepared import slow_final
from support.tiny import random_batch, tiny

from circuitkit import CircuitModel
from circuitkit.data.objectives import KLDivergence
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import CircuitKitError
from circuitkit.precision.base import FullPrecision
from circuitkit.run.discoverer import Discoverer
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts

LENGTHS = (6, 7, 5, 7, 6, 4, 5)


def discovery(model, batch, seed=0, supply=None, ablation=None, memory_budget=10**9):
    ablation = ablation or Resample()
    ablation.fit(model, [batch])
    return Discovery(
        model=model,
        batches=[batch],
        objective=KLDivergence(),
        ablation=ablation,
        policy=FullPrecision(),
        fabric=Fabric(accelerator="cpu"),
        generator=torch.Generator().manual_seed(seed),
        memory_budget=memory_budget,
        supply=supply,
    )


def made(run, batches=20, batch_size=3, prompts=None):
    return TrainingPrompts(run, batches, batch_size, prompts, checkpoint=False)


def rows(batch):
    return [tuple(row[real].tolist()) for row, real in zip(batch.clean, batch.mask, strict=True)]


def test_every_prompt_comes_once_per_epoch_in_another_order_each_time():
    run = discovery(tiny("llama"), random_batch(lengths=LENGTHS))
    found, everything = made(run), sorted(rows(run.batches[0]))
    epochs = []
    for epoch in range(3):
        batches = [found.batch(3 * epoch + place) for place in range(3)]
        assert [len(batch) for batch in batches] == [3, 3, 1]
        epochs.append([row for batch in batches for row in rows(batch)])
        assert sorted(epochs[-1]) == everything
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_follows_from_the_seed_and_its_number():
    model, batch = tiny("llama"), random_batch(lengths=LENGTHS)
    one, same, other = (made(discovery(model, batch, seed)) for seed in (0, 0, 1))
    backwards = {number: rows(same.batch(number)) for number in reversed(range(9))}
    assert [rows(one.batch(number)) for number in range(9)] == [backwards[number] for number in range(9)]
    assert [rows(one.batch(number)) for number in range(3)] != [rows(other.batch(number)) for number in range(3)]


@pytest.mark.parametrize(
    ("prompts", "asked", "available", "found"),
    [(None, 60, 100, 60), (None, 60, 11, 11), (40, 40, 100, 40), (500, 60, 100, 60), (4, None, 100, 4)],
)
def test_as_many_prompts_as_the_training_uses_unless_the_user_or_the_task_says_fewer(prompts, asked, available, found):
    requests = []

    def supply(count):
        requests.append(count)
        return random_batch(lengths=(5,) * min(count, available))

    run = discovery(tiny("llama"), random_batch(lengths=LENGTHS), supply=supply)
    assert len(made(run, prompts=prompts)) == found
    assert requests == ([] if asked is None else [asked])  # 4 are among the run's own 7


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("ablation", [Resample, Mean, Zero])
def test_the_gradient_of_a_batch_is_autograds_through_the_slow_masked_run(variant, ablation):
    model = tiny(variant)
    run = discovery(model, random_batch(lengths=LENGTHS), ablation=ablation())
    mask = torch.rand(len(model.graph), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = made(run)
    value, gradient = found.objective(4, mask)
    leaf = mask.clone().requires_grad_()
    whole = run.batches[0]
    numbers = [rows(whole).index(row) for row in rows(found.batch(4))]
    prepared = PreparedBatch(model, whole[torch.tensor(numbers)], run.objective, run.ablation)  # with all its padding
    expected = prepared.values(slow_final(prepared, leaf)).mean()
    (slow,) = torch.autograd.grad(expected, leaf)
    assert abs(value - expected.item()) < 1e-12
    assert torch.allclose(gradient, slow, rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-6
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_a_batch_that_does_not_fit_is_computed_in_parts():
    model, batch = tiny("llama"), random_batch(lengths=LENGTHS)
    mask = torch.rand(len(model.graph), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plenty = made(discovery(model, batch), batch_size=7)
    each = sum(plenty._need.working.values())
    found = {}
    for prompts in (7, 2, 1):
        run = discovery(model, batch, memory_budget=prompts * each)
        assert len(list(run.masked_runs([batch], need=plenty._need))) == -(-7 // prompts)
        found[prompts] = made(run, batch_size=7).objective(0, mask)
    for value, gradient in (found[2], found[1]):
        assert torch.allclose(value, found[7][0], rtol=0, atol=1e-12)
        assert torch.allclose(gradient, found[7][1], rtol=0, atol=1e-12)
    with pytest.raises(CircuitKitError, match="need at least"):
        made(discovery(model, batch, memory_budget=each - 1)).objective(0, mask)


def test_the_span_is_that_of_the_full_and_the_ablated_model():
    model, batch = tiny("llama"), random_batch(lengths=LENGTHS)
    run = discovery(model, batch)
    prepared = PreparedBatch(model, batch, run.objective, run.ablation)
    ends = (prepared.values(slow_final(prepared, torch.full((len(model.graph),), end))).mean() for end in (1.0, 0.0))
    full, ablated = (end.item() for end in ends)
    assert made(run).span() == pytest.approx(abs(full - ablated), abs=1e-12)


def test_the_span_takes_the_first_64_prompts_of_the_first_order():
    model = tiny("llama")
    many = made(discovery(model, random_batch(lengths=(5,) * 100)), batches=100, batch_size=1)
    few = discovery(model, many._prompts[many._order(0)[:64]])
    assert sorted(rows(few.batches[0])) == sorted(row for number in range(64) for row in rows(many.batch(number)))
    assert many.span() == pytest.approx(made(few, batch_size=64).span(), abs=1e-12)


def test_nothing_of_a_batch_is_kept(monkeypatch):
    model = tiny("llama")
    found, mask = made(discovery(model, random_batch(lengths=LENGTHS))), torch.ones(len(model.graph)) / 2
    alive, most = weakref.WeakSet(), 0
    original = PreparedBatch.__init__

    def watched(self, *arguments, **more):
        nonlocal most
        original(self, *arguments, **more)
        alive.add(self)
        most = max(most, len(alive))

    monkeypatch.setattr(PreparedBatch, "__init__", watched)
    monkeypatch.setattr(PreparedBatch, "__hash__", object.__hash__)
    for number in range(6):
        found.objective(number, mask)
        gc.collect()
        assert not alive
    assert most == 1


def test_the_number_of_prompts_is_among_the_metrics_and_more_of_them_change_the_result():
    model = CircuitModel.from_pretrained("toy")

    def found(name, examples=8, **arguments):
        spec = {"class_path": name, "init_args": {"batch_size": 8, "trainer": {"max_steps": 4}, **arguments}}
        result = Discoverer("cpu", callbacks=[]).run(model, "ioi", spec, examples=examples, sizes=[])
        return result.metrics["train_prompts"], result.circuit.scores

    for name in ("edge_pruning", "subnetwork_probing"):
        count, scores = found(name)
        assert count == 32
        few, others = found(name, prompts=8)
        assert few == 8
        assert not torch.equal(scores, others)
    accumulated, _ = found("edge_pruning", trainer={"max_steps": 4, "accumulate_grad_batches": 3})
    assert accumulated == 96


def test_padding_that_all_prompts_share_is_dropped():
    batch = random_batch(lengths=LENGTHS)
    short = batch[torch.tensor([2, 5, 6])]
    trimmed = short.trim()
    assert (short.length, trimmed.length) == (7, 5)
    assert rows(trimmed) == rows(short)
    assert torch.equal(trimmed.positions, short.positions[:, 2:])
    assert torch.equal(trimmed.answer_positions, (short.answer_positions - 2).clamp(min=-1))
    assert torch.equal(batch.trim().clean, batch.clean)
    model = tiny("llama")
    with torch.no_grad():
        one, other = (model.final_stream(some) for some in (short, trimmed))
    assert torch.allclose(one, other, rtol=0, atol=1e-12)
