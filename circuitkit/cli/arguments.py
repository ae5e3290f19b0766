"""Shared by the commands: parsing of arguments with short names, common options, and the console.

jsonargparse accepts class paths only. So short names, on the command line and in config files, are replaced first.
"""

import json
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from circuitkit.cli import trusted
from circuitkit.config import specs
from circuitkit.config.parse_errors import to_usage_error
from circuitkit.config.trust import trust_registered_only, trusts_registered_only
from circuitkit.errors import UsageError, quote
from circuitkit.storage.text import parse_yaml, read_yaml

KIND_OF = {
    "task": "tasks",
    "strategy": "strategies",
    "precision": "precision",
    "objective": "objectives",
    "ablation": "ablations",
}
"""Registry kind of each option that takes a spec (see `config/specs.py`)."""


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """Let `--dry-run` mean `--dry_run`: replace hyphens in names of options, but not in labels (`--tasks.my-task`)."""
    return [_with_underscores(argument) for argument in arguments]


def _with_underscores(argument: str) -> str:
    found = re.fullmatch(r"--([A-Za-z][\w-]*)(\.[\w.-]+)?(=.*)?", argument, re.DOTALL)
    if found is None:
        return argument
    name, rest, value = found[1].replace("-", "_"), found[2] or "", found[3] or ""
    return f"--{name}{rest.replace('-', '_') if name in KIND_OF else rest}{value}"


def parse(parser: ArgumentParser, arguments: list[str], specs_of: Sequence[str] = ()) -> dict[str, Any]:
    """Parse a command's arguments, after replacing short names by class paths.

    Args:
        parser: the parser with the command's options.
        arguments: the command line after the command.
        specs_of: the options that take a spec, from the keys of `KIND_OF`.

    Raises:
        UsageError: an argument, or a key of a config file, is unknown or does not fit.
    """
    options = [name for name in vars(parser.get_defaults()) if name not in ("config", "print_config")]
    given = _rewrite(arguments, specs_of)
    if trusts_registered_only():
        trusted.check(given, {name: KIND_OF[name] for name in specs_of})
    try:
        found = parser.parse_args(given)
    except ArgumentError as error:
        raise to_usage_error(error, ["config", *options], str(parser.prog)) from error
    values: dict[str, Any] = found.as_dict()
    values.pop("config", None)
    for name, default in vars(parser.get_defaults()).items():
        # jsonargparse takes any value from a config file for an option without one
        if isinstance(default, bool) and not isinstance(values[name], bool):
            raise UsageError(f"{name} is {values[name]!r}.", "Give true or false.")
    return values


def to_config_text(values: Any) -> str:
    """Serialize a config as JSON, which jsonargparse accepts in place of a file name."""
    return json.dumps(values, default=str)


def add_run_options(parser: ArgumentParser, out: str, devices: str) -> None:
    """Add the options of commands that run discoveries; `out` describes the default folder, `devices` that option."""
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, cuda, or auto (cuda if available)")
    parser.add_argument("--devices", type=int, default=1, help=devices)
    parser.add_argument("--out", type=str | None, default=None, help=f"folder for the results; by default {out}")
    parser.add_argument("--overwrite", action="store_true", help="replace results that the folder already holds")


def add_evaluation_options(parser: ArgumentParser, sizes: str) -> None:
    """Add the options that say what is evaluated; `sizes` describes the default sizes, and what no sizes mean."""
    parser.add_argument("--sizes", type=list[float] | None, default=None, help=f"fractions of the edges; {sizes}")
    parser.add_argument(
        "--rankings",
        type=list[str],
        default=["signed", "absolute", "random"],
        help="how edges of these sizes are chosen: signed, absolute, greedy, random",
    )
    parser.add_argument("--splits", type=list[str], default=["train", "test"], help="train, validation, test")


def add_memory_option(parser: ArgumentParser) -> None:
    """Add the option for the memory budget of a run or an evaluation."""
    parser.add_argument(
        "--memory_budget",
        type=int | str | None,
        default=None,
        help="memory for the engine's largest buffers, in bytes or such as 2GB; by default half of the free memory",
    )


