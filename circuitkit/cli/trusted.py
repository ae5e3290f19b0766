"""The option `--trusted_only`: class paths, wherever they are written, name registered classes or are refused.

The check comes before jsonargparse, which imports what a class path names while it parses. So the option is read from
the command line itself, and a config file cannot set it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from circuitkit.config import specs
from circuitkit.errors import UsageError, quote
from circuitkit.storage.shapes import check_plain

NAME = "trusted_only"


def add_option(parser: ArgumentParser) -> None:
    """Add the option of the commands that may import any class."""
    parser.add_argument(
        f"--{NAME}",
        action="store_true",
        help="import no class but those that installed packages register, whatever a config names, and nothing from "
        "the current folder",
    )


def is_wanted(arguments: list[str]) -> bool:
    """Tell whether a command line has the option."""
    return f"--{NAME}" in arguments


def check(arguments: Sequence[str], kinds: Mapping[str, str]) -> None:
    """Check a command line before it is parsed.

    Args:
        arguments: with short names and config files replaced by what they stand for.
        kinds: the registry kind of each option that takes a spec.

    Raises:
        UsageError: it names, or could name, a class that is not registered.
    """
    known: dict[str, Any] = {"ablation": "resample"}  # the spec of each option so far
    option = ""
    for argument in arguments:
        text = argument
        if argument.startswith("--"):
            option, equals, text = argument.removeprefix("--").partition("=")
            if not equals:
                continue
        value = _parse(text)
        specs.check_trusted(value)
        name, point, rest = option.partition(".")
        if option == "config":
            _check_config(value)
            known |= {name: value[name] for name in kinds if name in value}
        elif point:
            _check_argument(kinds.get(name, ""), known.get(name), rest, value)
        elif name in kinds:
            known[name] = value


def _check_config(found: Mapping[str, Any]) -> None:
    for key in map(str, found):
        if "." in key:  # jsonargparse takes `a.b` as `b` of `a`
            raise UsageError(f"The key {quote(key)} could name code to import.", "Nest it: `key: {key: value}`.")


def _check_argument(kind: str, spec: Any, argument: str, value: Any) -> None:
    """Check an option such as `--strategy.threshold 0.1`, with the spec of its object as it stands."""
    name = argument.removeprefix("init_args.")
    if not spec or name == "class_path" or not name.isidentifier():
        raise UsageError(f"The option for {quote(argument)} could name code to import.", "Give it in a config file.")
    path = spec["class_path"] if isinstance(spec, Mapping) else spec
    specs.restrict(kind, {"class_path": path, "init_args": {name: value}})


def _parse(text: str) -> Any:
    """Parse a value as jsonargparse does."""
    try:
        found = yaml.safe_load(text)
        check_plain(found)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"The value {quote(text)} cannot be read.", "Give it in a config file.") from error
    return found
