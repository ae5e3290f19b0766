"""Checks of a training's saved state, which `lightning.Trainer` loads without any."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.storage.state import misfit

_PROGRESS = ("epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress")


def check_saved_training(path: Path, module: LightningModule, max_steps: int, batches_per_step: int) -> None:
    """Check that a file holds a state of this training.

    Args:
        path: what `Trainer.save_checkpoint` wrote.
        module: the training, at its start.
        max_steps: the number of its steps.
        batches_per_step: batches whose gradients are accumulated.

    Raises:
        CircuitKitError: it does not.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        problem = _find_problem(saved, module, max_steps, batches_per_step)
    except CircuitKitError:
        raise
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise misfit(f"{path} cannot be read") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise misfit(f"{path} is not the state of a training") from error
    if problem:
        raise misfit(f"{path} has {problem}")


def _find_problem(saved: Any, module: LightningModule, max_steps: int, batches_per_step: int) -> str:
    """Describe what does not fit; empty if everything does."""
    fresh = module.state_dict()
    if saved["state_dict"].keys() != fresh.keys():
        return "parameters of another training"
    for name, value in fresh.items():
        if not _alike(saved["state_dict"][name], value):
            return f"no finite {name!r} of the shape {tuple(value.shape)}"
    steps, loops = saved["global_step"], saved["loops"]["fit_loop"]
    batches, progress = (loops[name] for name in _PROGRESS)
    taken, optimized = batches["current"], progress["optimizer"]["step"]["total"]
    if not isinstance(steps, int) or not 0 <= steps <= max_steps or optimized["completed"] != steps:
        return f"{steps!r} steps of {max_steps}"
    if taken["ready"] != steps * batches_per_step or not set(taken.values()) <= {taken["ready"], taken["ready"] - 1}:
        return f"{taken['ready']!r} batches after {steps} steps"
    return _find_optimizer_problem(saved, module.configure_optimizers(), steps)


def _find_optimizer_problem(saved: Any, made: Any, steps: int) -> str:
    """Compare the saved state with what `configure_optimizers` makes."""
    schedules = [made["lr_scheduler"]["scheduler"]] if isinstance(made, dict) else []
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    (found,) = saved["optimizer_states"]
    groups = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if [group["params"] for group in found["param_groups"]] != groups:
        return "an optimizer of other parameters"
    if sorted(found["state"]) != (list(range(len(trained))) if steps else []):
        return "an optimizer of other parameters"
    for number, state in found["state"].items():
        if not (_alike(state["exp_avg"], trained[number]) and _alike(state["exp_avg_sq"], trained[number])):
            return "an optimizer of other parameters"
    of_schedules = [one.keys() for one in saved["lr_schedulers"]]
    if not isinstance(saved["pytorch-lightning_version"], str) or len(of_schedules) != len(schedules):
        return "another schedule"
    return ""


def _alike(found: Any, like: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == like.shape and bool(found.isfinite().all())
