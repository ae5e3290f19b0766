"""One run of a strategy on a model and a task, with its seed, device, callbacks, loggers and folder.

Steps:

1. Make the parts from their specs, and refuse a folder that holds results.
2. Load the model, make the prompts, fit the ablation on the train prompts, and say if the model hardly does the task. A
   run to resume must have been made with the same model and prompts.
3. Prepare the precision policy, let the strategy find circuits on the train split, and save them. With a faithfulness
   to reach, choose the smallest that has it on the validation split, if need be of several searches.
4. Evaluate the circuits on the train and the test split, in full precision, and say if they do better on the first.
5. Fill the folder.

Invalid input is refused before step 3. A run that fails leaves no folder, unless it saved a state to resume from.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Unpack

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger

from circuitkit.circuit.circuit import Circuit
from circuitkit.config.checks import check_flags, check_seed
from circuitkit.config.specs import Spec
from circuitkit.config.trust import trust_registered_only
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.processes import ALONE, Processes
from circuitkit.errors import UsageError, quote
from circuitkit.evaluation.chance import model_accuracy
from circuitkit.evaluation.evaluation import CURVES, Ranking
from circuitkit.evaluation.prompts import prompt_notes
from circuitkit.evaluation.score_intervals import ScoreIntervals
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.report.dry_run import DryRun
from circuitkit.run import launch
from circuitkit.run.callbacks import ProgressLog, RichProgress
from circuitkit.run.content import CONTENT, check_same_content, describe_content
from circuitkit.run.earlier_run import (
    check_earlier_content,
    check_interrupted,
    describe_folder,
    load_finished,
    resumption_notes,
    say_how_to_resume,
)
from circuitkit.run.environment import describe_environment
from circuitkit.run.evaluating import evaluate_circuits
from circuitkit.run.global_state import preserve_global_state
from circuitkit.run.metrics_log import MetricsLog
from circuitkit.run.prediction import predict
from circuitkit.run.preparation import prepare
from circuitkit.run.resources import ResourceMonitor, parse_size
from circuitkit.run.result import Result
from circuitkit.run.run_config import (
    SPLITS,
    VALIDATION,
    ModelSpec,
    RunConfig,
    RunOptions,
    StrategySpec,
    TaskSpec,
    load_model,
    move_to,
    wrap_model,
)
from circuitkit.run.run_folder import EVALUATED, RunFolder, finish_writing
from circuitkit.run.searching import search
from circuitkit.run.smallest import find_smallest, search_notes
from circuitkit.strategies.discovery import Discovery
from circuitkit.tasks.base import Split


class Discoverer:
    """Runs a strategy on a model and a task.

    Args:
        accelerator: `"cpu"`, `"cuda"`, or `"auto"`: CUDA if there is a device.
        devices: number of processes that share the prompts of the train split, each on a device of its own (or all on
            the CPU). More than one must be launched with `torchrun`.
        callbacks: objects with hooks of `Callback`; by default a progress bar. Time and memory are measured in any
            case.
        loggers: Lightning loggers, in addition to `metrics.csv` in the run folder.
        seed: seed of the prompts, the strategy and the random control.
        memory_budget: memory for the engine's largest buffers, in bytes or as text such as `"2GB"` (powers of 1024);
            by default half of the free memory. Each process has its own.
        trusted_only: refuse class paths, also in arguments that are specs, unless an installed package registers the
            class: for configurations from others. Objects are used as they are.

    Attributes:
        rank: the number of this process, from 0.

    Raises:
        UsageError: this machine has no such accelerator, `torchrun` has not launched as many processes as `devices`, or
            an argument does not fit.
    """

    def __init__(
        self,
        accelerator: str = "auto",
        devices: int = 1,
        callbacks: Sequence[Any] | None = None,
        loggers: Sequence[Logger] | None = None,
        seed: int = 0,
        memory_budget: int | str | None = None,
        trusted_only: bool = False,
    ) -> None:
        if accelerator not in ("auto", "cpu", "cuda", "gpu"):
            raise UsageError(f"There is no accelerator {accelerator!r}.", "Choose 'auto', 'cpu' or 'cuda'.")
        if accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
            raise UsageError(f"accelerator={accelerator!r}, but torch finds no CUDA device.", "Choose 'cpu' or 'auto'.")
        launch.check_devices(devices)
        check_seed(seed)
        for name, given in (("callbacks", callbacks), ("loggers", loggers)):
            if given is not None and not isinstance(given, list | tuple):
                raise UsageError(f"{name}={quote(given)} is no list.", "Give a list of them, such as [].")
        if others := [logger for logger in loggers or () if not isinstance(logger, Logger)]:
            raise UsageError(f"{quote(others[0])} among the loggers is no logger of Lightning.", "Leave it out.")
        check_flags(trusted_only=trusted_only)
        self.accelerator = accelerator
        self.devices = devices
        self.seed = seed
        self.memory_budget = None if memory_budget is None else parse_size(memory_budget)
        self.trusted_only = trusted_only
        self._callbacks = [RichProgress()] if callbacks is None else list(callbacks)
        self._loggers = list(loggers or ())
        self.device = launch.find_device(accelerator, devices)
        self.rank = launch.own_rank()

    def run(
        self,
        model: ModelSpec,
        task: TaskSpec,
        strategy: StrategySpec,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        **options: Unpack[RunOptions],
    ) -> Result:
        """Discover, evaluate, and write the run folder.

        Args:
            model: a name, a mapping with `name`, `kv`, `dtype` and `positions`, or a loaded model (`CircuitModel` or
                transformers'), which is moved to the device.
            task: a name, a class path, a mapping with `class_path` and `init_args`, a `Task`, or a `PromptBatch`, which
                is used for finding and for evaluating (as the train split, the only one).
            strategy: a name, a class path, a mapping with `class_path` and `init_args`, or a `DiscoveryStrategy`.
            out: the run folder (see the module `result`); None writes nothing.
            overwrite: replace the results in `out`.
            resume: if `out` holds a finished run of the same configuration, read and return it; if it holds an
                interrupted one, continue from its last saved state to the same result; otherwise start from scratch.
                The prompts and the model must be the same too, by their content (see the module `content`); an
                interrupted run may be evaluated at other sizes, splits and rankings than it was started with. With
                `overwrite`, a finished run is not read, only an interrupted one continued.
            options: `precision`, `objective`, `ablation`, `examples`, `sizes`, `splits`, `rankings` and `faithfulness`;
                see `RunOptions`.

        Returns:
            The circuits, their faithfulness, and their cost. Of several processes, all return the circuits, but only
            process 0 evaluates them, calls the callbacks, logs and writes. Global state (random generators, grad mode,
            default dtype, threads) is left as it was.

        Raises:
            UsageError: a name does not exist, an argument does not fit, or `out` holds results or, without `resume` or
                `overwrite`, an interrupted run.
            CircuitKitError: the run failed; `out` holds nothing new, except a state to resume from if one was saved.
            UnsavedResultError: the run succeeded, but `out` could not be filled; the message says where the result is.
        """
        check_flags(overwrite=overwrite, resume=resume)
        model = wrap_model(model)
        run_config = self._make_config(model, task, strategy, options)
        with launch.connect(self.device, self.devices) as processes:
            if processes.rank:  # process 0 looks after the folder
                out, overwrite, resume = None, False, False
            if finished := processes.broadcast(self._find_finished(run_config, model, out, overwrite, resume)):
                return finished
            folder = RunFolder(out, overwrite=overwrite) if out is not None else None
            if out is not None:
                check_interrupted(out, run_config.config, overwrite, resume)
            log = MetricsLog(None if folder is None or folder.has_results else folder.path)
            callbacks = [ResourceMonitor(), *([] if processes.rank else [ProgressLog(), log, *self._callbacks])]
            fabric = launch.make_fabric(self.device, callbacks=callbacks, loggers=[log, *self._loggers])
            opened = folder.open() if folder is not None else nullcontext()
            with self._launch(fabric), say_how_to_resume(out), opened:
                result = self._run(run_config, model, fabric, log.rows, folder, resume, processes)
                if folder is not None:
                    result.save_or_rescue(folder)
        return result

    def _find_finished(
        self,
        run_config: RunConfig,
        model: ModelSpec,
        out: str | Path | None,
        overwrite: bool,
        resume: bool,
    ) -> Result | None:
        """Return the finished run to resume, if `out` holds it."""
        completed = out is not None and finish_writing(out)
        # Under `overwrite` the run to resume is the interrupted one, not the one that it was to replace
        if not resume or (out is not None and overwrite and not completed):
            return None
        finished = load_finished(out, run_config.config)
        if finished is None:
            return None
        with self._launch(launch.make_fabric(self.device)):
            loaded = model if isinstance(model, CircuitModel) else load_model(model)
            content = describe_content(loaded, run_config.make_prompts(loaded, run_config.splits), run_config.strategy)
        check_same_content(str(out), finished.config, content)
        return finished

    def dry_run(
        self,
        model: ModelSpec,
        task: TaskSpec,
        strategy: StrategySpec,
        *,
        out: str | Path | None = None,
        overwrite: bool = False,
        resume: bool = False,
        **options: Unpack[RunOptions],
    ) -> DryRun:
        """Predict the memory and time of `run` with these arguments from a few timed steps; write nothing.

        Returns:
            Numbers of edges and prompts, bytes per part, and the strategy's time estimate if it has one.

        Raises:
            UsageError, CircuitKitError: `run` would refuse these arguments.
        """
        check_flags(overwrite=overwrite, resume=resume)
        model = wrap_model(model)
        run_config = self._make_config(model, task, strategy, options)
        notes = describe_folder(out, run_config.config, overwrite, resume)
        monitor = ResourceMonitor()
        fabric = launch.make_fabric(self.device, callbacks=[monitor])
        with self._launch(fabric):
            fabric.call("on_load_start", self.device, model if isinstance(model, CircuitModel) else None)
            loaded = model if isinstance(model, CircuitModel) else load_model(model)
            loaded = move_to(self.device, loaded)
            run, prompts = prepare(run_config, loaded, fabric, ALONE, self.memory_budget)
            if resume and out is not None:
                check_earlier_content(out, describe_content(loaded, prompts, run_config.strategy))
            notes += [*prompt_notes(prompts), *run.notes]
            if run_config.faithfulness is not None:
                notes += search_notes(run_config.strategy)
            if self.devices > 1:
                run.batches = [run.batches[0][:: self.devices]]
                notes.append(f"This is for each of {self.devices} processes, with its part of the prompts.")
            accuracy = model_accuracy(loaded, prompts["train"], self.memory_budget)
            return predict(run, run_config.strategy, monitor, run_config.config, accuracy, notes)

    def _make_config(self, model: ModelSpec, task: TaskSpec, strategy: StrategySpec, options: RunOptions) -> RunConfig:
        if own := sorted(options.keys() & inspect.signature(Discoverer).parameters.keys()):
            raise UsageError(f"{own[0]} is no option of a single run.", f"Give it to Discoverer({own[0]}=...).")
        with trust_registered_only(self.trusted_only):
            run_config = RunConfig.make(model, task, strategy, self.seed, **options)
        budget = {} if self.memory_budget is None else {"memory_budget": self.memory_budget}
        run_config.config.update(accelerator=self.accelerator, devices=self.devices, **budget)
        return run_config

    @contextmanager
    def _launch(self, fabric: Fabric) -> Iterator[None]:
        """Seed and launch Fabric; restore global state on exit."""
        with preserve_global_state(self.device):
            fabric.seed_everything(self.seed, workers=False, verbose=False)
            fabric.launch()
            yield

    def _run(
        self,
        run_config: RunConfig,
        model: ModelSpec,
        fabric: Fabric,
        rows: list[dict[str, Any]],
        folder: RunFolder | None,
        resume: bool,
        processes: Processes,
    ) -> Result:
        fabric.call("on_load_start", self.device, model if isinstance(model, CircuitModel) else None)
        try:
            loaded = move_to(self.device, model if isinstance(model, CircuitModel) else load_model(model))
            run, prompts = prepare(run_config, loaded, fabric, processes, self.memory_budget)
        except BaseException as error:
            fabric.call("on_load_exception", error)
            raise
        fabric.call("on_load_end", run)
        if folder is not None:
            run.folder = folder.path
            run_config.config[CONTENT] = describe_content(loaded, prompts, run_config.strategy)
            run.checkpoint_file = folder.prepare_checkpoint(run_config.config, resume)
        run.folder, run.checkpoint_file = processes.broadcast((run.folder, run.checkpoint_file))
        searched = None if folder is None else folder.saved_search()
        if result := processes.broadcast(None if searched is None else Result.load(searched)):
            result.notes.append("The run was interrupted after its search, and resumed.")
            now = run_config.config  # it may be evaluated otherwise than it was started
            result.config.update({key: now[key] for key in (*EVALUATED, CONTENT) if key in now})
        else:
            circuits = self._search(run_config, run, prompts)
            notes = [*run.model.notes, *prompt_notes(prompts), *run.notes, *resumption_notes(run)]
            environment = describe_environment(self.device)
            intervals = ScoreIntervals.of_circuit(circuits[0], run.score_intervals)
            result = Result(
                *(circuits, {}, run.metrics, run_config.config, environment, notes, rows), score_intervals=intervals
            )
            if folder is not None and run_config.splits:
                result.save_or_rescue(folder, unevaluated=True)
        if not processes.rank:
            result = evaluate_circuits(result, run_config, run, prompts, self.memory_budget)
        return result

    def _search(self, run_config: RunConfig, run: Discovery, prompts: Mapping[str, PromptBatch]) -> list[Circuit]:
        strategy, wanted = run_config.strategy, run_config.faithfulness
        if wanted is None:
            return search(strategy, run)
        return [find_smallest(strategy, run, prompts[VALIDATION], wanted, self.memory_budget)]


def discover(
    model: ModelSpec,
    task: TaskSpec,
    strategy: StrategySpec,
    *,
    strategy_args: Mapping[str, Any] | None = None,
    precision: PrecisionPolicy | Spec | None = None,
    objective: Objective | Spec | None = None,
    ablation: Ablation | Spec = "resample",
    examples: int | Sequence[int] = 32,
    faithfulness: float | None = None,
    sizes: Sequence[float] | None = None,
    splits: Sequence[Split] = SPLITS,
    rankings: Sequence[Ranking] = CURVES,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    trusted_only: bool = False,
) -> Result:
    """Find the circuit of a task in a model.

    Args:
        model: a name (`"toy"`, a fetched model, a model on the hub, a folder), a `CircuitModel`, or a model of
            transformers'.
        task: a name, a class path, or a `Task` or `PromptBatch`.
        strategy: a name, a class path, or a `DiscoveryStrategy`.
        strategy_args: the strategy's constructor arguments; only with a name or class path.
        precision: a name, class path or `PrecisionPolicy`; by default the strategy's own.
        objective: the measure of task performance, a name or an `Objective`; by default the task's own
            (`Task.objective`), which is the logit difference for most tasks and for a `PromptBatch`.
        ablation: what a removed edge carries instead, a name or an `Ablation`.
        examples: maximum number of prompts to find the circuit on; as many other prompts are used to evaluate it. Or
            three such numbers, for the splits train (find), validation (choose) and test (evaluate).
        faithfulness: find the smallest circuit with this faithfulness on the validation split, whatever the strategy:
            the first edges of its ranking, or its circuit at another threshold or target (see the module `smallest`).
        sizes: fractions of the edges at which to evaluate; by default the circuit's own, or 1%, 5% and 20% for a
            ranking. Empty: no evaluation.
        splits: those to evaluate on; by default train, on which the circuit is found, and test.
        rankings: how circuits of these sizes are chosen: any of `signed`, `absolute`, `greedy` and `random`.
        seed: seed of the prompts, the strategy and the random control.
        out: a folder for the results; one that already holds results is refused.
        overwrite: replace the results in `out`.
        resume: if `out` holds a finished run of this configuration, return it; if it holds an interrupted one,
            continue it; otherwise start from scratch. Without it, an interrupted run in `out` is an error.
        trusted_only: import no class but registered ones, whatever a name or class path says (see `Discoverer`).

    Returns:
        A `Result`; `print` shows its summary.

    Raises:
        UsageError: a name does not exist, an argument does not fit, or `out` holds results.
        CircuitKitError: the run failed.
    """
    if strategy_args is not None:
        if not isinstance(strategy, str):
            raise UsageError(
                "strategy_args need a strategy given by name or class path.", "Give them to its constructor."
            )
        strategy = {"class_path": strategy, "init_args": strategy_args}
    return Discoverer(seed=seed, trusted_only=trusted_only).run(
        model,
        task,
        strategy,
        precision=precision,
        objective=objective,
        ablation=ablation,
        examples=examples,
        faithfulness=faithfulness,
        sizes=sizes,
        splits=splits,
        rankings=rankings,
        out=out,
        overwrite=overwrite,
        resume=resume,
    )
