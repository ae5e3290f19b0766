"""Dry runs: the memory and time that they predict, what they refuse, and that they write nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.tiny import VARIANTS, random_batch, tiny

from circuitkit import Circuit, CircuitModel, Discoverer
from circuitkit.cli.main import main
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import capture_bytes, prepare_batches
from circuitkit.engine.search.cost_estimate import Timing, cost, sparse_circuit, spread_layers, time_tests
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.report.dry_run import dry_run_table
from circuitkit.run.result import Result
from circuitkit.tasks import IOI

DISCOVER = ["discover", "--model", "toy", "--task", "ioi", "--examples", "8"]
ACDC = {"class_path": "acdc", "init_args": {"threshold": 0.1}}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(dry_run) -> str:
    console = Console(width=140, force_terminal=False)
    with console.capture() as text:
        console.print(dry_run_table(dry_run))
    return text.get()


# What is timed


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(VARIANTS)), st.integers(0, 10**6), st.sampled_from([0.05, 0.3]))
def test_every_timed_test_occurs_in_the_search(variant, seed, density):
    """The values that are timed are those of the reference editor in the same circuit."""
    model, batch = tiny(variant, seed % 11), random_batch(seed)
    prepared_batches = prepare_batches(model, [batch], LogitDifference(), Resample())
    kept = sparse_circuit(model.graph, density, seed)
    seen: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = []
    for editor in (IncrementalEditor(prepared_batches), ReplayEditor(prepared_batches)):
        met: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        plain = editor.values

        def values(removals, editor=editor, met=met, plain=plain):
            result = plain(removals)
            met.append((editor.reader, editor.kept.clone(), result))
            return result

        editor.values = values
        timings = time_tests(editor, kept, spread_layers(model.graph, 9), 2, 3)
        assert [timing.reader for timing in timings] == [reader for reader, _, _ in met]
        seen.append(met)
    assert len(seen[0]) == len(seen[1]) > 0
    graph = model.graph
    for (reader, circuit, fast), (other, same, slow) in zip(*seen, strict=True):
        assert reader == other
        assert torch.equal(circuit, same)
        assert torch.allclose(fast, slow, atol=1e-9)
        later = [kept[block.edges] for block in graph.blocks if block.layer > graph.block(reader).layer]
        decided = torch.cat([kept[:0], *later])
        assert torch.equal(circuit[len(kept) - len(decided) :], decided)
        assert circuit[: graph.edges(reader).stop].all()  # its own edges and all before them are still whole


def test_costs_are_sums_over_blocks_of_equal_readers():
    graph = tiny("gpt2").graph
    everything = torch.ones(len(graph), dtype=torch.bool)
    timings = [Timing(reader, 1.0, 0.5, None, {}) for reader in (graph.logits, graph.n_readers - 2, 0)]
    found = cost(graph, everything, timings)
    assert (found.tests, found.readers) == (len(graph), graph.n_readers)
    assert found.seconds == pytest.approx(graph.n_readers + 0.5 * len(graph))
    assert found.value_s == pytest.approx(0.5)
    rising = [Timing(graph.reader_index("q", layer), 0.0, float(layer), None, {}) for layer in range(graph.layers)]
    attention = [block for block in graph.blocks if block.kind == "attention"]
    expected = sum(block.layer * len(block.readers) * block.writers for block in attention)
    assert cost(graph, everything, rising).seconds == pytest.approx(expected)


def test_a_sparse_circuit_has_the_size_asked_for_and_reaches_the_logits():
    graph = tiny("llama").graph
    kept = sparse_circuit(graph, 0.1)
    assert int(kept.sum()) == round(0.1 * len(graph))
    assert graph.live_readers(graph.live_writers(kept))[graph.reader_of[kept]].all()


def test_captures_have_the_size_that_the_editor_holds():
    prepared_batches = prepare_batches(tiny("llama"), random_batch().split(2), LogitDifference(), Resample())
    assert capture_bytes(prepared_batches) == IncrementalEditor(prepared_batches).footprint()["captures"]


# In Python


def test_a_dry_run_of_acdc():
    found = Discoverer("cpu", callbacks=[], memory_budget="1GB").dry_run("toy", "ioi", ACDC, examples=8)
    assert (found.strategy, found.model, found.edges, found.prompts) == ("acdc", "toy", 262, 8)
    assert found.memory_budget == 2**30
    assert 1 <= found.at_once <= 512
    assert found.weights["weights"] > 500_000
    assert set(found.estimate.bytes) == {"captures", "live", "cone", "copies"}
    assert set(found.parts) == {"captures", "live", "cone"}
    assert 2**20 < found.peak[0] < found.peak[1] < 2**30
    least, most = found.estimate.search_s
    assert 0 < least < most < 600
    assert found.estimate.forward_s > 0
    text = shown(found)
    assert "262" in text
    assert "1.0 GB" in text
    assert "upper bound" in text
    assert "no time estimate" not in text


def test_time_and_memory_are_for_all_prompts_and_thresholds():
    one = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", ACDC, examples=4)
    several = {"class_path": "acdc", "init_args": {"threshold": [0.1] * 20, "screen": 0.25}}
    many = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", several, examples=16)
    scale = many.tokens / one.tokens  # the longest prompt of more may be longer
    assert many.estimate.bytes["captures"] == pytest.approx(4 * scale * one.estimate.bytes["captures"])
    assert many.estimate.search_s[1] > 10 * one.estimate.search_s[1]
    assert "screening tests fewer" in shown(many)


def test_the_replay_editor_and_exact_patching_have_estimates_too():
    replay = {"class_path": "acdc", "init_args": {"editor": "replay"}}
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", replay, examples=4)
    assert found.estimate.search_s[1] > 0
    assert set(found.estimate.bytes) == {"captures"}
    assert found.at_once is None
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", "edge_patching", examples=4)
    least, most = found.estimate.search_s
    assert least == most > 0


def test_a_strategy_without_an_estimate_says_so():
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", "edge_pruning", examples=4)
    assert found.estimate.search_s is None
    assert found.parts["captures"] > 0
    assert found.peak[0] == found.peak[1]
    assert "There is no time estimate for edge_pruning" in shown(found)


@pytest.mark.parametrize("name", ["edge_pruning", "matryoshka", "subnetwork_probing"])
def test_a_training_needs_the_memory_of_one_step_whatever_the_number_of_prompts(name):
    def parts(examples, **arguments):
        spec = {"class_path": name, "init_args": arguments}
        task = {"class_path": "ioi", "init_args": {"template": 0}}
        return Discoverer("cpu", callbacks=[]).dry_run("toy", task, spec, examples=examples).parts

    few = parts(4, batch_size=8)
    assert few == parts(40, batch_size=8) == parts(40, batch_size=8, prompts=500)
    assert few == {part: 2 * size for part, size in parts(4, batch_size=8, prompts=4).items()}
    assert few["captures"] > 0


@pytest.mark.parametrize("strategy", ["eap", "eap_ig", "gim", "hisp", "random_edges"])
def test_work_on_a_few_prompts_is_timed_for_all(strategy):
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", strategy, examples=8)
    least, most = found.estimate.search_s
    assert 0 < least == most < 60
    assert "no time estimate" not in shown(found)


def test_the_accuracy_of_the_model_is_said_before_a_search():
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", "eap", examples=8)
    trained = Discoverer("cpu", callbacks=[]).run("toy", "ioi", "eap", examples=8)
    assert found.accuracy == trained.evaluations["train"][0].full["accuracy"]
    assert "100% [68%, 100%]" in shown(found)
    model = CircuitModel.from_pretrained("toy")
    batch = IOI().prompts(model.tokenizer, "train", 8, 0)
    right, wrong = batch.answers.clone(), batch.wrong_answers.clone()
    right[::2], wrong[::2] = batch.wrong_answers[::2], batch.answers[::2]
    hardly = Discoverer("cpu", callbacks=[]).dry_run(model, replace(batch, answers=right, wrong_answers=wrong), "eap")
    assert hardly.accuracy.value == 0.5
    assert "chance is 50%" in shown(hardly)


def test_a_dry_run_refuses_what_a_run_would_refuse():
    with pytest.raises(UsageError, match="would score every edge zero"):
        Discoverer("cpu").dry_run("toy", "ioi", "eap", objective="kl", examples=4)
    with pytest.raises(CircuitKitError, match="may be used"):
        Discoverer("cpu", memory_budget="1kB").dry_run("toy", "ioi", ACDC, examples=4)


# The memory budget


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(12345, 12345), ("12345", 12345), ("2GB", 2 << 30), ("1.5 gib", 3 << 29), ("500m", 500 << 20), ("7B", 7)],
)
def test_memory_budgets(budget, expected):
    assert Discoverer("cpu", memory_budget=budget).memory_budget == expected


@pytest.mark.parametrize("budget", ["much", "2XB", "-2GB", "0", 0, -1, True, 1.5, "", "GB", "1e9"])
def test_malformed_memory_budgets_are_refused(budget):
    with pytest.raises(UsageError, match=r"The memory budget .* is not a size"):
        Discoverer("cpu", memory_budget=budget)


# On the command line


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    arguments = [*DISCOVER, "--strategy", "acdc", "--out", "run", "--memory_budget", "300MB"]
    assert main([*arguments, "--dry_run"]) == 0
    text, errors = capsys.readouterr()
    assert "nothing is written" in text
    assert "300.0 MB" in text
    assert errors == ""
    assert list(tmp_path.iterdir()) == []
    assert main([*DISCOVER, "--strategy", "random_edges", "--dry_run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_memory_budget_gives_the_same_circuit(capsys):
    arguments = [*DISCOVER, "--strategy", "acdc", "--dtype", "float64"]
    assert main([*arguments, "--out", "a"]) == 0
    assert main([*arguments, "--out", "b", "--memory_budget", "8MB"]) == 0
    Path("own.yaml").write_text("memory_budget: 8388608\n")
    assert main([*arguments, "--config", "own.yaml", "--out", "c"]) == 0
    assert all(torch.equal(Circuit.load("a").kept, Circuit.load(folder).kept) for folder in ("b", "c"))
    largest, *smaller = (Result.load(folder).metrics["cone_mb"] for folder in ("a", "b", "c"))
    assert smaller[0] == smaller[1] < largest  # the budget made the batches smaller
    assert main([*arguments, "--memory_budget", "much"]) == 2
    assert "'much' is not a size" in capsys.readouterr().err


def test_a_dry_run_checks_the_folder(capsys):
    arguments = [*DISCOVER, "--strategy", "eap", "--out", "run"]
    assert main(arguments) == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in Path("run").iterdir())
    assert main([*arguments, "--dry_run"]) == 2
    assert "already holds results" in capsys.readouterr().err
    assert main([*arguments, "--dry_run", "--overwrite"]) == 0
    assert main([*arguments, "--dry_run", "--resume"]) == 0
    assert "The run in 'run' is finished" in capsys.readouterr().out
    assert main([*arguments, "--dry_run", "--resume", "--seed", "3"]) == 2
    assert "seed 0, not 3" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in Path("run").iterdir()) == before


def test_a_dry_run_of_an_interrupted_run(capsys, monkeypatch):
    def interrupted(self, run, prompts, threshold, progress, start):
        run.checkpoint(progress.state_dict)
        raise KeyboardInterrupt

    arguments = [*DISCOVER, "--strategy", "acdc", "--out", "run", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr("circuitkit.strategies.acdc.ACDC._discover", interrupted)
        assert main(arguments) == 130
    assert main([*arguments, "--dry_run"]) == 0
    assert "Resuming continues the interrupted run in 'run'" in capsys.readouterr().out
    assert main([*arguments, "--dry_run", "--examples", "5"]) == 2
    assert "examples 8, not 5" in capsys.readouterr().err
    assert Path("run/checkpoint/state.safetensors").exists()
