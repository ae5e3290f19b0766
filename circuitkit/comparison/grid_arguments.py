"""A grid from what a user has at hand: a `Grid`, a YAML file, or a mapping of its arguments."""

import inspect
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from circuitkit.comparison.grid import Grid
from circuitkit.config import registry, specs
from circuitkit.config.parse_errors import to_usage_error
from circuitkit.config.trust import trusts_registered_only
from circuitkit.errors import UsageError, quote
from circuitkit.storage.text import read_yaml


def to_grid(given: Grid | str | Path | Mapping[str, Any]) -> Grid:
    """Make a grid; a mapping is checked as `circuitkit compare --config` checks a file.

    Inside `trust_registered_only` it may name registered classes only, also if it is a grid already.

    Args:
        given: a grid, the path of a YAML file such as a comparison's `config.yaml`, or the arguments of `Grid`.

    Raises:
        UsageError: the file cannot be read, an argument is unknown or missing, or does not fit.
    """
    if isinstance(given, Grid):
        return Grid(**given.to_dict()) if trusts_registered_only() else given
    if isinstance(given, str | Path):
        return _from_arguments(read_yaml(Path(given)), f" in {str(given)!r}")
    if isinstance(given, Mapping):
        return _from_arguments(dict(given), "")
    raise UsageError(f"{quote(given)} is no grid.", "Give a Grid, the path of a YAML file, or a mapping of arguments.")


def _from_arguments(found: dict[str, Any], where: str) -> Grid:
    known = list(inspect.signature(Grid).parameters)
    for name in found:
        if name not in known:
            raise registry.unknown_name(f"argument of a grid{where}", str(name), known)
    if trusts_registered_only():
        specs.check_trusted(found)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Grid)
    try:
        values = parser.parse_object(found).as_dict()
    except ArgumentError as error:
        raise to_usage_error(error, known, "circuitkit compare") from error
    return Grid(**values)
