"""The parts of a run, made from their specs, and what they make together: model, prompts, evaluator."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from circuitkit import specs
from circuitkit.circuit import Circuit
from circuitkit.engine.ablation import Ablation
from circuitkit.errors import UsageError
from circuitkit.evaluation import Evaluation, Evaluator
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import Objective
from circuitkit.precision.policy import PrecisionPolicy
from circuitkit.prompts import PromptBatch
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.tasks.base import Task


@dataclass(frozen=True)
class Setting:
    """The parts of a run, made, and the configuration that makes them again."""

    strategy: DiscoveryStrategy
    task: Task | PromptBatch
    precision: PrecisionPolicy
    objective: Objective
    ablation: Ablation
    examples: int
    seed: int
    config: dict[str, Any]

    @classmethod
    def make(
        cls,
        strategy: Any,
        model: Any,
        task: Any,
        precision: Any,
        objective: Any,
        ablation: Any,
        examples: int,
        seed: int,
    ) -> Self:
        """From specs, or from the objects themselves.

        Raises:
            UsageError: something named does not exist, or an argument does not fit.
        """
        if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
            raise UsageError(f"examples={examples!r}.", "Ask for at least one prompt.")
        made: dict[str, Any] = {}
        config: dict[str, Any] = _model_config(model)
        for kind, key, spec in (
            ("tasks", "task", task),
            ("strategies", "strategy", strategy),
            ("policies", "precision", precision),
            ("objectives", "objective", objective),
            ("ablations", "ablation", ablation),
        ):
            if kind == "policies" and spec is None:
                spec = made["strategy"].default_precision()
            made[key] = specs.make(kind, spec)
            _check_kind(kind, key, made[key])
            config[key] = specs.resolved(kind, spec) if isinstance(spec, str | Mapping) else specs.describe(spec)
        return cls(**made, examples=examples, seed=seed, config=config | {"examples": examples, "seed": seed})


def _check_kind(kind: str, key: str, thing: Any) -> None:
    wanted = specs.base(kind)
    if not isinstance(thing, wanted) and not (kind == "tasks" and isinstance(thing, PromptBatch)):
        what = f"the class {thing.__name__}" if isinstance(thing, type) else repr(thing)[:80]
        raise UsageError(f"The {key} is {what}.", f"Give a name, a class path, or an object of {wanted.__name__}.")


def _model_config(model: Any) -> dict[str, str]:
    if isinstance(model, CircuitModel):
        return {"model": model.name, "kv": model.graph.kv, "dtype": str(model.dtype).removeprefix("torch.")}
    named = specs.model_spec(model)
    return {"model": named["name"], "kv": named["kv"], "dtype": named["dtype"]}


def load_model(spec: Any) -> CircuitModel:
    """A model from a name, or a mapping of `name`, `kv` and `dtype`.

    Raises:
        UsageError: there is no such model.
        CircuitKitError: it cannot be loaded.
    """
    named = specs.model_spec(spec)
    return CircuitModel.from_pretrained(named["name"], kv=named["kv"], dtype=named["dtype"])  # type: ignore[arg-type]


def on_device(model: CircuitModel, device: torch.device) -> CircuitModel:
    """The model, moved if need be."""
    return model if model.device.type == device.type else model.to(device)


def evaluated(evaluator: Evaluator, circuit: Circuit, sizes: Sequence[float]) -> Evaluation:
    """A circuit's evaluation, without the warnings that stand in its notes too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return evaluator.evaluate(circuit, sizes)
