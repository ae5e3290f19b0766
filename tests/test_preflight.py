"""A dry run says what a run would hold and take, and leaves nothing."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tiny import VARIANTS, random_batch, tiny

from circuitkit import Circuit, Discoverer, cli
from circuitkit.engine.ablation import Resample
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.replay import ReplayEditor
from circuitkit.engine.scene import make_scenes
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.objective import LogitDifference
from circuitkit.preflight import Timing, capture_bytes, cost, sparse_circuit, spread_layers, time_tests
from circuitkit.report.preflight import preflight_table

DISCOVER = ["discover", "--model", "toy", "--task", "ioi", "--examples", "8"]
ACDC = {"class_path": "acdc", "init_args": {"threshold": 0.1}}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(preflight) -> str:
    console = Console(width=140, force_terminal=False)
    with console.capture() as text:
        console.print(preflight_table(preflight))
    return text.get()


# What is timed


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(VARIANTS)), st.integers(0, 10**6), st.sampled_from([0.05, 0.3]))
def test_every_timed_test_is_one_that_the_search_would_meet(variant, seed, density):
    """The values behind the timings are those of the reference editor in the same circuit."""
    model, batch = tiny(variant, seed % 11), random_batch(seed)
    scenes = make_scenes(model, [batch], LogitDifference(), Resample())
    kept = sparse_circuit(model.graph, density, seed)
    seen: list[list[tuple[int, torch.Tensor, torch.Tensor]]] = []
    for editor in (IncrementalEditor(scenes), ReplayEditor(scenes)):
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
        assert reader == other and torch.equal(circuit, same)
        assert torch.allclose(fast, slow, atol=1e-9)
        later = [kept[block.edges] for block in graph.blocks if block.layer > graph.block(reader).layer]
        decided = torch.cat([kept[:0], *later])
        assert torch.equal(circuit[len(kept) - len(decided) :], decided)
        assert circuit[: graph.edges(reader).stop].all()  # its own edges and all before them are still whole


def test_costs_add_up_over_blocks_of_equal_readers():
    graph = tiny("gpt2").graph
    everything = torch.ones(len(graph), dtype=torch.bool)
    timings = [Timing(reader, 1.0, 0.5, None, {}) for reader in (graph.logits, graph.n_readers - 2, 0)]
    found = cost(graph, everything, timings)
    assert (found.tests, found.readers) == (len(graph), graph.n_readers)
    assert found.seconds == pytest.approx(graph.n_readers + 0.5 * len(graph)) and found.value_s == pytest.approx(0.5)
    rising = [Timing(graph.reader_index("q", layer), 0.0, float(layer), None, {}) for layer in range(graph.layers)]
    attention = [block for block in graph.blocks if block.kind == "attention"]
    expected = sum(block.layer * len(block.readers) * block.writers for block in attention)
    assert cost(graph, everything, rising).seconds == pytest.approx(expected)


def test_a_sparse_circuit_has_the_size_asked_for_and_reaches_the_logits():
    graph = tiny("llama").graph
    kept = sparse_circuit(graph, 0.1)
    assert int(kept.sum()) == round(0.1 * len(graph))
    assert graph.live_readers(graph.live_writers(kept))[graph.reader_of[kept]].all()


def test_captures_are_what_the_editor_holds():
    scenes = make_scenes(tiny("llama"), random_batch().split(2), LogitDifference(), Resample())
    assert capture_bytes(scenes) == IncrementalEditor(scenes).footprint()["captures"]


# In Python


def test_a_preflight_of_acdc():
    found = Discoverer("cpu", callbacks=[], memory_budget="1GB").preflight(ACDC, "toy", "ioi", examples=8)
    assert (found.strategy, found.model, found.edges, found.prompts) == ("acdc", "toy", 262, 8)
    assert found.memory_budget == 2**30 and 1 <= found.at_once <= 512
    assert found.weights["weights"] > 500_000
    assert set(found.estimate.bytes) == {"captures", "live", "cone"}
    least, most = found.estimate.search_s
    assert 0 < least < most < 600 and found.estimate.forward_s > 0
    text = shown(found)
    assert "262" in text and "1.0 GB" in text and "upper bound" in text and "no time estimate" not in text


def test_time_and_memory_are_those_of_all_prompts_and_thresholds():
    one = Discoverer("cpu", callbacks=[]).preflight(ACDC, "toy", "ioi", examples=4)
    several = {"class_path": "acdc", "init_args": {"thresholds": [0.1] * 20, "screen": 0.25}}
    many = Discoverer("cpu", callbacks=[]).preflight(several, "toy", "ioi", examples=16)
    scale = many.tokens / one.tokens  # the longest prompt of more may be longer
    assert many.estimate.bytes["captures"] == pytest.approx(4 * scale * one.estimate.bytes["captures"])
    assert many.estimate.search_s[1] > 10 * one.estimate.search_s[1]
    assert "screening tests fewer" in shown(many)


def test_the_replay_editor_and_exact_patching_have_estimates_too():
    replay = {"class_path": "acdc", "init_args": {"editor": "replay"}}
    found = Discoverer("cpu", callbacks=[]).preflight(replay, "toy", "ioi", examples=4)
    assert found.estimate.search_s[1] > 0 and set(found.estimate.bytes) == {"captures"} and found.at_once is None
    found = Discoverer("cpu", callbacks=[]).preflight("activation_patching", "toy", "ioi", examples=4)
    least, most = found.estimate.search_s
    assert least == most > 0


def test_a_strategy_without_an_estimate_says_so():
    found = Discoverer("cpu", callbacks=[]).preflight("eap", "toy", "ioi", examples=4)
    assert found.estimate.search_s is None and found.estimate.bytes["captures"] > 0
    assert "There is no time estimate for eap" in shown(found)


def test_what_a_run_would_refuse_is_refused():
    with pytest.raises(UsageError, match="would score every edge zero"):
        Discoverer("cpu").preflight("eap", "toy", "ioi", objective="kl", examples=4)
    with pytest.raises(CircuitKitError, match="may be used"):
        Discoverer("cpu", memory_budget="1kB").preflight(ACDC, "toy", "ioi", examples=4)


# The memory budget


@pytest.mark.parametrize(
    ("given_", "expected"),
    [(12345, 12345), ("12345", 12345), ("2GB", 2 << 30), ("1.5 gib", 3 << 29), ("500m", 500 << 20), ("7B", 7)],
)
def test_memory_budgets(given_, expected):
    assert Discoverer("cpu", memory_budget=given_).memory_budget == expected


@pytest.mark.parametrize("given_", ["much", "2XB", "-2GB", "0", 0, -1, True, 1.5, "", "GB", "1e9"])
def test_what_is_no_memory_budget(given_):
    with pytest.raises(UsageError, match=r"The memory budget .* is not a size"):
        Discoverer("cpu", memory_budget=given_)


# On the command line


def test_a_dry_run_leaves_nothing(tmp_path, capsys):
    arguments = [*DISCOVER, "--strategy", "acdc", "--out", "run", "--memory_budget", "300MB"]
    assert cli.main([*arguments, "--dry_run"]) == 0
    text, errors = capsys.readouterr()
    assert "nothing is written" in text and "300.0 MB" in text and errors == ""
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*DISCOVER, "--strategy", "random_edges", "--dry_run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_memory_budget_makes_the_same_circuit_in_smaller_batches(capsys):
    arguments = [*DISCOVER, "--strategy", "acdc", "--dtype", "float64"]
    assert cli.main([*arguments, "--out", "a"]) == 0
    assert cli.main([*arguments, "--out", "b", "--memory_budget", "6MB"]) == 0
    assert torch.equal(Circuit.load("a").kept, Circuit.load("b").kept)
    Path("own.yaml").write_text("memory_budget: 6000000\n")
    assert cli.main([*arguments, "--config", "own.yaml", "--out", "c"]) == 0
    assert cli.main([*arguments, "--memory_budget", "much"]) == 2
    assert "'much' is not a size" in capsys.readouterr().err


def test_a_dry_run_looks_into_the_folder(capsys):
    arguments = [*DISCOVER, "--strategy", "eap", "--out", "run"]
    assert cli.main(arguments) == 0
    before = sorted((path.name, path.stat().st_mtime_ns) for path in Path("run").iterdir())
    assert cli.main([*arguments, "--dry_run"]) == 2
    assert "already holds results" in capsys.readouterr().err
    assert cli.main([*arguments, "--dry_run", "--overwrite"]) == 0
    assert cli.main([*arguments, "--dry_run", "--resume"]) == 0
    assert "The run in 'run' is finished" in capsys.readouterr().out
    assert cli.main([*arguments, "--dry_run", "--resume", "--seed", "3"]) == 2
    assert "seed 0, not 3" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in Path("run").iterdir()) == before


def test_a_dry_run_of_an_interrupted_run(capsys, monkeypatch):
    def interrupted(self, run, threshold):
        run.checkpoint(self)
        raise KeyboardInterrupt

    arguments = [*DISCOVER, "--strategy", "acdc", "--out", "run", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.strategies.base.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        patch.setattr("circuitkit.strategies.acdc.ACDC._discover", interrupted)
        assert cli.main(arguments) == 130
    assert cli.main([*arguments, "--dry_run"]) == 0
    assert "goes on with the interrupted run in 'run'" in capsys.readouterr().out
    assert cli.main([*arguments, "--dry_run", "--examples", "5"]) == 2
    assert "examples 8, not 5" in capsys.readouterr().err
    assert Path("run/checkpoint/state.safetensors").exists()
