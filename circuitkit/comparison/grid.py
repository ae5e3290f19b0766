"""The grid of a comparison: models x tasks x objectives x seeds x strategies x precisions, as plain data."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from circuitkit.comparison.rules import AXES, check_rule, fits, names_only_control, singular
from circuitkit.config import registry, specs
from circuitkit.config.checks import check_examples, check_seed
from circuitkit.errors import UsageError, quote
from circuitkit.evaluation.sizes import SIZES, check_sizes
from circuitkit.models.fetch import locate
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.storage.text import to_plain

_PRECISION = "full"
"""The label of the control's precision."""


@dataclass(frozen=True)
class Options:
    """What holds for a whole grid unless an override changes it for some cells.

    Attributes:
        examples: maximum number of prompts per split.
        sizes: fractions of the edges at which circuits are evaluated.
        ablation: a spec.
        time_limit: seconds for one cell; None: no limit.
        memory_budget: as in `Discoverer`; None: half of the free memory.
        faithfulness: the faithfulness at which a strategy should stop; None: its own arguments decide.
    """

    examples: Any
    sizes: Sequence[float]
    ablation: Mapping[str, Any]
    time_limit: float | None = None
    memory_budget: int | str | None = None
    faithfulness: float | None = None


@dataclass(frozen=True)
class Cell:
    """One discovery of a grid: its labels, and the specs that they stand for.

    Attributes:
        precision_spec: None for the strategy's default policy.
        config: what decides the result, as a run's `config.yaml` has it.
        options: those of the grid, with the overrides for this cell.
        is_control: whether the grid added it as the random control.
    """

    model: str
    task: str
    strategy: str
    precision: str
    objective: str
    seed: int
    model_spec: Mapping[str, str]
    precision_spec: Mapping[str, Any] | None
    config: Mapping[str, Any]
    options: Options
    is_control: bool = False

    @property
    def labels(self) -> dict[str, Any]:
        """Return the labels, which are the first columns of the cell's rows."""
        return {singular(axis): getattr(self, singular(axis)) for axis in AXES}

    @cached_property
    def key(self) -> str:
        """Return 8 hexadecimal digits, equal for cells whose results are the same.

        The device is not part of it: on a GPU, circuits and figures differ by rounding only. Times and memory do depend
        on it; a comparison that is resumed on another device says so.
        """
        options = {name: value for name, value in asdict(self.options).items() if name != "time_limit"}
        text = json.dumps(to_plain([self.config, options]), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """Return the labels and the key as the name of a folder."""
        text = "-".join(str(label) for label in self.labels.values())
        return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '_', text)[:100]}-{self.key}"

    def __str__(self) -> str:
        what = self.strategy if self.is_control else f"{self.strategy} ({self.precision})"
        return f"{what} on {self.task}, {self.model}, {self.objective}, seed {self.seed}"


