"""Calls in a process of their own, forked from a server that has imported what a run needs: that takes seconds."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def call(function: Callable[..., object], *arguments: Any) -> Ended:
    """Call a function of a module in a process of its own, and wait for its end."""
    way = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(way)
    if way == "forkserver":
        context.set_forkserver_preload(["circuitkit.comparison.executors"])  # as the executor's own server
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder) / name for name in ("stdout", "stderr")]
        process = context.Process(  # type: ignore[attr-defined]
            target=_work, args=(printed, function, arguments)
        )
        process.start()
        process.join()
        return Ended(process.exitcode, *(file.read_text() if file.exists() else "" for file in printed))


def _work(printed: list[Path], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    for stream, file in enumerate(printed, 1):
        target = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(target, stream)
        os.close(target)
    function(*arguments)
