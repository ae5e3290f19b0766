"""The state of a model, and all that torch and Python share, before and after a class has worked.

A run restores what it shares with others. What a strategy does to that is seen inside of the run only, by a callback.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.contracts.outcome import refuse
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import ModuleWeights
from circuitkit.run.callbacks import Callback
from circuitkit.strategies.discovery import Discovery

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SharedState:
    """Grad mode, default dtype, threads and generators, which all code in the process shares."""

    def __init__(self) -> None:
        self._before = self._read()

    def check(self) -> None:
        """Compare with the state now.

        Raises:
            ContractError: it is another.
        """
        for name, value in self._read().items():
            if not _equal(value, self._before[name]):
                refuse(
                    f"The {name} is not as it was.",
                    "Use `run.generator`, contexts such as `torch.no_grad()`, and a dtype for every tensor.",
                )

    @staticmethod
    def _read() -> dict[str, Any]:
        return {
            "grad mode": torch.is_grad_enabled(),
            "default dtype": torch.get_default_dtype(),
            "number of torch's threads": torch.get_num_threads(),
            "state of torch's generator": torch.get_rng_state(),
            "state of Python's generator": random.getstate(),
            "state of numpy's generator": [  # of which an array is a part
                np.asarray(part).tolist()
                for part in np.random.get_state()  # noqa: NPY002  the global one
            ],
        }


class WatchingSharedState(Callback):
    """Compares the shared state before and after a search, before the run restores it."""

    def __init__(self) -> None:
        self._before: SharedState | None = None

    def on_discovery_start(self, run: Discovery) -> None:
        """See the class."""
        self._before = SharedState()

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """See the class."""
        assert self._before is not None
        self._before.check()


class OtherGenerators(Callback):
    """Puts the generators that all code shares into a state that differs from the one that a run begins with."""

    def on_discovery_start(self, run: Discovery) -> None:
        """See the class."""
        seed = run.generator.initial_seed() % 2**31 + 1
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002


class ModelState:
    """What a run must leave as it was: parameters, buffers, the weights that the engine gets, hooks, modes."""

    def __init__(self, model: CircuitModel) -> None:
        self._model = model
        self._tensors = self._read()
        self._hooks, self._training = self._list_hooks(), self._list_training()
        self._shared = SharedState()

    def check(self) -> None:
        """Compare with the state now.

        Raises:
            ContractError: it is another.
        """
        found = self._read()
        for name in {**self._tensors, **found}:
            if not _is_same(self._tensors.get(name), found.get(name)):
                refuse(
                    f"The model's {name} is not as it was.",
                    "Change no weights, or restore them bit for bit, also after an exception.",
                )
        if type(self._model.weights) is not ModuleWeights:
            refuse(
                f"The model still has the weights of {type(self._model.weights).__name__}.",
                "Put the module's own back: `model.weights = ModuleWeights(model.family)`.",
            )
        if self._list_hooks() != self._hooks:
            refuse(
                "The model's modules have other hooks than before.", "Remove every hook that you register, no other."
            )
        if self._list_training() != self._training:
            refuse("A module of the model is in another mode than before.", "Leave `train()` and `eval()` alone.")
        self._shared.check()

    def _read(self) -> dict[str, tuple[Any, ...]]:
        module = self._model.model
        named: list[tuple[str, str, Tensor]] = [("parameter", *each) for each in module.named_parameters()]
        named += [("buffer", *each) for each in module.named_buffers()]
        return {
            f"{kind} {name}": (id(one), one.detach().clone(), one.requires_grad, one.stride(), one.grad is None)
            for kind, name, one in named
        }

    def _list_hooks(self) -> list[tuple[str, str, int, int]]:
        return [
            (name, kind, key, id(hook))
            for name, module in self._model.model.named_modules()
            for kind in _HOOKS
            for key, hook in getattr(module, kind).items()
        ]

    def _list_training(self) -> list[bool]:
        return [module.training for module in self._model.model.modules()]


def _is_same(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> bool:
    if one is None or other is None:
        return False
    (_, values, *_), (_, others, *_) = one, other
    return (one[0], *one[2:]) == (other[0], *other[2:]) and torch.equal(values, others)


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