class Grid:
    """The cells of a comparison, built from mappings of labels to specs.

    For each model, task, objective and seed a random control is added (`random_edges` in full precision), unless the
    strategies have a `random_edges`.

    Args:
        models: names, or mappings with `name`, `kv`, `dtype` and `positions`, by label.
        tasks: names, class paths, or mappings with `class_path` and `init_args`, by label.
        strategies: as for `tasks`.
        precision: as for `tasks`; by default every strategy uses its own policy.
        objectives: as for `tasks`; by default each task has its own (`Task.objective`). Where these differ, rules under
            `exclude` say which task has which.
        seeds: seeds of the prompts and the strategies.
        include: rules, each a mapping from some of `models`, `tasks`, `strategies`, `precision`, `objectives` and
            `seeds` to one label or several. Only cells that match every entry of some rule are run; by default all.
        exclude: rules of cells that are not run.
        overrides: mappings of `cells`, a rule, and `set`, the options that differ for these cells: `examples`, `sizes`,
            `ablation`, `time_limit`, `memory_budget`, `faithfulness`, and `strategy_args`, which are added to the
            strategy's arguments. Of two overrides of one option, the later counts.
        examples: maximum number of prompts per split, or three numbers: of train, validation and test.
        sizes: fractions of the edges at which circuits are evaluated; by default MIB's.
        ablation: name, class path or mapping.
        time_limit: seconds for one cell; one that takes longer is ended, and becomes a row that says so.
        memory_budget: of one cell, as in `Discoverer`.
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
        objectives: dict[str, str | dict[str, Any]] | None = None,
        seeds: list[int] | None = None,
        include: list[dict[str, Any]] | None = None,
        exclude: list[dict[str, Any]] | None = None,
        overrides: list[dict[str, Any]] | None = None,
        examples: int | list[int] = 32,
        sizes: list[float] | None = None,
        ablation: str | dict[str, Any] = "resample",
        time_limit: float | None = None,
        memory_budget: int | str | None = None,
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
        # Made here, so that the constructors' errors come before any cell runs
        own = {label: specs.make("tasks", spec).objective for label, spec in self.tasks.items()}
        self.objectives = _resolve_all("objectives", objectives or {name: name for name in own.values()})
        self.seeds = [0] if seeds is None else [check_seed(seed) for seed in seeds]
        if repeated := [seed for number, seed in enumerate(self.seeds) if seed in self.seeds[:number]]:
            raise UsageError(f"The seed {repeated[0]} is given twice.", "Give each seed once.")
        for axis in AXES:
            if axis != "precision" and not getattr(self, axis):
                raise UsageError(f"The comparison has no {axis}.", f"Give at least one under `{axis}:`.")
        given: dict[str, Any] = {"examples": examples, "sizes": SIZES if sizes is None else sizes, "ablation": ablation}
        given |= {"time_limit": time_limit, "memory_budget": memory_budget}
        self.options = Options(**{name: _check_option(name, value) for name, value in given.items()})
        self._default_precision: dict[str, dict[str, Any]] = {}
        self.include, self.exclude, self.overrides = list(include or ()), list(exclude or ()), list(overrides or ())
        if not objectives:
            self.exclude += [rule for rule in _only_own(own) if rule not in self.exclude]
        self._check_rules()
        self.cells = self._chosen(list(self._all_cells()))

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved configuration."""
        names = (*AXES, "include", "exclude", "overrides")
        options = {name: value for name, value in asdict(self.options).items() if name != "faithfulness"}
        return {name: getattr(self, name) for name in names} | options

    def _check_rules(self) -> None:
        """Check all rules and overrides; complete the options that the overrides set."""
        known: dict[str, Sequence[Any]] = {axis: list(getattr(self, axis) or ()) for axis in AXES}
        if self.precision is None:
            known["precision"] = list(dict.fromkeys(map(self._own_label, self.strategies.values())))
        if not self._has_random:
            known["strategies"] = [*known["strategies"], CONTROL]
        for where in ("include", "exclude"):
            for rule in getattr(self, where):
                check_rule(rule, where, known)
        self.overrides = [_check_override(override, known) for override in self.overrides]

    @property
    def _has_random(self) -> bool:
        random = registry.class_path("strategies", "random_edges")
        return any(spec["class_path"] == random for spec in self.strategies.values())

    def _chosen(self, cells: list[Cell]) -> list[Cell]:
        """Return the cells to run; a control only where another cell is left to compare with it."""
        kept = [cell for cell in cells if not any(fits(cell, rule) for rule in self.exclude)]
        if self.include:
            kept = [cell for cell in kept if cell.is_control or any(fits(cell, rule) for rule in self.include)]
        groups = {_group(cell) for cell in kept if not cell.is_control}
        kept = [cell for cell in kept if _group(cell) in groups]
        if not kept:
            raise UsageError("The comparison has no cells left.", "Exclude fewer cells, or include more.")
        return kept

    def _all_cells(self) -> Iterator[Cell]:
        """Yield the cells, those that share model and prompts next to each other, their control last."""
        control = {} if self._has_random else {CONTROL: specs.resolve("strategies", "random_edges")}
        _make_all("objectives", self.objectives)
        _make_all("precision", self.precision or {})
        for place in product(self.models, self.tasks, self.objectives, self.seeds):
            for label, spec in self.strategies.items():
                own: dict[str, dict[str, Any] | None] = {self._own_label(spec): None}
                for precision, precision_spec in (self.precision or own).items():
                    yield self._cell(place, label, spec, precision, precision_spec)
            for label, spec in control.items():
                yield self._cell(place, label, spec, _PRECISION, None, is_control=True)

    def _cell(
        self,
        place: tuple[str, str, str, int],
        strategy: str,
        strategy_spec: dict[str, Any],
        precision: str,
        precision_spec: dict[str, Any] | None,
        is_control: bool = False,
    ) -> Cell:
        model, task, objective, seed = place
        cell = Cell(
            model,
            task,
            strategy,
            precision,
            objective,
            seed,
            model_spec=self.models[model],
            precision_spec=precision_spec,
            config={},
            options=self.options,
            is_control=is_control,
        )
        for override in self.overrides:
            if fits(cell, override["cells"]):
                changed = dict(override["set"])
                arguments = changed.pop("strategy_args", None)
                if arguments and not is_control:
                    strategy_spec = _add_arguments(strategy_spec, arguments)
                cell = replace(cell, options=replace(cell.options, **changed))
        named = self.models[model]
        config = {
            **specs.describe_model(named),
            "task": self.tasks[task],
            "strategy": strategy_spec,
            "precision": precision_spec or self._own_precision(strategy_spec),
            "objective": self.objectives[objective],
            "ablation": cell.options.ablation,
            "examples": cell.options.examples,
            "seed": seed,
        }
        return replace(cell, config=config)

    def _own_precision(self, strategy: dict[str, Any]) -> dict[str, Any]:
        """Return the spec of a strategy's default policy; makes the strategy, which checks its arguments."""
        key = json.dumps(strategy, sort_keys=True)
        if key not in self._default_precision:
            self._default_precision[key] = specs.describe(specs.make("strategies", strategy).default_precision())
        return self._default_precision[key]

    def _own_label(self, strategy: dict[str, Any]) -> str:
        return specs.label("precision", self._own_precision(strategy))


