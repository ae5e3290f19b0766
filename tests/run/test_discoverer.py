"""One run: its folder, the hooks it calls, the global state it preserves, what it measures."""

import csv
import json
import random
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.loggers import CSVLogger
from rich.console import Console
from support.scripted import Scripted
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit import Circuit, CircuitModel, Discoverer, PrecisionPolicy, PromptBatch
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.run import resources
from circuitkit.run.callbacks import Callback, RichProgress
from circuitkit.run.result import Result
from circuitkit.strategies.discovery import Discovery
from circuitkit.tasks.base import Task

THRESHOLDS = [0.01, 0.1]


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return tiny("gpt2", dtype=torch.float32)


@pytest.fixture(scope="module")
def batch() -> PromptBatch:
    return random_batch(lengths=(5, 7, 6, 6))


def fail(run: Discovery) -> None:
    raise RuntimeError("it broke")


def run(model: CircuitModel, batch: PromptBatch, strategy: Any = None, **options: Any) -> Result:
    return Discoverer("cpu", callbacks=[]).run(model, batch, strategy or Scripted(), **options)


def strict(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# The prompts


def some_the_same(which: str) -> PromptBatch:
    """Three pairs, of which some or all do not differ."""
    clean, corrupted = [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 9, 3], [4, 9, 6], [7, 9, 9]]
    kept = {"none": 0, "some": 2, "all": 3}[which]
    return PromptBatch.from_ids(clean, clean[:kept] + corrupted[kept:], [1, 2, 3], [4, 5, 6])


class TwoSplits(Task):
    """Gives some prompts to find a circuit on, and others to evaluate it on."""

    def __init__(self, train: PromptBatch, test: PromptBatch) -> None:
        self._splits = {"train": train, "test": test}

    def prompts(self, tokenizer: Any, split: str, examples: int, seed: int) -> PromptBatch:
        return self._splits[split]


def test_notes_on_the_prompts_are_in_the_result_once(model: CircuitModel) -> None:
    some, good = some_the_same("some"), some_the_same("none")
    (note,) = some.notes
    assert "2 of 3" in note

    def notes(task: Any) -> list[str]:
        return [note for note in run(model, task).notes if "chance is" not in note]  # the model is random

    assert notes(some) == [note]
    assert notes(good) == []
    assert notes(TwoSplits(some, good)) == [f"In the train split: {note}"]
    assert notes(TwoSplits(good, some)) == [f"In the test split: {note}"]
    assert note in str(run(model, some))
    assert note in Discoverer("cpu").dry_run(model, some, "eap").notes


def test_notes_on_the_prompts_are_in_an_evaluation(model: CircuitModel) -> None:
    (note,) = some_the_same("some").notes
    circuit = run(model, some_the_same("none"), sizes=()).circuit
    with pytest.warns(UserWarning, match="2 of 3"):
        evaluation = circuitkit.evaluate(model, circuit, some_the_same("some"))
    assert note in evaluation.notes


def test_prompts_that_do_not_differ_at_all_are_refused_where_resampling_would_remove_nothing(
    model: CircuitModel,
) -> None:
    same, good = some_the_same("all"), some_the_same("none")
    circuit = run(model, good, sizes=()).circuit
    for task in (same, TwoSplits(good, same), TwoSplits(same, good)):
        with pytest.raises(UsageError, match=r"All 3 corrupted prompts are the same as their clean ones.*zero or mean"):
            run(model, task)
    with pytest.raises(UsageError, match="All 3 corrupted prompts"):
        circuitkit.evaluate(model, circuit, same)
    for ablation in ("zero", "mean"):
        assert run(model, same, ablation=ablation).circuits


# The folder


