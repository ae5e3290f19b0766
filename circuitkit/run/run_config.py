"""The configuration of a run: its parts, made from specs, and the plain data to make them from again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import torch
from torch import nn
from transformers import PreTrainedModel

from circuitkit.config import registry, specs
from circuitkit.config.checks import Examples, check_examples, check_split
from circuitkit.config.specs import Spec
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation
from circuitkit.errors import UsageError
from circuitkit.evaluation.evaluation import CURVES, Ranking
from circuitkit.evaluation.evaluator import check_curves
from circuitkit.evaluation.prompts import make_prompts
from circuitkit.models.brought import unwrap_model
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.loading import load_tokenizer
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.run.smallest import check_faithfulness
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.tasks.base import Split, Task, own_objective

ModelSpec = CircuitModel | PreTrainedModel | str | Path | Mapping[str, str]
TaskSpec = Task | PromptBatch | Spec
StrategySpec = DiscoveryStrategy | Spec
SPLITS: tuple[Split, ...] = ("train", "test")
"""The splits that circuits are evaluated on by default."""
VALIDATION: Split = "validation"
"""The split that sizes are chosen on."""


class RunOptions(TypedDict, total=False):
    """The parts of a run that have defaults.

    Attributes:
        precision: a name, class path, mapping or `PrecisionPolicy`; by default the strategy's own.
        objective: likewise, or an `Objective`; by default the task's own.
        ablation: likewise, or an `Ablation`; by default `resample`.
        examples: maximum number of prompts per split, one number for all or three, for train, validation and test; by
            default 32.
        sizes: fractions of the edges at which to evaluate; by default the circuit's own, or `RANKING_SIZES` for a
            ranking. Empty: no evaluation.
        splits: those to evaluate on; by default train, on which the circuits are found, and test.
        rankings: how circuits of these sizes are chosen: any of `signed`, `absolute`, `greedy`, `random`; by default
            all but `greedy`.
        faithfulness: find the smallest circuit with this faithfulness on the validation split (see the module
            `smallest`), instead of the circuits at the strategy's operating points or a mere ranking.
    """

    precision: PrecisionPolicy | Spec | None
    objective: Objective | Spec | None
    ablation: Ablation | Spec
    examples: int | Sequence[int]
    sizes: Sequence[float] | None
    splits: Sequence[Split]
    rankings: Sequence[Ranking]
    faithfulness: float | None


@dataclass(frozen=True)
class RunConfig:
    """The parts of a run, and the plain data (`config`) to make them from again.

    `splits` are those that the run evaluates: none where there are no sizes, and of a `PromptBatch` its only one.
    """

    strategy: DiscoveryStrategy
    task: Task | PromptBatch
    precision: PrecisionPolicy
    objective: Objective
    ablation: Ablation
    examples: Examples
    seed: int
    sizes: list[float] | None
    splits: list[Split]
    rankings: list[Ranking]
    config: dict[str, Any]
    faithfulness: float | None = None

    @classmethod
    def make(
        cls, model: ModelSpec, task: TaskSpec, strategy: StrategySpec, seed: int, **options: Unpack[RunOptions]
    ) -> Self:
        """Make the parts from their specs; parts given as objects are used as they are.

        Raises:
            UsageError: a name does not exist, or an argument does not fit.
        """
        if unknown := sorted(options.keys() - RunOptions.__annotations__.keys()):
            raise registry.unknown_name("option", unknown[0], sorted(RunOptions.__annotations__))
        examples = check_examples(options.get("examples", 32))
        parts: dict[str, Any] = {}
        config: dict[str, Any] = _describe_model(model)
        for key, kind, spec in (
            ("task", "tasks", task),
            ("strategy", "strategies", strategy),
            ("precision", "precision", options.get("precision")),
            ("objective", "objectives", options.get("objective")),
            ("ablation", "ablations", options.get("ablation", "resample")),
        ):
            if key == "precision" and spec is None:
                spec = parts["strategy"].default_precision()
            if key == "objective" and spec is None:
                spec = own_objective(parts["task"])
            parts[key] = specs.make(kind, spec)
            if not (key == "task" and isinstance(parts[key], PromptBatch)):
                specs.check_object(kind, key, parts[key])
            config[key] = specs.resolve(kind, spec) if isinstance(spec, str | Mapping) else specs.describe(spec)
        evaluated = _check_evaluation(parts["task"], options)
        config |= {"examples": examples.plain, "seed": seed, **evaluated}
        wanted = options.get("faithfulness")
        if wanted is not None:
            wanted = config["faithfulness"] = check_faithfulness(wanted, parts["strategy"])
            if isinstance(parts["task"], PromptBatch):
                raise UsageError(
                    f"faithfulness={wanted:g} is reached on the validation split, which a PromptBatch does not have.",
                    "Give a task, such as PromptFile, or choose a size yourself: `circuit.top(n)`.",
                )
        return cls(**parts, **evaluated, examples=examples, seed=seed, config=config, faithfulness=wanted)

    def make_prompts(self, model: CircuitModel, splits: Sequence[Split]) -> dict[str, PromptBatch]:
        """Make the prompts of the train split and of others, with validation if the size is chosen there."""
        chosen_on: tuple[Split, ...] = () if self.faithfulness is None else (VALIDATION,)
        return {
            split: make_prompts(model, self.task, split, self.examples.of(split), self.seed)
            for split in dict.fromkeys((SPLITS[0], *chosen_on, *splits))
        }


def _check_evaluation(task: Task | PromptBatch, options: RunOptions) -> dict[str, Any]:
    sizes, rankings = options.get("sizes"), options.get("rankings", CURVES)
    plain = check_curves(() if sizes is None else sizes, rankings)
    splits = options.get("splits", SPLITS)
    check_splits(splits)
    if sizes is not None and not plain:
        splits = ()
    elif splits and isinstance(task, PromptBatch):
        splits = SPLITS[:1]
    return {"sizes": None if sizes is None else plain, "splits": list(splits), "rankings": list(rankings)}


def check_splits(splits: Sequence[str]) -> None:
    """Check the splits to evaluate on.

    Raises:
        UsageError: there is no such split, or one is named twice.
    """
    if not isinstance(splits, list | tuple) or len(set(splits)) != len(splits):
        raise UsageError(f"The splits {splits!r} are not a list of different splits.", "Give ['train', 'test'].")
    for split in splits:
        check_split(split)


def load_model(spec: PreTrainedModel | str | Path | Mapping[str, str]) -> CircuitModel:
    """Load a model by its name, or by a mapping with `name`, `kv`, `dtype` and `positions`.

    Raises:
        UsageError: there is no such model.
        CircuitKitError: the model cannot be loaded.
    """
    return CircuitModel.from_pretrained(**specs.model_spec(spec))  # type: ignore[arg-type]


def wrap_model(model: ModelSpec) -> CircuitModel | str | Path | Mapping[str, str]:
    """Wrap a transformers model that is in memory, with its tokenizer if that is on this machine; return others as is.

    Raises:
        UsageError: its architecture is not supported.
        CircuitKitError: it fails the parity check.
    """
    if not isinstance(model, nn.Module):
        return model
    name = unwrap_model(model).config.name_or_path
    return CircuitModel.from_model(model, load_tokenizer(name, local_only=True) if name else None)


def move_to(device: torch.device, model: CircuitModel) -> CircuitModel:
    """Move a model to a device, unless it is already there, or on any of that type if the device has no number."""
    there = model.device if device.index is not None else torch.device(model.device.type)
    return model if there == device else model.to(device)


def _describe_model(model: ModelSpec) -> dict[str, str]:
    if isinstance(model, CircuitModel):
        dtype, graph = str(model.dtype).removeprefix("torch."), model.graph
        model = {"name": model.name, "kv": graph.kv, "dtype": dtype, "positions": graph.positions}
    return specs.describe_model(specs.model_spec(model))