def _only_own(objectives: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the rules that exclude other tasks from each objective, given each task's own."""
    for objective in dict.fromkeys(objectives.values()):
        if others := [task for task, own in objectives.items() if own != objective]:
            yield {"tasks": others, "objectives": objective}


def _resolve_all(kind: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {label: specs.resolve(kind, spec) for label, spec in found.items()}


def _make_all(kind: str, found: Mapping[str, dict[str, Any]]) -> None:
    for spec in found.values():
        specs.make(kind, spec)


def _add_arguments(strategy: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**strategy.get("init_args", {}), **arguments}
    return specs.resolve("strategies", {"class_path": strategy["class_path"], "init_args": merged})


def _check_override(override: Any, known: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    if not isinstance(override, Mapping) or set(override) != {"cells", "set"}:
        raise UsageError(f"The override {quote(override)} has not the keys `cells` and `set`.", _OVERRIDE)
    check_rule(override["cells"], "overrides", known)
    changed = override["set"]
    if not isinstance(changed, Mapping) or not changed:
        raise UsageError(f"The override sets {quote(changed)}.", _OVERRIDE)
    names = [*Options.__annotations__, "strategy_args"]
    for name in changed:
        if name not in names:
            raise registry.unknown_name("option to override", name, names)
    if "strategy_args" in changed and names_only_control(override["cells"]):
        raise UsageError(f"An override sets strategy_args of the {CONTROL}, which has none.", "Remove this override.")
    return {"cells": override["cells"], "set": {name: _check_option(name, value) for name, value in changed.items()}}


_OVERRIDE = "Give one such as `{cells: {models: large}, set: {examples: 16}}`."


def _check_option(name: str, value: Any) -> Any:
    """Return the value of an option, completed.

    Raises:
        UsageError: it does not fit.
    """
    if name == "examples":
        return check_examples(value).plain
    if name == "sizes":
        return check_sizes(value)
    if name == "ablation":
        found = specs.resolve("ablations", value)
        specs.make("ablations", found)
        return found
    if name == "memory_budget" and value is not None:
        from circuitkit.run.resources import parse_size

        parse_size(value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
    if name in ("time_limit", "faithfulness") and value is not None and not number:
        raise UsageError(f"{name}={value!r} is out of range.", "Give a number above 0.")
    if name == "strategy_args" and not isinstance(value, Mapping):
        raise UsageError(f"The strategy_args are {quote(value)}.", "Give `argument: value` pairs.")
    return value


def _group(cell: Cell) -> tuple[Any, ...]:
    return cell.model, cell.task, cell.objective, cell.seed
