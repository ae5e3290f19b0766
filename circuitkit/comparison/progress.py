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

DELAY = 2.0
"""Seconds from the start to the first display on a terminal."""
PERIOD = 60.0
"""Seconds between two lines where nobody sees a display."""


@dataclass
class _Running:
    cell: Cell
    started: float
    done: int = 0
    total: int = 0
    unit: str = ""

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
        self._seconds: dict[str, list[float]] = {}
        self._noted: set[str] = set()
        self._done = self._failed = self._total = 0
        self._slots = 1
        self._begun = self._last = 0.0

    def begin(self, total: int, waiting: Iterable[Cell], slots: int) -> None:
        """Start: the comparison has `total` cells, of which those that wait will run, `slots` at once."""
        self._waiting = {cell.key: cell for cell in waiting}
        self._total, self._slots = total, slots
        self._done = total - len(self._waiting)
        self._begun = self._last = self._clock()
        if self._done:
            self._say(f"{self._done} of {total} cells are finished already.")

    def start(self, cell: Cell) -> None:
        """A cell has been started."""
        self._waiting.pop(cell.key)
        self._running[cell.key] = _Running(cell, self._clock())

    def move(self, key: str, done: int, total: int, unit: str) -> None:
        """A running cell has come to `done` of `total` units."""
        running = self._running[key]
        running.done, running.total, running.unit = done, total, unit

    def note(self, key: str, text: str) -> None:
        """A running cell has told something before its search; it is said once for a model and task."""
        cell = self._running[key].cell
        line = f"{cell.task} in {cell.model}: {text}"
        if line not in self._noted:
            self._noted.add(line)
            self._say(line)

    def end(self, key: str, error: str | None) -> None:
        """A running cell has ended."""
        running = self._running.pop(key)
        seconds = self._clock() - running.started
        self._done += 1
        if error is None:
            self._seconds.setdefault(running.cell.strategy, []).append(seconds)
        else:
            self._failed += 1
        outcome = f"{seconds:.1f} s" if error is None else f"failed: {error}"
        self._say(f"[{self._done}/{self._total}] {running.cell}: {outcome}")

    def tick(self) -> None:
        """Update the display, if it is time."""
        now = self._clock()
        if self._console.is_terminal:
            if self._bar is not None or now - self._begun >= DELAY:
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
        return f"{self._done} of {self._total} cells done{failed}{rest}"

    def seconds_left(self) -> float | None:
        """Estimate the time left from the finished cells of the same strategies, or of any; None: none is finished."""
        if not self._seconds:
            return None
        known = {strategy: mean(seconds) for strategy, seconds in self._seconds.items()}
        any_strategy = mean(seconds for found in self._seconds.values() for seconds in found)
        now = self._clock()
        waiting = sum(known.get(cell.strategy, any_strategy) for cell in self._waiting.values())
        running = [
            max(0.0, known.get(one.cell.strategy, any_strategy) - (now - one.started)) for one in self._running.values()
        ]
        return max((waiting + sum(running)) / self._slots, max(running, default=0.0))

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

    def _say(self, line: str) -> None:
        line = " ".join(line.split())
        with suppress(OSError):  # nobody reads it
            if self._bar is not None:
                self._bar.console.print(line, markup=False, soft_wrap=True)
            elif sys.stderr is not None:
                print(line, file=self._console.file, flush=True)
