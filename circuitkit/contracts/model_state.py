"""The state of a model, and all that torch and Python share, before and after a class has worked."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circuitkit.contracts.outcome import refuse
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import ModuleWeights


class ModelState:
    """What a run must leave as it was: parameters, the weights that the engine gets, hooks, grad mode, generators."""

    def __init__(self, model: CircuitModel) -> None:
        self._model = model
        self._parameters = self._read()
        self._hooks = self._count_hooks()
        self._shared = self._read_shared()

    def check(self) -> None:
        """Compare with the state now.

        Raises:
            ContractError: it is another.
        """
        found = self._read()
        for name in {**self._parameters, **found}:
            if not _is_same(self._parameters.get(name), found.get(name)):
                refuse(
                    f"The model's parameter {name} is not as it was.",
                    "Change no weights, or restore them bit for bit, also after an exception.",
                )
        if type(self._model.weights) is not ModuleWeights:
            refuse(
                f"The model still has the weights of {type(self._model.weights).__name__}.",
                "Put the module's own back: `model.weights = ModuleWeights(model.family)`.",
            )
        if self._count_hooks() != self._hooks:
            refuse("The model's modules have other hooks than before.", "Remove every hook that you register.")
        for name, value in self._read_shared().items():
            if not _equal(value, self._shared[name]):
                refuse(
                    f"The {name} is not as it was.",
                    "Use `run.generator`, contexts such as `torch.no_grad()`, and a dtype for every tensor.",
                )

    def _read(self) -> dict[str, tuple[Any, ...]]:
        return {
            name: (id(one), one.detach().clone(), one.requires_grad, one.stride(), one.grad is None)
            for name, one in self._model.model.named_parameters()
        }

    def _count_hooks(self) -> int:
        modules = self._model.model.modules()
        return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) + len(one._backward_hooks) for one in modules)

    @staticmethod
    def _read_shared() -> dict[str, Any]:
        return {
            "grad mode": torch.is_grad_enabled(),
            "default dtype": torch.get_default_dtype(),
            "number of torch's threads": torch.get_num_threads(),
            "state of torch's generator": torch.get_rng_state(),
            "state of Python's generator": random.getstate(),
            "state of numpy's generator": repr(np.random.get_state()),  # noqa: NPY002  the global one
        }


def _is_same(one: tuple[Any, ...] | None, other: tuple[Any, ...] | None) -> bool:
    if one is None or other is None:
        return False
    (_, values, *_), (_, others, *_) = one, other
    return (one[0], *one[2:]) == (other[0], *other[2:]) and torch.equal(values, others)


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
