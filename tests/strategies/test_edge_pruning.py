"""Edge pruning on the toy model: its circuits, its trainer's options, interruptions, global state."""

import logging
import os
import signal
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from support import killed

import circuitkit
from circuitkit import CircuitModel
from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.edge_pruning import EdgePruning
from circuitkit.strategies.gate_training.rounding import round_to_size


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy")


def found(toy, examples=6, out=None, callbacks=(), seed=0, **arguments):
    strategy = EdgePruning(**{"trainer": {"max_steps": 10}, **arguments})
    return Discoverer("cpu", callbacks=list(callbacks), seed=seed).run(
        toy, "ioi", strategy, examples=examples, sizes=[], out=out
    )


def test_targets_are_reached_by_connected_edges(toy):
    targets = [0.3, 0.7, 0.95]
    result = found(toy, target=targets, trainer={"max_steps": 20})
    for target, circuit in zip(targets, result.circuits, strict=True):
        assert abs(1 - circuit.fraction - target) <= 0.005
        assert torch.equal(circuit.prune().kept, circuit.kept)
        assert circuit.selection == f"target {target:g}, connected edges counted"
    assert result.metrics["steps"] == 60
    assert len(result.metrics["expected_sparsity"]) == 3


def test_it_is_more_faithful_than_eap(toy):
    arguments = {"target": 0.9, "multiplier_learning_rate": 8.0, "trainer": {"max_steps": 100}}
    circuit = found(toy, examples=32, seed=1, **arguments).circuit
    eap = circuitkit.discover(toy, "ioi", "eap", seed=1).circuit
    n = next(n for n in range(len(toy.graph)) if len(eap.top(n).prune()) >= len(circuit))
    ours, theirs = (
        circuitkit.evaluate(toy, one, "ioi", sizes=[1.0], seed=1).curve("own")[0].faithfulness
        for one in (circuit, eap.top(n).prune())
    )
    assert ours > theirs + 0.1


def test_writer_gates_are_off_when_off(toy):
    without, with_them = (Saved() for _ in range(2))
    found(toy, trainer={"max_steps": 4, "callbacks": [without]})
    found(toy, writer_gates=True, trainer={"max_steps": 4, "callbacks": [with_them]})
    edges = len(toy.graph)
    assert without.parameters == {"gates.log_alpha": edges, "multipliers": 2}
    assert with_them.parameters == {"gates.log_alpha": edges + toy.graph.n_writers, "multipliers": 2}


class Saved(Callback):
    """Records the parameters and the options of a training."""

    def on_train_end(self, trainer, pl_module):
        self.parameters = {name: parameter.numel() for name, parameter in pl_module.named_parameters()}
        self.steps = trainer.global_step
        self.clip = trainer.gradient_clip_val


