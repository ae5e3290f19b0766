"""What every strategy must do when it is interrupted, resumed, and used again."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from circuitkit.circuit.circuit import Circuit
from circuitkit.contracts.model_state import ModelState
from circuitkit.contracts.outcome import refuse
from circuitkit.contracts.strategies import StrategyCase, check_equal
from circuitkit.run.callbacks import Callback
from circuitkit.strategies import discovery
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery


class Interruption(KeyboardInterrupt):
    """An interruption as by Ctrl-C, which the check can tell from one by the user."""


class Resumptions(NamedTuple):
    """What interrupted and resumed runs did.

    Attributes:
        reports: by the report of the interruption, how many the whole run had, and how many the resumed one.
        saves: how often the whole run saved its state.
    """

    reports: dict[int, tuple[int, int]]
    saves: int


@dataclass
class Interrupting(Callback):
    """Counts reports of progress and saved states, and interrupts after one of them, as Ctrl-C would.

    Attributes:
        at: the report to interrupt at; 0: before the first; None: at none.
        after_saves: the number of saved states to interrupt after, when the next one begins or the search ends.
        seen: how many reports there were.
        saves: how many states were saved.
        resumed: whether the run found a saved state.
    """

    at: int | None = None
    after_saves: int | None = None
    seen: int = field(default=0, init=False)
    saves: int = field(default=0, init=False)
    resumed: bool = field(default=False, init=False)

    def on_discovery_start(self, run: Discovery) -> None:
        """See the class."""
        if self.at == 0:
            raise Interruption

    def on_load_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """See the class."""
        self.resumed = True

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """See the class."""
        self.seen += 1
        if self.seen == self.at:
            raise Interruption

    def on_save_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """See the class."""
        if self.saves == self.after_saves:
            raise Interruption
        self.saves += 1

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """See the class."""
        if self.saves == self.after_saves:
            raise Interruption


@contextmanager
def save_always() -> Iterator[None]:
    """Let strategies save their state whenever they offer it, and not once a second."""
    before = discovery.SECONDS_BETWEEN_CHECKPOINTS
    discovery.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    try:
        yield
    finally:
        discovery.SECONDS_BETWEEN_CHECKPOINTS = before


def check_resuming(case: StrategyCase, in_the_middle_alone: bool = False) -> Resumptions:
    """Check that a run that is interrupted and resumed ends with the same circuit as one that is not, bit for bit.

    It is interrupted before its first report of progress, and at the first, a middle and the last. If none of these
    resumes from a saved state, although the strategy saves some, it is interrupted after the first, a middle and the
    last of these too.

    Args:
        case: the case.
        in_the_middle_alone: interrupt at a middle report, and after a middle state, and nowhere else.

    Raises:
        ContractError: the circuit is another, or an interrupted run leaves a result, or the model changed.
    """
    undisturbed, state = Interrupting(), ModelState(case.model)
    with tempfile.TemporaryDirectory() as parent, save_always():  # which saves only with a folder
        whole = case.run(out=Path(parent) / "run", callbacks=[undisturbed]).circuit
    count, saves = undisturbed.seen, undisturbed.saves
    found = Resumptions({}, saves)
    resumed = False
    for at in _places(count, 0, in_the_middle_alone):
        counter = _resume(case, whole, Interrupting(at), f"at report {at} of {count}")
        found.reports[at] = (count, counter.seen)
        resumed |= counter.resumed
    if saves and (in_the_middle_alone or not resumed):
        for at in _places(saves, 1, in_the_middle_alone):
            _resume(case, whole, Interrupting(after_saves=at), f"after state {at} of {saves} was saved,")
    state.check()
    return found


def _places(count: int, least: int, in_the_middle_alone: bool) -> list[int]:
    """Return where to interrupt, of the numbers from `least` to `count`."""
    middle = (count + 1) // 2
    return [middle] if in_the_middle_alone else sorted({least, min(1, count), middle, count})


def _resume(case: StrategyCase, whole: Circuit, interrupting: Interrupting, when: str) -> Interrupting:
    """Interrupt a run, resume it, and compare; return what the resumed run did."""
    state, counter = ModelState(case.model), Interrupting()
    with tempfile.TemporaryDirectory() as parent, save_always():
        folder = Path(parent) / "run"
        _interrupt(case, interrupting, folder)
        if (folder / "result.json").exists():
            refuse("An interrupted run has a result.", "Let KeyboardInterrupt pass: catch no BaseException.")
        state.check()
        resumed = case.run(out=folder, resume=True, callbacks=[counter]).circuit
    what = f"A run that was interrupted {when} and resumed, and one that was not,"
    remedy = "Save all that the rest depends on with `run.checkpoint`, and continue from `run.resumed`."
    check_equal(whole, resumed, what, remedy)
    return counter


def _interrupt(
    case: StrategyCase, interrupting: Interrupting, folder: Path, strategy: DiscoveryStrategy | None = None
) -> None:
    try:
        case.run(strategy, out=folder, callbacks=[interrupting])
    except Interruption:  # and no other KeyboardInterrupt, which is the user's
        return
    refuse("KeyboardInterrupt does not end it.", "Let it pass: catch no BaseException.")


def check_forgetting(case: StrategyCase) -> None:
    """Check that the object keeps nothing of a run for the next: neither of an interrupted one nor of a resumed one.

    Raises:
        ContractError: it does.
    """
    strategy, undisturbed = case.make(), Interrupting()
    before = repr(vars(strategy))
    first, second = case.run(callbacks=[undisturbed]).circuit, case.run(prompts=case.others).circuit
    remedy = "Keep nothing of a run in the object: it may serve several. Use local variables, and `run.checkpoint`."
    with tempfile.TemporaryDirectory() as parent, save_always():
        folder = Path(parent) / "run"
        _interrupt(case, Interrupting((undisturbed.seen + 1) // 2), folder, strategy)
        for number, (expected, options) in enumerate(
            (
                (second, {"prompts": case.others}),
                (first, {"out": folder, "resume": True}),
                (second, {"prompts": case.others}),
                (first, {"out": Path(parent) / "other"}),
            ),
            2,
        ):
            found = case.run(strategy, **options).circuit  # type: ignore[arg-type]
            check_equal(expected, found, f"A new object, and one in its run number {number},", remedy)
            if repr(vars(strategy)) != before:
                refuse("A run changes the attributes of the object.", remedy)
