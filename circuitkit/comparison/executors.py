"""Executors: how and where the cells of a comparison run.

An executor starts jobs and tells what becomes of them; the comparison's loop is the same for all.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from circuitkit.comparison.job import Failure, Job, run_job
from circuitkit.errors import UsageError
from circuitkit.interrupts import TerminationError, hold_signals

_in_cell = False
"""Whether this is the process of a cell."""

GRACE = 10.0
"""Seconds that a process has to end after SIGTERM, before it gets SIGKILL."""


@dataclass(frozen=True)
class Progressed:
    """A job has come to `done` of `total` units."""

    key: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True)
class Noted:
    """A job tells something before its search, such as that the model hardly does the task."""

    key: str
    note: str


@dataclass(frozen=True)
class Ended:
    """A job has ended; with `failure` None its result is in its folder."""

    key: str
    failure: Failure | None


Event = Progressed | Noted | Ended


class Executor(ABC):
    """Runs jobs, which it knows by the key of their cell.

    Attributes:
        slots: how many jobs may run at once.
    """

    slots: int

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start a job."""

    @abstractmethod
    def events(self, timeout: float) -> list[Event]:
        """Return what has happened; wait for up to `timeout` seconds if nothing has."""

    @abstractmethod
    def stop(self) -> list[Ended]:
        """End the running jobs, which save their state, and return those that have finished meanwhile."""

    def close(self) -> None:
        """Give back what the executor holds; nothing by default."""


@contextmanager
def _safe_path() -> Iterator[None]:
    """Start Python without the current folder on its path: a process gets the path of this one, and no other.

    Otherwise a file `multiprocessing.py` there would be imported before Python's own.
    """
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _without_script() -> Iterator[None]:
    """Start a process that does not run this one's script again: a job needs nothing from it.

    So `compare` works in a script without `if __name__ == "__main__":`. Only a script whose own classes are in the
    grid needs that line, since cells import it (`refuse_in_cell`).
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main)["__spec__"] = None
    vars(main).pop("__file__", None)
    try:
        yield
    finally:
        vars(main).update(hidden)


def refuse_in_cell() -> None:
    """Refuse a comparison inside a cell's process: its cells would start another, without end.

    Raises:
        UsageError: this is such a process.
    """
    if _in_cell:
        raise UsageError(
            "A cell imports a script that runs `compare`.",
            'Put that call below `if __name__ == "__main__":`, or the classes of the grid into a file of their own.',
        )


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    connection: Connection
    deadline: float
    stopped: Failure | None = None
    messages: list[tuple[Any, ...]] = field(default_factory=list)


class ProcessExecutor(Executor):
    """A process per cell, forked from a server that has imported everything where the system can.

    Args:
        slots: how many processes at once.
        preload: modules for the server to import, besides those that every cell needs.
    """

    def __init__(self, slots: int, preload: Iterable[str] = ()) -> None:
        self.slots = slots
        self._running: dict[str, _Running] = {}
        way = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context: BaseContext = multiprocessing.get_context(way)
        if way == "forkserver":  # without effect if this process has a server already
            self._context.set_forkserver_preload([__name__, *preload])

    def start(self, job: Job) -> None:
        """Start a process for a job."""
        with hold_signals():
            reader, writer = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_work, args=(job, writer))  # type: ignore[attr-defined]
            with _safe_path(), _without_script():
                process.start()
            writer.close()
            limit = job.cell.options.time_limit
            deadline = float("inf") if limit is None else time.monotonic() + limit
            self._running[job.cell.key] = _Running(job, process, reader, deadline)

    def events(self, timeout: float) -> list[Event]:
        """Read the messages of the processes, note which have ended, and end those whose time is up."""
        due = min((running.deadline for running in self._running.values()), default=float("inf"))
        timeout = max(0.0, min(timeout, due - time.monotonic()))
        wait([thing for one in self._running.values() for thing in (one.connection, one.process.sentinel)], timeout)
        found: list[Event] = []
        for key, running in list(self._running.items()):
            exited = running.process.exitcode is not None  # then everything that it has sent is there to read
            for done, total, unit in _read(running)[-1:]:
                found.append(Progressed(key, done, total, unit))
            found += [Noted(key, message[1]) for message in running.messages if message[0] == "note"]
            running.messages = [message for message in running.messages if message[0] != "note"]
            if exited:
                found.append(self._collect(key))
            elif time.monotonic() >= running.deadline:
                self._end(running)
            elif any(message[0] == "ended" for message in running.messages):  # a thread may keep it alive
                running.deadline = min(running.deadline, time.monotonic() + GRACE)
        return found

    def stop(self) -> list[Ended]:
        """Send SIGTERM to all processes, and SIGKILL to those that do not end."""
        for running in self._running.values():
            running.process.terminate()
        until = time.monotonic() + GRACE
        found = []
        for key, running in list(self._running.items()):
            running.process.join(max(0.0, until - time.monotonic()))
            if running.process.exitcode is None:
                running.process.kill()
                running.process.join()
            found.append(self._collect(key))
        return [event for event in found if event.failure is None]

    def _end(self, running: _Running) -> None:
        """End a process whose time is up: with SIGTERM first, the second time with SIGKILL."""
        if running.stopped is not None:
            running.process.kill()
        else:
            running.process.terminate()
            limit = running.job.cell.options.time_limit
            running.stopped = Failure(f"It was stopped after its time limit of {limit:g} s.")
        running.deadline = time.monotonic() + GRACE

    def _collect(self, key: str) -> Ended:
        """Tell how a process has ended."""
        running = self._running.pop(key)
        _read(running)
        running.process.join()
        code = running.process.exitcode
        running.connection.close()
        running.process.close()
        if ended := [message for message in running.messages if message[0] == "ended"]:
            return Ended(key, ended[0][1])
        if running.stopped is not None:
            return Ended(key, running.stopped)
        return Ended(key, _describe_crash(code or 0, started=bool(running.messages)))


def _read(running: _Running) -> list[tuple[int, int, str]]:
    """Read the messages of a process; return those about progress."""
    progress = []
    try:
        while running.connection.poll():
            message = running.connection.recv()
            if message[0] == "progress":
                progress.append(message[1:])
            else:
                running.messages.append(message)
    except (EOFError, OSError):  # it has ended
        pass
    return progress


def _describe_crash(code: int, started: bool) -> Failure:
    """Describe the end of a process that has not said why it ended."""
    if code == -signal.SIGKILL:
        reason = "Its process was killed (SIGKILL): the system probably ran out of memory."
    elif code < 0:
        reason = f"Its process was ended by the signal {signal.Signals(-code).name} (see errors.log)."
    elif not started:
        reason = f"Its process ended with status {code} before it began (see errors.log)."
    else:
        reason = f"Its process ended with status {code} (see errors.log)."
    return Failure(reason, crashed=True)


def _work(job: Job, connection: Connection) -> None:
    """Run a job: the work of one process."""
    global _in_cell
    _in_cell = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes; the parent passes it on as SIGTERM
    signal.signal(signal.SIGTERM, _terminate)
    _print_to(job.output)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send(("started",))
    try:
        failure = run_job(job, lambda *message: connection.send(message))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
    connection.send(("ended", failure))


def _terminate(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise TerminationError


def _print_to(file: Path) -> None:
    """Let everything that this process prints go into a file, also what native code says when it crashes."""
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)
    faulthandler.enable(2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
