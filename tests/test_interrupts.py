"""Signals are held back, and then delivered."""

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from circuitkit import interrupts
from circuitkit.interrupts import hold_signals, run_then


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


def interrupted_at(step: int, work: Callable[[], object]) -> tuple[bool, BaseException | None]:
    """Run `work` with a Ctrl-C at its n-th instruction in this file or in `interrupts`.

    Returns:
        Whether it has that many instructions; what it raised.
    """
    counted = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        nonlocal counted
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code.co_filename in (interrupts.__file__, __file__):
            counted += 1
            if counted == step:
                signal.raise_signal(signal.SIGINT)
        return trace

    raised = None
    sys.settrace(trace)
    try:
        work()
    except BaseException as error:
        raised = error
    finally:
        sys.settrace(None)
    return counted >= step, raised


@pytest.mark.parametrize("fails", [False, True])
def test_wherever_a_signal_arrives_started_work_is_cleaned_up(fails: bool) -> None:
    """At every instruction: before, in, between and after work and clean-up."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    events: list[str] = []

    def work() -> None:
        events.append("started")
        if fails:
            raise ValueError

    def clean_up(returned: bool) -> None:
        for _ in range(3):
            events.append("cleaning")
        events.append("clean")

    reached, step, times = True, 0, Counter[str]()
    while reached:
        step, events[:] = step + 1, []
        reached, raised = interrupted_at(step, lambda: run_then(work, clean_up))
        cleaned = ["cleaning", "cleaning", "cleaning", "clean"]
        assert events in ([], cleaned, ["started", *cleaned])
        assert isinstance(raised, KeyboardInterrupt) or not reached
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        times["".join(events[:1])] += 1
    assert times["started"] > 50
    assert times[""] > 10  # before `run_then` has begun


def test_signals_interrupt_work_again_and_again() -> None:
    """Also after one that the work has caught."""
    caught = []

    def work() -> str:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            caught.append(True)
        return "result"

    returned: list[bool] = []
    assert run_then(work, returned.append) == "result"
    assert (len(caught), returned) == (2, [True])


def test_work_inside_clean_up_is_not_interrupted() -> None:
    """The inner call delivers the signal to the outer one, which holds it."""
    done = []

    def clean_up(_: bool) -> None:
        run_then(lambda: signal.raise_signal(signal.SIGINT), done.append)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_then(lambda: None, clean_up)
    assert done == [True, True]


def test_work_inside_work_is_interrupted() -> None:
    """And both are cleaned up."""
    cleaned: list[bool] = []

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_then(lambda: run_then(interrupt, cleaned.append), cleaned.append)
    assert cleaned == [False, False]
