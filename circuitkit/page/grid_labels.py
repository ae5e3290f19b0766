"""The labels of a comparison's cells, from its `config.yaml`, without importing the classes that the file names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from circuitkit.comparison.rules import fits
from circuitkit.report.comparison_tables import CONTROL

LABELS = ("model", "task", "strategy", "precision", "objective", "seed")
RANDOM = ".RandomEdges"
"""The end of the class path of the strategy that chooses at random."""
_UNKNOWN = "its own"
"""The label of a strategy's own precision, which only its class knows."""


@dataclass(frozen=True)
class _Labelled:
    labels: dict[str, Any]
    is_control: bool = False


def list_labels(config: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the labels of all cells, in the order of the grid.

    Args:
        config: the resolved grid. It may come from anyone: nothing that it names is imported.
        known: labels of cells that have rows, which also tell the precision of a strategy that uses its own.

    Raises:
        ValueError: it is not a grid.
    """
    try:
        own = {row["strategy"]: row["precision"] for row in known}
        cells = [cell for cell in _all(config, own) if not any(fits(cell, rule) for rule in config["exclude"])]
        if include := config["include"]:
            cells = [cell for cell in cells if cell.is_control or any(fits(cell, rule) for rule in include)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not a grid ({error!r})") from error
    groups = {_group(cell) for cell in cells if not cell.is_control}
    listed = [cell.labels for cell in cells if _group(cell) in groups]
    there = {tuple(labels.values()) for labels in listed}
    return listed + [dict(row) for row in known if tuple(row.values()) not in there]


def list_controls(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the labels of the strategies that choose edges at random."""
    strategies = config["strategies"].items()
    return frozenset(str(label) for label, spec in strategies if str(spec["class_path"]).endswith(RANDOM))


def _all(config: Mapping[str, Any], own: Mapping[str, str]) -> Iterator[_Labelled]:
    strategies, has_random = list(map(str, config["strategies"])), bool(list_controls(config))
    for model, task, objective, seed in product(*(config[axis] for axis in ("models", "tasks", "objectives", "seeds"))):
        place = {"model": str(model), "task": str(task), "objective": str(objective), "seed": int(seed)}
        for strategy in strategies:
            for precision in config["precision"] or [own.get(strategy, _UNKNOWN)]:
                yield _make(place, strategy, str(precision))
        if not has_random:
            yield _make(place, CONTROL, "full", is_control=True)


def _make(place: Mapping[str, Any], strategy: str, precision: str, is_control: bool = False) -> _Labelled:
    found = {**place, "strategy": strategy, "precision": precision}
    return _Labelled({name: found[name] for name in LABELS}, is_control)


def _group(cell: _Labelled) -> tuple[Any, ...]:
    return tuple(cell.labels[name] for name in ("model", "task", "objective", "seed"))
