"""What a comparison compares: the grid of models x tasks x seeds x strategies x precisions, as plain data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from circuitkit import registry, specs
from circuitkit.errors import UsageError
from circuitkit.evaluation import SIZES
from circuitkit.models.fetch import resolve

_PARTS = ("models", "tasks", "strategies", "precisions", "seeds")


@dataclass(frozen=True)
class Cell:
    """One discovery of a grid: its labels, and the specs behind them.

    Attributes:
        precision_spec: None for the strategy's own.
        key: equal for cells that compute the same.
    """

    model: str
    task: str
    strategy: str
    precision: str
    seed: int
    model_spec: Mapping[str, str]
    task_spec: Mapping[str, Any]
    strategy_spec: Mapping[str, Any]
    precision_spec: Mapping[str, Any] | None
    key: str

    @property
    def labels(self) -> dict[str, Any]:
        """The first columns of its rows."""
        return {name: getattr(self, name) for name in ("model", "task", "strategy", "precision", "seed")}

    def __str__(self) -> str:
        return f"{self.strategy} ({self.precision}) on {self.task}, {self.model}, seed {self.seed}"


class Comparison:
    """What is to be compared. Mappings lead from labels of your choice to specs.

    Args:
        models: names, or mappings of `name`, `kv` and `dtype`.
        tasks: names, class paths, or mappings of `class_path` and `init_args`.
        strategies: likewise.
        precisions: likewise; left out, every strategy has its own.
        seeds: of prompts, strategies and the random control.
        examples: prompts of each split.
        objective: one for the whole comparison.
        ablation: likewise.
        exclude: cells to leave out, as mappings from `models`, `tasks`, ... to a label or several: a cell goes when
            all of one mapping fit it.
        sizes: fractions of the edges at which circuits are evaluated; by default MIB's.
        dtype: of the models that name none.

    Raises:
        UsageError: something named does not exist or does not fit, or no cell is left.
    """

    def __init__(
        self,
        models: dict[str, str | dict[str, Any]],
        tasks: dict[str, str | dict[str, Any]],
        strategies: dict[str, str | dict[str, Any]],
        precisions: dict[str, str | dict[str, Any]] | None = None,
        seeds: list[int] | None = None,
        examples: int = 32,
        objective: str | dict[str, Any] = "logit_difference",
        ablation: str | dict[str, Any] = "resample",
        exclude: list[dict[str, Any]] | None = None,
        sizes: list[float] | None = None,
        dtype: str = "float32",
    ) -> None:
        self.models = {
            label: specs.model_spec({"dtype": dtype} | ({"name": spec} if isinstance(spec, str) else spec))
            for label, spec in models.items()
        }
        for model in self.models.values():
            resolve(model["name"])  # that it is fetched, if it is one to be fetched
        self.tasks = _resolved("tasks", tasks)
        self.strategies = _resolved("strategies", strategies)
        self.precisions = None if precisions is None else _resolved("policies", precisions)
        self.seeds = [0] if seeds is None else list(seeds)
        self.examples = examples
        self.objective = specs.resolved("objectives", objective)
        self.ablation = specs.resolved("ablations", ablation)
        self.exclude = list(exclude or ())
        self.sizes = list(SIZES) if sizes is None else list(sizes)
        for name in _PARTS:
            if name != "precisions" and not getattr(self, name):
                raise UsageError(f"The comparison has no {name}.", f"Give at least one under `{name}:`.")
        self.cells = list(self._cells())
        self._check_exclude()
        self.cells = [cell for cell in self.cells if not any(_fits(cell, rule) for rule in self.exclude)]
        if not self.cells:
            raise UsageError("The comparison has no cells left.", "Exclude less.")

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration."""
        names = (*_PARTS, "examples", "objective", "ablation", "exclude", "sizes")
        return {name: getattr(self, name) for name in names}

    def _cells(self) -> Iterator[Cell]:
        """In the order in which model, prompts and control can be used again."""
        made = {label: specs.make("strategies", spec) for label, spec in self.strategies.items()}
        for kind, found in (("tasks", self.tasks), ("policies", self.precisions or {})):
            for checked in found.values():
                specs.make(kind, checked)  # what its constructor refuses is refused now
        for model, task, seed, strategy in product(self.models, self.tasks, self.seeds, self.strategies):
            own: dict[str, dict[str, Any] | None] = {"": None}
            for label, spec in (self.precisions or own).items():
                used = specs.describe(made[strategy].default_precision()) if spec is None else spec
                parts = (self.models[model], self.tasks[task], self.strategies[strategy])
                yield Cell(
                    model,
                    task,
                    strategy,
                    label or specs.label("policies", used),
                    seed,
                    *parts,
                    precision_spec=spec,
                    key=json.dumps([*parts, used, seed], sort_keys=True),
                )

    def _check_exclude(self) -> None:
        for rule in self.exclude:
            if not rule:
                raise UsageError("A rule under exclude is empty.", "Give such as `{strategies: eap}`.")
            for name, labels in rule.items():
                if name not in _PARTS:
                    raise registry.unknown_name("part of a comparison to exclude", name, list(_PARTS))
                known = list(dict.fromkeys(getattr(cell, _column(name)) for cell in self.cells))
                for label in _listed(labels):
                    if label not in known:
                        raise registry.unknown_name(f"label under {name}", label, list(map(str, known)))


def _resolved(kind: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {label: specs.resolved(kind, spec) for label, spec in found.items()}


def _fits(cell: Cell, rule: Mapping[str, Any]) -> bool:
    return all(getattr(cell, _column(name)) in _listed(labels) for name, labels in rule.items())


def _column(part: str) -> str:
    return {"strategies": "strategy"}.get(part, part.removesuffix("s"))


def _listed(labels: Any) -> list[Any]:
    return list(labels) if isinstance(labels, list | tuple) else [labels]
