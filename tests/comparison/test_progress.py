"""The progress of a comparison: what is shown, when, and the time left."""

import re
from io import StringIO

import pytest
from rich.console import Console
from support.cells import make_grid

from circuitkit.comparison.grid import Cell
from circuitkit.comparison.progress import DELAY, PERIOD, GridProgress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, terminal: bool, slots: int = 1, finished: int = 0) -> tuple[GridProgress, StringIO, list[Cell]]:
    shown = StringIO()
    progress = GridProgress(Console(file=shown, force_terminal=terminal, width=100), clock)
    cells = make_grid(strategies={"a": "eap", "b": "gim"}, seeds=[0, 1]).cells  # a, b, control, twice
    progress.begin(len(cells), cells[finished:], slots)
    return progress, shown, cells


def run(progress: GridProgress, clock: Clock, cell: Cell, seconds: float, error: str | None = None) -> None:
    progress.start(cell)
    clock.now += seconds
    progress.end(cell.key, error)


def test_the_time_left_is_that_of_the_same_strategies(clock: Clock) -> None:
    progress, _, cells = make(clock, terminal=False)
    assert progress.seconds_left() is None
    run(progress, clock, cells[0], 10.0)
    assert progress.seconds_left() == 5 * 10.0  # nothing else is known
    run(progress, clock, cells[1], 40.0)
    assert progress.seconds_left() == 25.0 + 10.0 + 40.0 + 25.0
    run(progress, clock, cells[2], 1.0)
    assert progress.seconds_left() == 10.0 + 40.0 + 1.0
    progress.start(cells[3])
    clock.now += 4
    assert progress.seconds_left() == 6.0 + 40.0 + 1.0
    clock.now += 400
    assert progress.seconds_left() == 40.0 + 1.0
    assert progress.summary() == "3 of 6 cells done, about 41 s left"


def test_cells_that_run_together_take_less_time(clock: Clock) -> None:
    progress, _, cells = make(clock, terminal=False, slots=2)
    run(progress, clock, cells[0], 10.0)
    assert progress.seconds_left() == 25.0
    for cell in cells[1:5]:
        run(progress, clock, cell, 10.0)
    progress.start(cells[5])
    assert progress.seconds_left() == 10.0  # one cell is not shared


def test_failed_cells_say_nothing_about_time(clock: Clock) -> None:
    progress, shown, cells = make(clock, terminal=False)
    run(progress, clock, cells[0], 10.0, "no\nluck")
    assert progress.seconds_left() is None
    assert progress.summary() == "1 of 6 cells done, 1 failed"
    assert shown.getvalue() == f"[1/6] {cells[0]}: failed: no luck\n"


def test_without_a_terminal_there_is_a_line_per_cell_and_per_minute(clock: Clock) -> None:
    progress, shown, cells = make(clock, terminal=False, finished=1)
    progress.start(cells[1])
    for _ in range(100):
        clock.now += 0.625
        progress.move(cells[1].key, 7, 2000, "edges")
        progress.tick()
    progress.end(cells[1].key, None)
    progress.close()
    assert shown.getvalue().splitlines() == [
        "1 of 6 cells are finished already.",
        f"1 of 6 cells done; {cells[1]}: 7 of 2,000 edges",
        f"[2/6] {cells[1]}: 62.5 s",
    ]
    assert PERIOD == 60.0


def test_on_a_terminal_there_is_a_display_after_two_seconds(clock: Clock) -> None:
    progress, shown, cells = make(clock, terminal=True)
    progress.start(cells[0])
    progress.tick()
    assert shown.getvalue() == ""
    clock.now += DELAY
    progress.move(cells[0].key, 7, 2000, "edges")
    progress.tick()
    assert "0 of 6 cells done" in shown.getvalue()
    progress.end(cells[0].key, None)
    progress.start(cells[1])
    progress.tick()
    progress.close()
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert f"{cells[0]}: 7 of 2,000 edges" in said
    assert f"[1/6] {cells[0]}: 2.0 s" in said
    assert "1 of 6 cells done, about 10 s left" in said
