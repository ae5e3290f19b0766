"""One run: a strategy on a model and a task, with its seeds, device, callbacks, loggers and folder.

    parts from their specs -> the folder is free -> model -> prompts (train, test) -> ablation fitted -> policy prepared
    -> the strategy's circuits -> evaluation on the test split, in full precision -> the folder

What can be refused is refused before any work; a run that fails leaves no folder.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger

from circuitkit import specs
from circuitkit.callbacks import ProgressLog, ResourceMonitor, RichProgress, bytes_of
from circuitkit.circuit import Circuit
from circuitkit.engine import memory
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.scene import make_scenes
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation import Evaluator, prompts, split_name
from circuitkit.global_state import global_state_kept
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import Objective
from circuitkit.precision.policy import PrecisionPolicy
from circuitkit.preflight import PROMPTS, Preflight, capture_bytes, hypotheses_at_once
from circuitkit.prompts import PromptBatch
from circuitkit.result import MetricsLog, Result, environment
from circuitkit.run_folder import CHECKPOINT, CONFIG, RunFolder, check_same
from circuitkit.setting import Setting, evaluated, load_model, on_device
from circuitkit.specs import Spec
from circuitkit.strategies.base import Discovery, DiscoveryStrategy
from circuitkit.tasks.base import Split, Task

SIZES = (0.01, 0.05, 0.2)
"""Fractions of the edges at which a ranking is evaluated for a result; `evaluate` takes all of MIB's."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SPLITS: tuple[Split, ...] = ("train", "test")