def test_the_folder_holds_the_whole_run(model: CircuitModel, batch: PromptBatch, tmp_path: Path) -> None:
    acdc = {"class_path": "acdc", "init_args": {"threshold": THRESHOLDS}}
    result = run(model, batch, acdc, out=tmp_path / "a" / "run")

    files = sorted(path.name for path in (tmp_path / "a" / "run").iterdir())
    circuits = [f"{name}.{ending}" for name in ("circuit", "circuit_2") for ending in ("json", "safetensors")]
    others = [".circuitkit.json", "answers.parquet", "config.yaml", "metrics.csv", "prompts.parquet", "result.json"]
    assert files == sorted([*circuits, *others])
    assert Circuit.load(tmp_path / "a" / "run", "circuit_2") == result.circuits[1]
    config = yaml.safe_load((tmp_path / "a" / "run" / "config.yaml").read_text())
    assert config["strategy"]["init_args"]["threshold"] == THRESHOLDS
    assert config["strategy"]["init_args"]["order"] == "reverse"  # defaults are resolved
    assert (config["seed"], config["examples"], config["kv"], config["dtype"]) == (0, 32, "group", "float32")
    found = strict(tmp_path / "a" / "run" / "result.json")
    assert found["metrics"]["edges_tested"] == result.metrics["edges_tested"] > 0
    assert found["environment"]["versions"]["torch"] == torch.__version__
    assert {"wall_s", "peak_mb", "load_s", "smallest_gap"} <= found["metrics"].keys()
    rows = list(csv.DictReader((tmp_path / "a" / "run" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    assert {"edges", "tested", "kept", "wall_s"} <= rows[0].keys()
    assert not [path for path in (tmp_path / "a").iterdir() if path.name.startswith(".")]


def test_a_saved_result_reads_back(model: CircuitModel, batch: PromptBatch, tmp_path: Path) -> None:
    result = run(model, batch, {"class_path": "acdc", "init_args": {"threshold": THRESHOLDS}})
    result.save(tmp_path / "run")
    again = Result.load(tmp_path / "run")
    assert again.circuits == result.circuits
    assert again.evaluations == result.evaluations
    assert again.answers == result.answers
    assert (again.metrics, again.config, again.environment) == (result.metrics, result.config, result.environment)
    assert str(again) == str(result)
    with pytest.raises(UsageError, match="already holds results"):
        result.save(tmp_path / "run")
    result.save(tmp_path / "run", overwrite=True)


def test_numbers_that_are_not_finite_are_saved_as_null(model: CircuitModel, batch: PromptBatch, tmp_path: Path) -> None:
    run(model, batch, Scripted(lambda run: run.log(smallest_gap=float("inf"), nan=float("nan"))), out=tmp_path / "run")
    assert strict(tmp_path / "run" / "result.json")["metrics"]["smallest_gap"] is None


def test_overwriting_leaves_no_file_of_the_earlier_run(model: CircuitModel, batch: PromptBatch, tmp_path: Path) -> None:
    run(model, batch, {"class_path": "acdc", "init_args": {"threshold": THRESHOLDS}}, out=tmp_path / "run")
    with pytest.raises(UsageError, match="already holds results"):
        run(model, batch, out=tmp_path / "run")
    run(model, batch, out=tmp_path / "run", overwrite=True)
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    first = [".circuitkit.json", "answers.parquet", "circuit.json", "circuit.safetensors"]
    assert files == [*first, "config.yaml", "metrics.csv", "prompts.parquet", "result.json"]


def test_a_failed_run_leaves_no_files(model: CircuitModel, batch: PromptBatch, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="it broke"):
        run(model, batch, Scripted(fail), out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "b").mkdir()
    with pytest.raises(RuntimeError, match="it broke"):
        run(model, batch, Scripted(fail), out=tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []  # a folder that was there stays


def test_a_failed_run_leaves_the_results_that_it_should_replace(
    model: CircuitModel, batch: PromptBatch, tmp_path: Path
) -> None:
    run(model, batch, out=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RuntimeError, match="it broke"):
        run(model, batch, Scripted(fail), out=tmp_path / "run", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_resume_returns_the_finished_run_of_the_same_configuration(
    model: CircuitModel, batch: PromptBatch, tmp_path: Path
) -> None:
    first = run(model, batch, "eap", out=tmp_path / "run", resume=True)
    again = run(model, batch, "eap", out=tmp_path / "run", resume=True)
    assert again.environment == first.environment
    assert again.circuits == first.circuits
    with pytest.raises(UsageError, match="has examples 32, not 2"):
        run(model, batch, "eap", out=tmp_path / "run", resume=True, examples=2)
    with pytest.raises(UsageError, match=r"has strategy\.class_path 'circuitkit\.strategies\.eap\.EAP', not"):
        run(model, batch, "acdc", out=tmp_path / "run", resume=True)


# Hooks, policies and global state


class Recorder(Callback, PrecisionPolicy):
    """A callback and a policy that record the calls they get."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def prepare(self, model: CircuitModel) -> None:
        self.told.append("prepare")

    def close(self) -> None:
        self.told.append("close")

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        self.told.append("load")

    def on_discovery_start(self, run: Discovery) -> None:
        self.told.append("start")

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        self.told.append(f"{done} of {total} {unit}")

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        self.told.append(f"end: {len(circuits)}")

    def on_exception(self, run: Discovery, exception: BaseException) -> None:
        self.told.append(f"exception: {exception}")


class Noted(Scripted):
    def __init__(self, recorder: Recorder, act: Any = None) -> None:
        super().__init__(act)
        self._recorder = recorder

    def setup(self, run: Discovery) -> None:
        self._recorder.told.append("setup")

    def teardown(self, run: Discovery) -> None:
        self._recorder.told.append("teardown")

    def default_precision(self) -> PrecisionPolicy:
        return self._recorder


def test_the_order_of_hooks_and_policy_calls(model: CircuitModel, batch: PromptBatch) -> None:
    recorder = Recorder()
    strategy = Noted(recorder, lambda run: run.report(1, 2, "edges", kept=1))
    Discoverer("cpu", callbacks=[recorder]).run(model, batch, strategy)
    before = ["load", "prepare", "start", "setup"]
    assert recorder.told == [*before, "1 of 2 edges", "end: 1", "teardown", "close"]

    recorder.told.clear()
    with pytest.raises(RuntimeError):
        Discoverer("cpu", callbacks=[recorder]).run(model, batch, Noted(recorder, fail))
    assert recorder.told == [*before, "exception: it broke", "teardown", "close"]


def test_a_named_precision_replaces_the_strategy_s_own(model: CircuitModel, batch: PromptBatch) -> None:
    recorder = Recorder()
    result = Discoverer("cpu", callbacks=[]).run(model, batch, Noted(recorder), precision="full")
    assert "prepare" not in recorder.told
    assert result.config["precision"] == {"class_path": "circuitkit.precision.base.FullPrecision"}


@pytest.mark.parametrize("act", [None, fail])
def test_global_state_is_left_as_it_was(model: CircuitModel, batch: PromptBatch, act: Any) -> None:
    def meddle(run: Discovery) -> None:
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
        if act is not None:
            act(run)

    def state() -> list[Any]:
        settings = [torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()]
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [*settings, torch.get_rng_state().tolist(), random.getstate(), numpy]

    before = state()
    with nullcontext() if act is None else pytest.raises(RuntimeError, match="it broke"):
        run(model, batch, Scripted(meddle))
    assert state() == before


def test_the_seed_decides(model: CircuitModel, batch: PromptBatch) -> None:
    one, same, other = (circuitkit.discover(model, batch, "random_edges", seed=seed) for seed in (0, 0, 1))
    assert one.circuits == same.circuits
    assert one.evaluations == same.evaluations
    assert one.circuits != other.circuits
    assert one.config["seed"] == 0
    assert other.config["seed"] == 1


def test_names_class_paths_and_objects(model: CircuitModel, batch: PromptBatch) -> None:
    from circuitkit.strategies.acdc import ACDC

    ways: list[Any] = [("acdc", {"threshold": 0.01}), ("circuitkit.strategies.acdc.ACDC", {"threshold": 0.01})]
    found = [circuitkit.discover(model, batch, name, strategy_args=arguments) for name, arguments in ways]
    found.append(circuitkit.discover(model, task=batch, strategy=ACDC(threshold=0.01)))
    assert found[0].circuit == found[1].circuit == found[2].circuit
    with pytest.raises(UsageError, match="strategy given by name"):
        circuitkit.discover(model, batch, ACDC(), strategy_args={"threshold": 0.1})


def test_the_toy_model_by_name() -> None:
    result = circuitkit.discover("toy", task="ioi", strategy="acdc", strategy_args={"threshold": 0.1}, examples=8)
    assert result.circuit.names()
    assert set(result.circuit.to_dict()) == set(result.circuit.names())
    own, control = result.evaluations["test"][0].curve("own")[0], result.evaluations["test"][0].curve("random")[0]
    assert result.evaluations["test"][0].split == "test"
    assert own.faithfulness is not None
    assert own.faithfulness > 0.5
    assert control.edges_asked == len(result.circuit)
    said = str(result)
    assert "acdc on ioi, in toy" in said
    assert "test, 8 prompts" in said
    assert "edges tested" in said
    assert f"{own.faithfulness:.2f}" in said
    assert "random, test" in said


def test_the_return_value_of_a_strategy_is_checked(model: CircuitModel, batch: PromptBatch) -> None:
    class Wrong(Scripted):
        def discover(self, run: Discovery) -> Any:
            return self.returned

    other = Circuit.from_scores(tiny("llama").graph, torch.zeros(82))
    for returned in (None, [], "circuit", [3], other):
        strategy = Wrong()
        strategy.returned = returned
        with pytest.raises(CircuitKitError, match=r"Wrong\.discover returned"):
            run(model, batch, strategy)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CircuitKitError("No room.", "Make some."), "No room. Make some."),
        (MemoryError(), "Memory ran out (MemoryError). Give a smaller memory budget"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nand more"), "Memory ran out (CUDA out of memory. Tried)."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), "Memory ran out (DefaultCPUAllocator: can't"),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "Memory ran out (CUDA error: out of memory)."),
    ],
)
def test_a_failed_evaluation_does_not_lose_the_circuit(
    model: CircuitModel, batch: PromptBatch, monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Evaluation:
        raise error

    monkeypatch.setattr(Evaluator, "evaluate", refuse)
    result = run(model, batch)
    assert len(result.circuits) == 1
    assert result.evaluations == {}
    (note,) = result.notes
    assert note.startswith(f"The circuits could not be evaluated: {why}")
    assert "Note: The circuits could not be evaluated" in str(result)


def test_parts_of_the_wrong_type_are_refused(model: CircuitModel, batch: PromptBatch) -> None:
    for parts, said in (
        ((model, batch, Scripted), "The strategy is the class Scripted"),
        ((model, 3, Scripted()), "The task is 3"),
        ((3, batch, Scripted()), r"(?s)does not name a model.*CircuitModel\.from_model"),
        ((torch.nn.Linear(2, 2), batch, Scripted()), "A Linear is not a transformers model"),
    ):
        with pytest.raises(UsageError, match=said):
            circuitkit.discover(*parts)  # type: ignore[arg-type]


def test_an_unknown_option_of_a_run_is_refused(model: CircuitModel, batch: PromptBatch) -> None:
    for method in (Discoverer("cpu", callbacks=[]).run, Discoverer("cpu").dry_run):
        with pytest.raises(UsageError, match=r"no option 'exampels'\. Did you mean 'examples'"):
            method(model, batch, "eap", exampels=4)  # type: ignore[call-arg]


def test_arguments_of_the_discoverer_are_checked() -> None:
    for arguments in ({"accelerator": "tpu"}, {"devices": 2}, {"seed": -1}, {"seed": True}, {"seed": 2**32}):
        with pytest.raises(UsageError):
            Discoverer(**arguments)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA"):
            Discoverer("cuda")


# Callbacks


class Clock:
    """Stands in for the `time` module of the resource monitor; time passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


def test_wall_time_is_that_of_the_strategy_alone(
    model: CircuitModel, batch: PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(resources, "time", clock)

    def take(seconds: float) -> None:
        clock.now += seconds

    class SlowEvaluator(Evaluator):
        def evaluate(self, *arguments: Any, **more: Any) -> Evaluation:
            take(500)
            return super().evaluate(*arguments, **more)

    class SlowLoading(Callback):
        def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
            take(7)

    monkeypatch.setattr("circuitkit.run.evaluating.Evaluator", SlowEvaluator)
    result = Discoverer("cpu", callbacks=[SlowLoading()]).run(model, batch, Scripted(lambda run: take(3)))
    assert clock.now == 1510
    assert len(result.evaluations) == 1
    assert (result.metrics["load_s"], result.metrics["wall_s"]) == (7, 3)


@pytest.mark.skipif(
    sys.platform != "linux", reason="measures the peak from a reset on (/proc/self/clear_refs), which only Linux offers"
)
def test_peak_memory_is_that_of_the_strategy_alone(
    model: CircuitModel, batch: PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(megabytes: int) -> None:
        torch.ones(megabytes * 2**18)  # float32

    class LargeEvaluator(Evaluator):
        def evaluate(self, *arguments: Any, **more: Any) -> Evaluation:
            allocate(300)
            return super().evaluate(*arguments, **more)

    monkeypatch.setattr("circuitkit.run.evaluating.Evaluator", LargeEvaluator)
    run(model, batch)  # the first run of a process brings pages of its libraries into memory
    small, large = (run(model, batch, Scripted(lambda run, size=size: allocate(size))).metrics for size in (0, 100))
    assert "beyond the interpreter" in large["memory"]
    assert small["peak_mb"] < 50
    assert 95 < large["peak_mb"] < 200


@pytest.mark.skipif(
    sys.platform not in ("linux", "darwin"),
    reason="without /proc the peak is read by getrusage, which only Linux and macOS have; elsewhere it is None",
)
def test_peak_memory_where_it_cannot_be_reset(
    model: CircuitModel, batch: PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources._ResidentMemory, "_clear", Path("/nowhere/clear_refs"))
    metrics = run(model, batch).metrics
    assert metrics["memory"].startswith("resident memory of the whole process")
    assert metrics["peak_mb"] > 50


def test_progress_is_drawn_on_a_terminal_only(model: CircuitModel, batch: PromptBatch) -> None:
    for terminal in (True, False):
        shown = StringIO()
        bar = RichProgress(Console(file=shown, force_terminal=terminal, width=120))
        Discoverer("cpu", callbacks=[bar]).run(model, batch, "acdc")
        if terminal:
            assert f"{len(model.graph):,} edges" in shown.getvalue()
            assert "tested" in shown.getvalue()
            assert "kept" in shown.getvalue()
        else:
            assert shown.getvalue() == ""


def test_any_lightning_logger_can_be_passed(model: CircuitModel, batch: PromptBatch, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="own", version="", flush_logs_every_n_steps=1)
    Discoverer("cpu", callbacks=[], loggers=[logger]).run(model, batch, "acdc")
    assert "wall_s" in (tmp_path / "own" / "metrics.csv").read_text()


def test_memory_that_runs_out_in_a_search_is_one_line(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("circuitkit.engine.editors.cone.Cone.values", fail)
    with pytest.raises(CircuitKitError, match=r"^Memory ran out \(CUDA out of memory.*smaller memory budget"):
        Discoverer("cpu").run("toy", "ioi", "acdc", examples=2, sizes=())
