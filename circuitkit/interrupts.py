"""Sections of work that signals must not interrupt, such as the restoration of a model's weights."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

_HELD = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold SIGINT (Ctrl-C) and SIGTERM back inside a `with`; the first that arrived takes effect at the end.

    May be nested; the outermost one delivers. Python runs signal handlers in the main thread only, so that this does
    nothing in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def hold(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    with ExitStack() as stack:
        stack.callback(_deliver, arrived)
        for number in _HELD:
            handler = signal.getsignal(number)
            if handler is not None:  # None: not set from Python, and could not be set again
                stack.callback(signal.signal, number, handler)
                signal.signal(number, hold)
        yield


def _deliver(arrived: list[int]) -> None:
    if arrived:
        signal.raise_signal(arrived[0])