class Discoverer:
    """Runs strategies.

    Args:
        accelerator: `"cpu"`, `"cuda"`, or `"auto"`: CUDA where there is any.
        devices: how many; one so far.
        callbacks: objects with hooks of `Callback`; by default a progress bar. Time and memory are always measured.
        loggers: of Lightning's, besides `metrics.csv` in the run folder.
        seed: of prompts, strategy and random control.
        memory_budget: for the engine's largest buffers, in bytes or as text such as `"2GB"` (powers of 1024); by
            default half of what is free.

    Raises:
        UsageError: there is no such accelerator here, or an argument does not fit.
    """

    def __init__(
        self,
        accelerator: str = "auto",
        devices: int = 1,
        callbacks: Sequence[Any] | None = None,
        loggers: Sequence[Logger] | None = None,
        seed: int = 0,
        memory_budget: int | str | None = None,
    ) -> None:
        if accelerator not in ("auto", "cpu", "cuda", "gpu"):
            raise UsageError(f"There is no accelerator {accelerator!r}.", "Choose 'auto', 'cpu' or 'cuda'.")
        if accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
            raise UsageError(f"accelerator={accelerator!r}, and torch finds no CUDA device.", "Choose 'cpu' or 'auto'.")
        if isinstance(devices, bool) or devices != 1:
            raise UsageError(f"devices={devices!r}, and a discovery runs on one device.", "Leave it at 1.")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UsageError(f"The seed {seed!r} is not a number from 0 to 2**32 - 1.", "Give one such as 0.")
        self.accelerator = accelerator
        self.devices = devices
        self.seed = seed
        self.memory_budget = None if memory_budget is None else _bytes(memory_budget)
        self._callbacks = [RichProgress()] if callbacks is None else list(callbacks)
        self._loggers = list(loggers or ())
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")

    def run(
        self,
        strategy: DiscoveryStrategy | Spec,
        model: CircuitModel | str | Path | Mapping[str, str],
        task: Task | PromptBatch | Spec,
        *,
        precision: PrecisionPolicy | Spec | None = None,
        objective: Objective | Spec = "logit_difference",
        ablation: Ablation | Spec = "resample",
        examples: int = 32,
        sizes: Sequence[float] | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> Result:
        """Discover, evaluate on the test split, and write the run folder.

        Args:
            strategy, task, precision, objective, ablation: each a name, a class path, a mapping of `class_path` and
                `init_args`, or an object. A `PromptBatch` serves as a task. Without `precision` the strategy's own.
            model: a name, a mapping of `name`, `kv` and `dtype`, or a loaded model, which is moved to the device.
            examples: at most so many prompts, of each split.
            sizes: fractions of the edges at which to evaluate; by default a circuit's own, or `SIZES` of a ranking.
                Empty: no evaluation.
            out: the run folder (see `result`); None writes nothing.
            overwrite: replace the results in `out`.
            resume: if `out` holds a finished run of the same configuration, read and return it; if an interrupted
                one, go on from where it was last saved, to the same result; else start afresh.

        Returns:
            The circuits, their faithfulness, what it cost. Global state (random numbers, grad mode, default dtype,
            threads) is left as it was.

        Raises:
            UsageError: something named or given does not exist or does not fit.
            CircuitKitError: the run could not be done; nothing of it is left in `out`.
        """
        setting = Setting.make(strategy, model, task, precision, objective, ablation, examples, self.seed)
        setting.config.update(accelerator=self.accelerator, devices=self.devices)
        if resume and (earlier := _earlier(out, setting.config)):
            return earlier
        folder = RunFolder(out, overwrite=overwrite) if out is not None else None
        log = MetricsLog(None if folder is None or folder.full else folder.path)
        fabric = Fabric(
            accelerator=self.device.type,
            devices=self.devices,
            callbacks=[ResourceMonitor(), ProgressLog(), *self._callbacks],
            loggers=[log, *self._loggers],
        )
        with global_state_kept(self.device):
            fabric.seed_everything(self.seed, workers=False, verbose=False)
            fabric.launch()
            with folder.open() if folder is not None else nullcontext():
                checkpoint_file = None if folder is None else folder.checkpoint(setting.config, resume)
                result = self._run(setting, model, sizes, fabric, checkpoint_file)
                result.history.extend(log.rows)
                if folder is not None:
                    folder.fill(result.write)
        return result

    def preflight(
        self,
        strategy: DiscoveryStrategy | Spec,
        model: CircuitModel | str | Path | Mapping[str, str],
        task: Task | PromptBatch | Spec,
        *,
        precision: PrecisionPolicy | Spec | None = None,
        objective: Objective | Spec = "logit_difference",
        ablation: Ablation | Spec = "resample",
        examples: int = 32,
        out: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> Preflight:
        """Say what `run` with these arguments would hold and take, from a few timed steps; write nothing.

        Returns:
            Edges, prompts, bytes by part, and the strategy's estimate of the time where it has one.

        Raises:
            UsageError, CircuitKitError: what `run` would refuse before its work.
        """
        setting = Setting.make(strategy, model, task, precision, objective, ablation, examples, self.seed)
        setting.config.update(accelerator=self.accelerator, devices=self.devices)
        notes = _found_in(out, setting.config, overwrite, resume)
        fabric = Fabric(accelerator=self.device.type, devices=self.devices)
        with global_state_kept(self.device):
            fabric.seed_everything(self.seed, workers=False, verbose=False)
            fabric.launch()
            loaded = model if isinstance(model, CircuitModel) else load_model(model)
            run, _ = self._prepare(setting, on_device(loaded, self.device), fabric, None)
            few = replace(run, batches=[run.batches[0][:PROMPTS]])
            with _ready(setting.strategy, few):
                estimate = setting.strategy.preflight(few).times(run.prompts / few.prompts)
                weights = setting.precision.footprint() or {"weights": bytes_of(run.model, self.device)}
        scenes, budget = run.scenes(), run.memory_budget or memory.budget(self.device)
        largest = max(len(scene.batch) for scene in scenes) / run.prompts
        at_once = None
        if cone := estimate.bytes.get("cone"):
            at_once = hypotheses_at_once(round(cone * largest), budget)
        if not estimate.bytes:
            estimate = replace(estimate, bytes={"captures": max(capture_bytes([scene]) for scene in scenes)})
        return Preflight(
            strategy=specs.label("strategies", setting.config["strategy"]),
            model=str(setting.config["model"]),
            edges=len(run.model.graph),
            prompts=run.prompts,
            tokens=max(batch.length for batch in run.batches),
            weights=weights,
            memory_budget=budget,
            at_once=at_once,
            estimate=estimate,
            notes=tuple(notes),
        )

    def _run(
        self, setting: Setting, model: Any, sizes: Sequence[float] | None, fabric: Fabric, checkpoint_file: Path | None
    ) -> Result:
        loaded = model if isinstance(model, CircuitModel) else None
        fabric.call("on_load_start", self.device, loaded)
        run, test = self._prepare(setting, on_device(loaded or load_model(model), self.device), fabric, checkpoint_file)
        circuits = _discover(setting.strategy, run)
        result = Result(circuits, [], run.metrics, setting.config, environment(self.device))
        if sizes is None or sizes:
            self._evaluate(result, setting, run.model, test, sizes)
        return result

    def _prepare(
        self, setting: Setting, model: CircuitModel, fabric: Fabric, checkpoint_file: Path | None
    ) -> tuple[Discovery, PromptBatch]:
        """What a strategy is given, and the prompts of the test split."""
        train, test = (prompts(model, setting.task, split, setting.examples, setting.seed) for split in _SPLITS)
        setting.objective.check(test)  # before the work, not after it
        setting.ablation.fit(model, [train])
        run = Discovery(
            model=model,
            batches=[train],
            objective=setting.objective,
            ablation=setting.ablation,
            policy=setting.precision,
            fabric=fabric,
            generator=torch.Generator().manual_seed(setting.seed),
            memory_budget=self.memory_budget or memory.budget(self.device),
            checkpoint_file=checkpoint_file,
        )
        return run, test

    def _evaluate(
        self, result: Result, setting: Setting, model: CircuitModel, test: PromptBatch, sizes: Sequence[float] | None
    ) -> None:
        """Into the result; what was found is not lost for an evaluation that fails."""
        try:
            scenes = make_scenes(model, [test], setting.objective, setting.ablation, memory_budget=self.memory_budget)
            evaluator = Evaluator(scenes, split_name(setting.task, "test"), setting.seed)
            for circuit in result.circuits:
                result.evaluations.append(evaluated(evaluator, circuit, sizes or _own_sizes(circuit)))
        except CircuitKitError as error:
            result.notes.append(f"It could not be evaluated: {error}")


def discover(
    model: CircuitModel | str | Path,
    task: Task | PromptBatch | Spec,
    strategy: DiscoveryStrategy | Spec,
    *,
    strategy_args: Mapping[str, Any] | None = None,
    precision: PrecisionPolicy | Spec | None = None,
    objective: Objective | Spec = "logit_difference",
    ablation: Ablation | Spec = "resample",
    examples: int = 32,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
) -> Result:
    """Find the part of a model that a task needs.

    Args:
        model: a name (`"toy"`, a fetched model, one on the hub, a folder), or a `CircuitModel`.
        task: a name, a class path, or a `Task` or `PromptBatch`.
        strategy: a name, a class path, or a `DiscoveryStrategy`.
        strategy_args: the strategy's constructor arguments; only with a name or class path.
        precision: a name, class path or `PrecisionPolicy`; by default the strategy's own.
        objective: what is kept, by name or as an object.
        ablation: what a removed edge carries instead, by name or as an object.
        examples: at most so many prompts; as many others serve the evaluation.
        seed: of prompts, strategy and random control.
        out: a folder for the results; one that holds results is refused.
        resume: if `out` holds a finished run of this configuration, return it; if an interrupted one, go on with it;
            else start afresh.

    Returns:
        A `Result`: print it.

    Raises:
        UsageError: something named or given does not exist or does not fit.
        CircuitKitError: the run could not be done.
    """
    if strategy_args is not None:
        if not isinstance(strategy, str):
            raise UsageError("strategy_args are given beside a ready-made strategy.", "Give them to its constructor.")
        strategy = {"class_path": strategy, "init_args": strategy_args}
    return Discoverer(seed=seed).run(
        strategy,
        model,
        task,
        precision=precision,
        objective=objective,
        ablation=ablation,
        examples=examples,
        out=out,
        resume=resume,
    )


def _discover(strategy: DiscoveryStrategy, run: Discovery) -> list[Circuit]:
    """What the strategy finds under the policy."""
    with _ready(strategy, run):
        run.restore(strategy)
        found = strategy.discover(run)
        circuits = _checked(strategy, found, run)
        run.fabric.call("on_discovery_end", run, circuits)
    return circuits


@contextmanager
def _ready(strategy: DiscoveryStrategy, run: Discovery) -> Iterator[None]:
    """Policy and strategy are ready inside; both are closed whatever happens."""
    try:
        run.policy.prepare(run.model)
        run.fabric.call("on_discovery_start", run)
        strategy.setup(run)
        yield
    except BaseException as exception:
        run.fabric.call("on_exception", run, exception)
        raise
    finally:
        try:
            strategy.teardown(run)
        finally:
            run.policy.close()


def _checked(strategy: DiscoveryStrategy, found: Any, run: Discovery) -> list[Circuit]:
    circuits = [found] if isinstance(found, Circuit) else list(found) if isinstance(found, Sequence) else []
    if not circuits or not all(isinstance(one, Circuit) and one.graph == run.model.graph for one in circuits):
        what = repr(found)
        raise CircuitKitError(
            f"{type(strategy).__name__}.discover returned {what if len(what) < 80 else what[:77] + '...'}.",
            "It must return a Circuit on run.model.graph, or a sequence of them.",
        )
    return circuits


def _own_sizes(circuit: Circuit) -> Sequence[float]:
    """The size of a circuit that is one, so that a random circuit of that size stands beside it; else `SIZES`."""
    edges = len(circuit.graph)
    return SIZES if len(circuit) == edges else [(len(circuit) + 0.5) / edges]  # + 0.5: int() rounds down


def _earlier(out: str | Path | None, config: dict[str, Any]) -> Result | None:
    """The finished run in a folder, None if there is none.

    Raises:
        UsageError: it was made with another configuration.
    """
    if out is None or not (Path(out) / "result.json").exists():
        return None
    earlier = Result.load(out)
    check_same(out, earlier.config, config)
    return earlier


def _found_in(out: str | Path | None, config: dict[str, Any], overwrite: bool, resume: bool) -> list[str]:
    """What a run would find in its folder, in words.

    Raises:
        UsageError: a run would refuse the folder.
    """
    if out is None:
        return []
    if resume and _earlier(out, config):
        return [f"The run in {str(out)!r} is finished: resuming returns its result at once."]
    RunFolder(out, overwrite=overwrite)
    made_with = Path(out) / CHECKPOINT / CONFIG
    if not resume or not made_with.exists():
        return []
    check_same(out, specs.read_yaml(made_with), config)
    return [f"Resuming goes on with the interrupted run in {str(out)!r}; the time is for a whole one."]


def _bytes(value: int | str) -> int:
    """A memory budget in bytes.

    Raises:
        UsageError: it is not a size above 0.
    """
    size = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if size:
        value = int(float(size[1]) * 1024 ** " KMGT".index((size[2] or " ").upper()))
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"The memory budget {value!r} is not a size.", "Give bytes, or a size such as 500MB or 2GB.")
    return value
