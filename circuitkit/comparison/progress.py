"""The progress of a comparison: cells done and failed, what runs now, and the time left."""

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from circuitkit.comparison.grid import Cell
from circuitkit.report.figures import format_seconds

PERIOD = 60.0
"""Seconds between two lines where nobody sees a display."""
_LIKE = (
    ("model", "task", "strategy", "precision"),
    ("model", "task", "strategy"),
    ("model", "task"),
    ("strategy",),
    (),
)
"""Labels that a cell shares with the finished cells that its time is estimated from: the first of these with any."""


@dataclass
class _Running:
    """A running cell; its progress is of one stage, such as the search, since `first_done` at `first_at`."""

    cell: Cell
    started: float
    done: int = 0
    total: int = 0
    unit: str = ""
    first_done: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def move(self, now: float, done: int, total: int, unit: str) -> None:
        if unit != self.unit or done < self.done or not self.total:
            self.first_done, self.first_at = done, now
        self.done, self.total, self.unit, self.last_at = done, total, unit, now

    def stage_left(self, now: float) -> float | None:
        """Estimate the seconds left of this stage; None where there is no progress to tell from."""
        if self.done <= self.first_done:
            return None
        per_unit = (self.last_at - self.first_at) / (self.done - self.first_done)
        return max(0.0, per_unit * (self.total - self.done) - (now - self.last_at))

    def __str__(self) -> str:
        return f"{self.cell}: {self.done:,} of {self.total:,} {self.unit}" if self.total else str(self.cell)


class GridProgress:
    """Shows the progress on stderr: on a terminal a display, elsewhere a line per finished cell and per minute.

    Args:
        console: where to draw; by default stderr.
        clock: returns seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._running: dict[str, _Running] = {}
        self._waiting: dict[str, Cell] = {}
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        self._noted: set[str] = set()
        self._done = self._failed = self._total = 0
        self._slots = 1
        self._last = 0.0
        self._stage = ""

    def open(self, total: int, resumed: bool) -> None:
        """Show at once that something happens: finished cells of `total` are read, then the first ones are started."""
        self._total, self._last = total, self._clock()
        if self._console.is_terminal:
            self._stage = "reading finished cells" if resumed else "starting"
            self._draw()
        elif resumed:
            self._say(f"{total} cells; reading those that are finished.")

    def begin(self, total: int, waiting: Iterable[Cell], slots: int) -> None:
        """Start: the comparison has `total` cells, of which those that wait will run, `slots` at once."""
        self._waiting = {cell.key: cell for cell in waiting}
        self._total, self._slots = total, slots
        self._done = total - len(self._waiting)
        self._last = self._clock()
        self._stage = "starting" if self._waiting else ""
        if self._done:
            self._say(f"{self._done} of {total} cells are finished already.")
        elif not self._console.is_terminal:
            self._say(f"{total} cell{'s' * (total != 1)} to run.")
        self.tick()

    def start(self, cell: Cell) -> None:
        """A cell has been started."""
        self._stage = ""
        self._waiting.pop(cell.key)
        self._running[cell.key] = _Running(cell, self._clock())

    def move(self, key: str, done: int, total: int, unit: str) -> None:
        """A running cell has come to `done` of `total` units."""
        self._running[key].move(self._clock(), done, total, unit)

    def note(self, key: str, text: str) -> None:
        """A running cell has told something before its search; it is said once for a model and task."""
        cell = self._running[key].cell
        line = f"{cell.task} in {cell.model}: {text}"
        if line not in self._noted:
            self._noted.add(line)
            self._say(line)

    def tell(self, text: str) -> None:
        """Say what is to be known about the whole comparison."""
        self._say(text)

    def end(self, key: str, error: str | None) -> None:
        """A running cell has ended."""
        running = self._running.pop(key)
        seconds = self._clock() - running.started
        self._done += 1
        if error is None:
            for labels in _LIKE:
                found = self._seconds.setdefault(_key(running.cell, labels), [0.0, 0.0])
                found[0] += seconds
                found[1] += 1
        else:
            self._failed += 1
        outcome = f"{seconds:.1f} s" if error is None else f"failed: {error}"
        self._say(f"[{self._done}/{self._total}] {running.cell}: {outcome}")

    def tick(self) -> None:
        """Update the display, if it is time."""
        now = self._clock()
        if self._console.is_terminal:
            self._draw()
        elif now - self._last >= PERIOD:
            self._last = now
            self._say("; ".join([self.summary(), *map(str, self._running.values())]))

    def close(self) -> None:
        """Remove the display."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def summary(self) -> str:
        """Say how many cells are done, and how long the rest will take."""
        failed = f", {self._failed} failed" if self._failed else ""
        left = self.seconds_left()
        rest = "" if left is None else f", about {format_seconds(left)} left"
        stage = f"; {self._stage}" if self._stage else ""
        return f"{self._done} of {self._total} cells done{failed}{rest}{stage}"

    def seconds_left(self) -> float | None:
        """Estimate the time left; None: nothing is known yet.

        A cell takes as long as finished cells of its model, task, strategy and precision or, where none is finished, as
        those most like it; a running one at least as long as its progress tells. Before any cell is finished, the
        others are assumed to take as long as the running ones.
        """
        now = self._clock()
        left: list[float] = []
        whole: list[float] = []
        for one in self._running.values():
            known, of_stage = self._expect(one.cell), one.stage_left(now)
            if known is not None or of_stage is not None:
                left.append(max(0.0, (known or 0.0) - (now - one.started), of_stage or 0.0))
                whole.append(now - one.started + left[-1])
        if not self._seconds and not left:
            return None
        otherwise = mean(whole) if whole else 0.0
        expected = [self._expect(cell) for cell in self._waiting.values()]
        waiting = sum(otherwise if seconds is None else seconds for seconds in expected)
        return max((waiting + sum(left)) / self._slots, max(left, default=0.0))

    def _expect(self, cell: Cell) -> float | None:
        """Return the mean time of the finished cells most like this one."""
        found = (self._seconds.get(_key(cell, labels)) for labels in _LIKE)
        return next((seconds / count for seconds, count in filter(None, found)), None)

    def _draw(self) -> None:
        bar = self._bar
        if bar is None:
            text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
            bar = Progress(BarColumn(bar_width=20), text, console=self._console, transient=True, refresh_per_second=4)
            self._tasks = {"": bar.add_task("", total=self._total)}
        bar.update(self._tasks[""], description=escape(self.summary()), completed=self._done)
        for key in [key for key in self._tasks if key and key not in self._running]:
            bar.remove_task(self._tasks.pop(key))
        for key, running in self._running.items():
            if key not in self._tasks:
                self._tasks[key] = bar.add_task("", total=None)
            task, total = self._tasks[key], running.total or None
            bar.update(task, description=escape(str(running)), completed=running.done, total=total)
        if self._bar is None:
            bar.start()
            self._bar = bar
        bar.refresh()

    def _say(self, line: str) -> None:
        line = " ".join(line.split())
        with suppress(OSError):  # nobody reads it
            if self._bar is not None:
                self._bar.console.print(line, markup=False, soft_wrap=True)
            elif sys.stderr is not None:
                print(line, file=self._console.file, flush=True)


def _key(cell: Cell, labels: tuple[str, ...]) -> tuple[str, ...]:
    return (*labels, *(getattr(cell, label) for label in labels))