def test_options_of_the_trainer_take_effect(toy, tmp_path):
    saved = Saved()
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    options = {
        "max_steps": 7,
        "gradient_clip_val": 0.25,
        "logger": logger,
        "callbacks": [saved],
        "log_every_n_steps": 1,
    }
    result = found(toy, trainer=options)
    assert (saved.steps, saved.clip, result.metrics["steps"]) == (7, 0.25, 7)
    assert list(tmp_path.rglob("metrics.csv"))
    clipped = found(toy, trainer={"max_steps": 7, "gradient_clip_val": 1e-12})
    assert not torch.equal(result.circuit.scores, clipped.circuit.scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": []}, "target is empty"),
        ({"target": 1.0}, "target=1.0 is out of range. Give a sparsity between 0 and 1"),
        ({"target": [0.5, 0.0]}, "target=0.0 is out of range"),
        ({"target": "high"}, "target='high' is not a finite number"),
        ({"target_ramp": 2.0}, "target_ramp=2.0"),
        ({"warm_up": -0.1}, "warm_up=-0.1"),
        ({"start": float("nan")}, "start=nan"),
        ({"multiplier_learning_rate": -1.0}, "multiplier_learning_rate=-1.0"),
        ({"trainer": {"max_step": 5}}, "'max_step'.*'max_steps'"),
        ({"trainer": {"devices": 2}}, "'devices' cannot be set here"),
        ({"trainer": {"max_steps": 0}}, "max_steps is 0"),
        ({"trainer": {"accumulate_grad_batches": "two"}}, "accumulate_grad_batches is 'two'"),
        ({"prompts": 0}, "prompts=0"),
        ({"prompts": True}, "prompts=True"),
        ({"trainer": [1]}, "is not a mapping"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        EdgePruning(**arguments)


def test_options_that_the_trainer_refuses_are_usage_errors(toy):
    with pytest.raises(UsageError, match="cannot be made"):
        found(toy, trainer={"max_steps": 2, "logger": {"class_path": "no.such.Logger"}})


class Interrupt:
    def __init__(self, after):
        self.after = after

    def on_progress(self, run, done, total, unit, shown):
        if done == self.after:
            raise KeyboardInterrupt


def test_a_checkpoint_has_no_weights_of_the_model_and_loads_safely(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        found(toy, out=tmp_path / "run", callbacks=[Interrupt(5)])
    assert signal.getsignal(signal.SIGINT) is handler
    path = tmp_path / "run" / "checkpoint" / "target_1" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    assert set(saved["state_dict"]) == {"gates.log_alpha", "multipliers"}
    (optimizer,) = saved["optimizer_states"]
    assert {value.numel() for state in optimizer["state"].values() for value in state.values()} == {
        1,
        2,
        len(toy.graph),
    }
    assert path.stat().st_size < 30_000
    assert all(parameter.grad is None for parameter in toy.model.parameters())


def test_killed_in_both_trainings_and_resumed(toy, tmp_path):
    folder, options = tmp_path / "run", {"target": [0.6, 0.8], "batch_size": 3, "writer_gates": True}
    spec = {"class_path": "edge_pruning", "init_args": {**options, "trainer": {"max_steps": 12}}}
    for reports in (5, 11):  # in the first training; in the second
        died = killed.run(spec, folder, reports)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (folder / "result.json").exists()
    finished = killed.run(spec, folder)
    assert finished.returncode == 0, finished.stderr
    assert killed.reports(finished) == 2 * 12 - (5 - 1) - (11 - 1)  # a step is reported before it is saved
    assert "Lightning" not in finished.stdout + finished.stderr
    assert "Trainer" not in finished.stdout + finished.stderr
    resumed = Result.load(folder)
    whole = found(toy, **options, trainer={"max_steps": 12})
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.kept, other.kept)
    assert not (folder / "checkpoint").exists()


def global_state():
    loggers = [logging.getLogger(name).level for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), torch.get_default_dtype()
    return dict(os.environ), loggers, handlers, flags, list(warnings.filters), torch.get_num_threads()


def test_nothing_global_is_changed_and_nothing_is_printed(toy, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, random = global_state(), torch.random.get_rng_state()
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in toy.model.modules()]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        within = global_state()
        found(toy, trainer={"max_steps": 3})
        assert global_state() == within
    assert global_state() == before
    assert torch.equal(torch.random.get_rng_state(), random)
    assert hooks == [len(module._forward_hooks) + len(module._backward_hooks) for module in toy.model.modules()]
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_the_seed_decides(toy):
    one, same, other = (found(toy, seed=seed, batch_size=4, trainer={"max_steps": 3}) for seed in (0, 0, 1))
    assert torch.equal(one.circuit.scores, same.circuit.scores)
    assert not torch.equal(one.circuit.scores, other.circuit.scores)


def test_checkpointing_and_accumulation_train(toy):
    plain, repeated = (found(toy, checkpoint=flag).circuit.scores for flag in (False, True))
    assert torch.allclose(plain, repeated, atol=1e-5)
    assert found(toy, trainer={"max_steps": 3, "accumulate_grad_batches": 2}).metrics["steps"] == 3


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3), st.sampled_from([(2, 1), (2, 2), (4, 2)]), st.booleans(), st.floats(0.01, 1), st.integers(0, 99)
)
def test_rounding_keeps_the_wanted_number_of_connected_edges(layers, heads, parallel, part, seed):
    graph = EdgeGraph(layers, *heads, parallel=parallel)
    scores = torch.rand(len(graph), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = max(int(part * len(graph)), 1)
    kept = round_to_size(graph, scores, wanted)
    assert 1 <= int(kept.sum()) <= wanted  # `input->logits` alone is a circuit of one edge
    ranking = Circuit.from_scores(graph, scores)
    sizes = [len(ranking.top(n).prune()) for n in range(len(graph) + 1)]
    best = ranking.top(max(n for n, size in enumerate(sizes) if size <= wanted)).prune().kept
    assert bool((kept | ~best).all())  # one threshold, and what makes up the number
    circuit = Circuit(graph, scores, kept, ranking.score_sources)
    assert torch.equal(circuit.prune().kept, kept)