class _Console(Console):
    """A console that lets `main` handle a closed pipe, where rich would exit with status 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console() -> Console:
    """Make a console on stdout; if stdout is a file or a pipe, tables may be 140 characters wide."""
    console = _Console(highlight=False, emoji=False)
    return console if console.is_terminal else _Console(highlight=False, emoji=False, width=140)


def say(message: str) -> None:
    """Print a message on stderr, if anybody is there to read it."""
    with suppress(OSError):
        if sys.stderr is not None:
            print(message, file=sys.stderr, flush=True)


def silence_libraries() -> None:
    """Silence the messages of transformers and lightning, which would bury the results."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("lightning.fabric", "lightning.pytorch", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def current_folder_on_path() -> Iterator[None]:
    """Let class paths name files in the current folder; installed packages come first."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def class_paths(arguments: list[str]) -> Iterator[None]:
    """Decide what class paths may name inside a `with`.

    By default also what is in files of the current folder; with `--trusted_only`, registered classes only.
    """
    wanted = trusted.is_wanted(arguments)
    with trust_registered_only(wanted), nullcontext() if wanted else current_folder_on_path():
        yield


def _rewrite(arguments: Sequence[str], specs_of: Sequence[str]) -> list[str]:
    """Replace short names by class paths, and a config file by its rewritten content.

    Arguments of a spec, such as `--strategy.threshold`, come last: jsonargparse has to know the class before.
    """
    result: list[str] = []
    waiting = ""  # the option whose value comes next
    for argument in _arguments_last(_named_help(arguments, specs_of), specs_of):
        option, equals, value = argument.partition("=")
        if waiting:
            result.append(_rewrite_value(waiting, argument, specs_of))
            waiting = ""
        elif (name := option.removeprefix("--").removesuffix(".help")) in ("config", *specs_of) and name != option:
            result.append(f"{option}={_rewrite_value(name, value, specs_of)}" if equals else option)
            waiting = "" if equals else name
        else:
            result.append(_rewrite_argument(argument))
    return result


def _rewrite_argument(text: str) -> str:
    """Replace short names in the value of a spec's argument, such as `--strategy.start '{class_path: eap_ig}'`."""
    option, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
    if value.lstrip()[:1] not in ("{", "[") or "class_path" not in value:
        return text
    found = parse_yaml(f"{{value: {value}}}", "An argument")["value"]
    try:
        return f"{option}{equals}{to_config_text(specs.rewrite_argument('strategies', found))}"
    except UsageError:  # it names something else, such as a logger
        return text


def _named_help(arguments: Sequence[str], specs_of: Sequence[str]) -> list[str]:
    """Let `--strategy acdc --strategy.help` mean `--strategy.help acdc`: alone it has nothing to describe."""
    result = list(arguments)
    pairs = list(pairwise([*arguments, "--"]))
    for name in specs_of:
        values = [after for argument, after in pairs if argument == f"--{name}"]
        values += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"--{name}=")]
        for place, (argument, after) in enumerate(pairs):
            if values and argument == f"--{name}.help" and after.startswith("--"):
                result[place] = f"{argument}={values[-1]}"
    return result


def _arguments_last(arguments: Sequence[str], specs_of: Sequence[str]) -> list[str]:
    first: list[str] = []
    last: list[str] = []
    into = first
    for argument in arguments:
        if argument.startswith("--"):
            name, _, rest = argument.removeprefix("--").partition(".")
            into = last if name in specs_of and rest not in ("", "help") else first
        into.append(argument)
    return first + last


def _refuse_keys(found: Mapping[str, Any]) -> None:
    """Refuse what only the command line may say."""
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name == trusted.NAME and (value is not False or trusts_registered_only()):  # --print_config writes `false`
            raise UsageError(f"{name} stands in a config file.", f"Give it on the command line: --{name}.")
        if name == "config":
            raise UsageError(f"A config file has the key {quote(key)}.", "Give every file with a --config of its own.")


def _rewrite_value(option: str, value: str, specs_of: Sequence[str]) -> str:
    inline = value.lstrip().startswith("{")
    if option == "config":
        found = parse_yaml(value, "--config") if inline else read_yaml(Path(value))
        _refuse_keys(found)
        found.pop("content", None)  # hashes of what a run computed with; another run has its own
        for name in specs_of:
            if found.get(name) is not None:
                found[name] = specs.rewrite(KIND_OF[name], found[name])
        return to_config_text(found)
    if inline:
        return to_config_text(specs.rewrite(KIND_OF[option], parse_yaml(value, f"--{option}")))
    if value == "null" or value.startswith("-"):  # jsonargparse reports an option without a value
        return value
    spec = specs.rewrite(KIND_OF[option], value)
    return to_config_text(spec) if "init_args" in spec else str(spec["class_path"])
