"""Signals are held back, and then delivered."""

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from circuitkit.interrupts import hold_signals


class Terminated(BaseException):
    """What the handler of SIGTERM raises in these tests."""


@pytest.fixture(autouse=True)
def _raise_on_sigterm() -> Iterator[None]:
    def terminate(_: int, __: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_takes_effect_at_the_end(number: signal.Signals, raised: type[BaseException]) -> None:
    """The work goes on to its end; the exception follows, and the handlers are the old ones."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = []

    def work() -> None:
        with hold_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append(True)

    with pytest.raises(raised):
        work()
    assert done
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_the_first_of_two_signals_is_delivered() -> None:
    """Two signals give one exception."""

    def work() -> None:
        with hold_signals():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Terminated):
        work()


def test_nested_sections_deliver_at_the_outermost_end() -> None:
    """The inner section does not interrupt the outer one."""
    done = []

    def work() -> None:
        with hold_signals():
            with hold_signals():
                signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_an_exception_of_the_work_is_kept() -> None:
    """A failure inside is raised, and the handlers are restored."""
    with pytest.raises(ValueError, match="inside"), hold_signals():
        raise ValueError("inside")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_other_threads_do_nothing() -> None:
    """Handlers can be set in the main thread only."""
    handlers = []

    def work() -> None:
        with hold_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
