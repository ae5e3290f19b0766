"""Training masks on masked runs with `lightning.Trainer`, shared by the trained strategies.

A step takes one batch of prompts (see `training_prompts`), makes one mask for all of them, and adds the strategy's
penalty to the objective. The objective is divided by its span between the full and the ablated model, so
that it has the unit of faithfulness, and the same learning rates work for every objective.
"""

import inspect
import logging
import math
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import instantiate_class
from torch import Tensor

from circuitkit.config import registry
from circuitkit.config.checks import is_number
from circuitkit.errors import UsageError
from circuitkit.storage.state import SavedState
from circuitkit.strategies import discovery
from circuitkit.strategies.discovery import TRAIN_PROMPTS, Discovery
from circuitkit.strategies.gate_training.hard_concrete import Gates, noise
from circuitkit.strategies.gate_training.saved_training import check_saved_training
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts

CHECKPOINT = "last.ckpt"
_ACCUMULATE = "accumulate_grad_batches"
_OPTIONS = {
    "gradient_clip_val": 1.0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
_NOT_OPTIONS = (
    # Set by the run
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins", "sync_batchnorm"),
    # Global to the process
    *("deterministic", "benchmark"),
    # Fixed: one epoch of `max_steps` steps, no validation
    *("max_epochs", "min_epochs", "min_steps", "fast_dev_run", "limit_train_batches", "overfit_batches", "barebones"),
)
_REPORTS = 100


class MaskTraining(LightningModule, ABC):
    """A mask over the edges as a `LightningModule`; its parameters are those of mask and penalty, not the model's.

    Several processes each compute the part of the loss that is due to their prompts, process 0 the penalty too, and
    step along the sum of their gradients. So their parameters stay the same.

    Args:
        prompts: a batch per step.
        max_steps: the number of optimizer steps.
    """

    def __init__(self, prompts: TrainingPrompts, max_steps: int) -> None:
        super().__init__()
        self.figures: dict[str, Tensor] = {}
        self.max_steps = max_steps
        self.prompts = prompts
        self._processes = prompts.processes
        self._span = prompts.span()

    @abstractmethod
    def mask(self, number: int) -> Tensor:
        """Compute the mask for the batch of this number, `[edges]`; it depends on nothing else but the parameters."""

    @abstractmethod
    def sparsity(self) -> Tensor:
        """Compute the fraction of removed edges, a scalar."""

    def penalty(self) -> Tensor | None:
        """Compute the term to add to the objective divided by its span, a scalar; None, the default, adds nothing."""
        return None

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Compute the loss of one batch of prompts under one mask."""
        mask = self.mask(batch_idx)
        (part, gradient), penalty = self.prompts.objective(batch_idx, mask), self.penalty()
        objective = self._processes.sum(part)
        self.figures = {"objective": objective, "sparsity": self.sparsity().detach()}
        if penalty is not None:
            self.figures["penalty"] = penalty.detach()
        self.log_dict(self.figures, prog_bar=True)
        loss = part + ((mask - mask.detach()) * gradient).sum()  # the value, with the gradient that is known
        return loss / self._span + (penalty if penalty is not None and self._processes.rank == 0 else 0.0)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Add up the gradients over the processes."""
        if self._processes.count == 1:
            return
        parameters = list(self.parameters())
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        summed = self._processes.sum(torch.cat([gradient.flatten() for gradient in own]).double())
        for parameter, part in zip(parameters, summed.split([one.numel() for one in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def make_adam(self, parameter: Tensor, learning_rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Any:
        """Make what `configure_optimizers` returns: Adam for one parameter, with a rate that falls linearly to 0."""
        optimizer = torch.optim.Adam([parameter], lr=learning_rate, betas=betas)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class GateTraining(MaskTraining):
    """The training of a mask of gates, sampled anew for every batch.

    Args:
        gates: to train.
        prompts: a batch per step.
        seed: determines the noise, together with the step.
        max_steps: the number of optimizer steps.
    """

    def __init__(self, gates: Gates, prompts: TrainingPrompts, seed: int, max_steps: int) -> None:
        super().__init__(prompts, max_steps)
        self.gates = gates
        self._seed = seed

    def mask(self, number: int) -> Tensor:
        """Sample the gates."""
        return self.gates.sample(noise(self._seed, number, len(self.gates.log_alpha)).to(self.device))

    def sparsity(self) -> Tensor:
        """Compute the expected fraction of removed edges, a scalar."""
        return 1 - self.gates.expected_edges() / self.gates.edges


def check_options(options: Mapping[str, Any] | None, max_steps: int) -> dict[str, Any]:
    """Check options for `lightning.Trainer`, and add defaults: steps of one batch, clipping at 1.0, no output.

    Args:
        options: the user's; a logger or a callback may be a mapping of `class_path` and `init_args`.
        max_steps: the default.

    Raises:
        UsageError: an option is unknown or cannot be set here, or a number of steps or batches is not positive.
    """
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"trainer={options!r} is not a mapping.", "Give `option: value` pairs of lightning.Trainer.")
    found = {"max_steps": max_steps, _ACCUMULATE: 1, **_OPTIONS, **(options or {})}
    known = [name for name in inspect.signature(Trainer).parameters if name not in _NOT_OPTIONS]
    for name in found:
        if name in _NOT_OPTIONS:
            raise UsageError(f"The trainer option {name!r} cannot be set here.", f"Choose from {', '.join(known)}.")
        if name not in known:
            raise registry.unknown_name("trainer option", name, known)
    for name in ("max_steps", _ACCUMULATE):
        if not _is_count(found[name]):
            raise UsageError(f"The trainer option {name} is {found[name]!r}.", "Give a positive whole number.")
    return found


def check_batches(batch_size: int, prompts: int | None, learning_rate: float) -> None:
    """Check the arguments that all trained strategies share.

    Raises:
        UsageError: an argument is out of its range.
    """
    if not _is_count(batch_size):
        raise UsageError(f"batch_size={batch_size!r} is not a positive whole number.", "Give a number of prompts.")
    if prompts is not None and not _is_count(prompts):
        raise UsageError(
            f"prompts={prompts!r} is not a positive whole number.", "Leave it out for as many as the training uses."
        )
    if not (is_number(learning_rate) and 0 < learning_rate < math.inf):
        raise UsageError(f"learning_rate={learning_rate!r} is not a positive number.", "Give one such as 0.1.")


def _is_count(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given > 0


def count_batches(options: Mapping[str, Any]) -> int:
    """Return how many batches a training takes with these options, as returned by `check_options`."""
    return int(options["max_steps"] * options[_ACCUMULATE])


def training_prompts(
    run: Discovery, options: Mapping[str, Any], batch_size: int, prompts: int | None, checkpoint: bool
) -> TrainingPrompts:
    """Draw the prompts of a training, and log their number.

    Args:
        run: the run.
        options: as returned by `check_options`.
        batch_size, prompts, checkpoint: as of `TrainingPrompts`.
    """
    made = TrainingPrompts(run, count_batches(options), batch_size, prompts, checkpoint)
    if TRAIN_PROMPTS not in run.metrics:  # as it is in a resumed run
        run.log(**{TRAIN_PROMPTS: len(made)})
    return made


def finished_trainings(run: Discovery, most: int, prompts: TrainingPrompts) -> int:
    """Return how many of a strategy's trainings an interrupted run has finished and logged; save it in a new run.

    Args:
        run: the run.
        most: how many trainings there are.
        prompts: of all of them.

    Raises:
        CircuitKitError: the saved state does not fit this run, such as one with other prompts.
    """
    if run.resumed is None:
        run.checkpoint(lambda: _state(0, prompts))
        return 0
    saved = SavedState(run.resumed, "the strategy", list(_state(0, prompts)))
    saved.expect("prompts", saved["prompts"] == prompts.content, "that of this run's training prompts")
    return saved.count("finished", most=most)


def _state(finished: int, prompts: TrainingPrompts) -> dict[str, Any]:
    return {"finished": finished, "prompts": prompts.content}


def train(module: MaskTraining, run: Discovery, options: Mapping[str, Any], name: str, finished: int) -> None:
    """Train to the end; resume from the saved state of an interrupted run in the same folder, if there is one.

    Global state (grad mode, signal handlers, warnings, log levels) is left as it was.

    Args:
        module: the module to train; changed in place.
        run: the run whose device, callbacks, loggers and folder are used.
        options: as returned by `check_options`.
        name: of the training within the run.
        finished: the number of trainings that the run has finished and logged, for its state.

    Raises:
        UsageError: `lightning.Trainer` refuses an option.
        CircuitKitError: the saved state does not fit this training.
    """
    last = None if run.checkpoint_file is None else run.checkpoint_file.parent / name / CHECKPOINT
    own: list[Callback] = [_Reporting(run)]
    if last is not None and run.processes.rank == 0:
        own.append(_Saving(last, lambda: run.save(_state(finished, module.prompts))))
    with _quiet(), _interruptions(), torch.enable_grad():
        trainer = _trainer(run, options, own)
        batches = range(module.max_steps * options[_ACCUMULATE])
        resumed = last if last is not None and last.exists() else None
        if resumed is not None:
            check_saved_training(resumed, module, module.max_steps, options[_ACCUMULATE])
        trainer.fit(module, batches, ckpt_path=resumed, weights_only=True)


def _trainer(run: Discovery, options: Mapping[str, Any], callbacks: list[Callback]) -> Trainer:
    if options.get("max_time") is not None and run.processes.count > 1:
        raise UsageError(
            "The trainer option max_time would end the training of each process at another step.",
            "Set max_steps instead, or use one process.",
        )
    try:
        made = {name: _instantiate(value) for name, value in options.items()}
        given = made.pop("callbacks", None) or []
        given = given if isinstance(given, list) else [given]
        if run.processes.rank:
            made.update(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
            given = [one for one in given if not isinstance(one, Checkpoint | ProgressBar | ModelSummary)]
        if run.folder is not None:
            made.setdefault("default_root_dir", run.folder)
        trainer = Trainer(
            **made,
            accelerator=run.model.device.type,
            devices=1 if run.model.device.index is None else [run.model.device.index],
            max_epochs=1,
            callbacks=[*given, *callbacks],
            plugins=LightningEnvironment(),  # on any cluster, since the run has already launched its processes
        )
        # The Trainer's own handler of SIGTERM would swallow it, or raise an exception of its own
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    except (MisconfigurationException, ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"The trainer cannot be made: {error}.", "Check the trainer's options.") from error
    return trainer


class _Reporting(Callback):
    """Reports progress to the run."""

    def __init__(self, run: Discovery) -> None:
        self._run = run

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MaskTraining)
        step, total = trainer.global_step, pl_module.max_steps
        if step % max(1, total // _REPORTS) == 0 or step == total:
            self._run.report(step, total, "steps", **{name: float(x) for name, x in pl_module.figures.items()})


class _Saving(Callback):
    """Saves the state at intervals, and when training has ended; then the run's."""

    def __init__(self, path: Path, save_run: Callable[[], None]) -> None:
        self._path, self._save_run = path, save_run
        self._saved = time.monotonic()
        self._step = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # Save only after optimizer steps: accumulated gradients are not part of the state
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        if stepped and time.monotonic() - self._saved >= discovery.SECONDS_BETWEEN_CHECKPOINTS:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        new = self._path.with_name(f".{self._path.name}")
        trainer.save_checkpoint(new)
        new.replace(self._path)  # a process killed at any moment leaves the old state or the new
        self._save_run()
        self._saved = time.monotonic()


@contextmanager
def _interruptions() -> Iterator[None]:
    """Raise `KeyboardInterrupt` as it was, where the Trainer makes it an exit, and restore the signal handler."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as exit:
        if isinstance(exit.__context__, KeyboardInterrupt):
            raise exit.__context__ from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's banners and tips."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _instantiate(value: Any) -> Any:
    """Make objects from mappings with a class path, as in Lightning's own configuration files."""
    if isinstance(value, Mapping) and "class_path" in value:
        return instantiate_class((), dict(value))
    return [_instantiate(item) for item in value] if isinstance(value, list) else value
