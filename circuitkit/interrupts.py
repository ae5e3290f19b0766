"""Sections of work that signals must not interrupt, or in which threads take turns."""

import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TypeVar

_TURN = threading.RLock()
_HELD = (signal.SIGTERM, signal.SIGINT)
_T = TypeVar("_T")


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold SIGINT (Ctrl-C) and SIGTERM back inside a `with`; the first that arrived takes effect at the end.

    May be nested; the outermost one delivers. Python runs signal handlers in the main thread only, so that this does
    nothing in others.
    """
    with _hold(None):
        yield


def run_then(work: Callable[[], _T], clean_up: Callable[[bool], None]) -> _T:
    """Run `work`, then `clean_up`, which no signal can interrupt or prevent.

    While `work` runs, SIGINT and SIGTERM do what they do without this function, such as raising `KeyboardInterrupt`.
    From the moment it ends, also in the statements between it and `clean_up`, they are held back; the first takes
    effect after `clean_up`. A `try` with `finally` does not promise that: a signal can arrive in the `finally` too.

    Args:
        work: what to run.
        clean_up: gets whether `work` returned; False if it raised an exception.

    Returns:
        What `work` returns.
    """
    frame = inspect.currentframe()

    def window() -> _T:
        return work()

    def in_work(current: FrameType | None) -> bool:
        """Tell whether a frame is one of `work`, by the frame that this function called on the way to it."""
        called = None
        while current is not None and current is not frame:
            called, current = current, current.f_back
        return called is not None and called.f_code is window.__code__

    try:
        with _hold(in_work):
            try:
                result = window()
            except BaseException:
                clean_up(False)
                raise
            clean_up(True)
            return result
    finally:
        frame = None  # which refers to itself here


@contextmanager
def _hold(passes: Callable[[FrameType | None], bool] | None) -> Iterator[None]:
    """Hold signals back, except where `passes` is true of the interrupted frame.

    With `passes`, a signal whose handler is the system's own is left alone: it ends the process, or is ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def install(stack: ExitStack, number: int) -> None:
        before = signal.getsignal(number)
        if before is None or (passes is not None and not callable(before)):
            return  # None: not set from Python, and could not be set again

        def hold(number: int, frame: FrameType | None) -> None:
            if passes is not None and callable(before) and passes(frame):
                before(number, frame)
            else:
                arrived.append(number)

        stack.callback(signal.signal, number, before)
        signal.signal(number, hold)

    with ExitStack() as stack:
        stack.callback(_deliver, arrived)
        for number in _HELD:
            install(stack, number)
        yield


def _deliver(arrived: list[int]) -> None:
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def taking_turns() -> Iterator[None]:
    """Let one thread at a time into a `with`, or into a function that this decorates; one thread may nest them.

    Runs and evaluations share the global random generators, and perhaps a model whose weights a policy has replaced.
    """
    with _TURN:
        yield


class TerminationError(KeyboardInterrupt):
    """SIGTERM has arrived: like a Ctrl-C, it ends a command after cleaning up."""
