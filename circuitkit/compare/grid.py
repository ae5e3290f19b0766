"""The grid of a comparison: models x tasks x seeds x strategies x precisions, as plain data."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from circuitkit.config import registry, specs
from circuitkit.config.checks import check_examples, check_seed
from circuitkit.errors import UsageError
from circuitkit.evaluation.sizes import SIZES, check_sizes
from circuitkit.models.fetch import locate

_PARTS = ("models", "tasks", "strategies", "precision", "seeds")


@dataclass(frozen=True)
class Cell:
    """One discovery of a grid: its labels, and the specs that they stand for.

    Attributes:
        precision_spec: None for the strategy's default policy.
        key: equal for cells with the same specs and seed, whose results are the same.
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
        """Return the labels, which are the first columns of the cell's rows."""
        return {name: getattr(self, name) for name in ("model", "task", "strategy", "precision", "seed")}

    def __str__(self) -> str:
        return f"{self.strategy} ({self.precision}) on {self.task}, {self.model}, seed {self.seed}"


class Grid:
    """The cells of a comparison, built from mappings of labels to specs.

    Args:
        models: names, or mappings with `name`, `kv` and `dtype`, by label.
        tasks: names, class paths, or mappings with `class_path` and `init_args`, by label.
        strategies: as for `tasks`.
        precision: as for `tasks`; by default every strategy uses its own policy.
        seeds: seeds of the prompts, the strategies and the random control.
        examples: maximum number of prompts per split.
        objective: name, class path or mapping; the same for all cells.
        ablation: name, class path or mapping; the same for all cells.
        exclude: rules, each a mapping from some of `models`, `tasks`, `strategies`, `precision` and `seeds` to one
            label or several. A cell is left out if it matches every entry of a rule.
        sizes: fractions of the edges at which circuits are evaluated; by default MIB's.
        dtype: dtype of the models whose spec has none.

    Raises:
        UsageError: a name does not exist, an argument does not fit, or no cell is left.
    """

    def __init__(
        self,
        models: dict[str, str | dict[str, Any]],
        tasks: dict[str, str | dict[str, Any]],
        strategies: dict[str, str | dict[str, Any]],
        precision: dict[str, str | dict[str, Any]] | None = None,
        seeds: list[int] | None = None,
        examples: int = 32,
        objective: str | dict[str, Any] = "logit_difference",
        ablation: str | dict[str, Any] = "resample",
        exclude: list[dict[str, Any]] | None = None,
        sizes: list[float] | None = None,
        dtype: str = "float32",
    ) -> None:
        from circuitkit.models.loading import parse_dtype  # here, since it imports torch, which `--help` does without

        self.models = {label: specs.model_spec(spec, dtype=dtype) for label, spec in models.items()}
        for model in self.models.values():
            locate(model["name"])  # refuses a model that is not fetched yet
            parse_dtype(model["dtype"])
        self.tasks = _resolve_all("tasks", tasks)
        self.strategies = _resolve_all("strategies", strategies)
        self.precision = None if precision is None else _resolve_all("precision", precision)
        self.seeds = [0] if seeds is None else [check_seed(seed) for seed in seeds]
        self.examples = check_examples(examples).plain
        self.objective = specs.resolve("objectives", objective)
        self.ablation = specs.resolve("ablations", ablation)
        self.exclude = list(exclude or ())
        self.sizes = check_sizes(SIZES if sizes is None else sizes)
        for name in _PARTS:
            if name != "precision" and not getattr(self, name):
                raise UsageError(f"The comparison has no {name}.", f"Give at least one under `{name}:`.")
        self.cells = list(self._cells())
        self._check_exclude()
        self.cells = [cell for cell in self.cells if not any(_fits(cell, rule) for rule in self.exclude)]
        if not self.cells:
            raise UsageError("The comparison has no cells left.", "Exclude fewer cells.")

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration."""
        names = (*_PARTS, "examples", "objective", "ablation", "exclude", "sizes")
        return {name: getattr(self, name) for name in names}

    def _cells(self) -> Iterator[Cell]:
        """Yield the cells, those that share model, prompts and random control next to each other."""
        made = {label: specs.make("strategies", spec) for label, spec in self.strategies.items()}
        for kind, found in (("tasks", self.tasks), ("precision", self.precision or {})):
            for checked in found.values():
                specs.make(kind, checked)  # raises the constructor's errors before any cell runs
        for model, task, seed, strategy in product(self.models, self.tasks, self.seeds, self.strategies):
            own: dict[str, dict[str, Any] | None] = {"": None}
            for label, spec in (self.precision or own).items():
                used = specs.describe(made[strategy].default_precision()) if spec is None else spec
                parts = (self.models[model], self.tasks[task], self.strategies[strategy])
                yield Cell(
                    model,
                    task,
                    strategy,
                    label or specs.label("precision", used),
                    seed,
                    *parts,
                    precision_spec=spec,
                    key=json.dumps([*parts, used, seed], sort_keys=True),
                )

    def _check_exclude(self) -> None:
        for rule in self.exclude:
            if not isinstance(rule, Mapping):
                raise UsageError(f"The rule {rule!r} under exclude is not a mapping.", "Give {strategies: eap}, say.")
            if not rule:
                raise UsageError("A rule under exclude is empty.", "Give one such as `{strategies: eap}`.")
            for name, labels in rule.items():
                if name not in _PARTS:
                    raise registry.unknown_name("exclude key", name, list(_PARTS))
                known = list(dict.fromkeys(getattr(cell, _column(name)) for cell in self.cells))
                for label in _as_list(labels):
                    if label not in known:
                        raise registry.unknown_name(f"label under {name}", label, list(map(str, known)))


def _resolve_all(kind: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {label: specs.resolve(kind, spec) for label, spec in found.items()}


def _fits(cell: Cell, rule: Mapping[str, Any]) -> bool:
    return all(getattr(cell, _column(name)) in _as_list(labels) for name, labels in rule.items())


def _column(part: str) -> str:
    return {"strategies": "strategy"}.get(part, part.removesuffix("s"))


def _as_list(labels: Any) -> list[Any]:
    return list(labels) if isinstance(labels, list | tuple) else [labels]
