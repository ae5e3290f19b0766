"""The progress of a comparison: what is shown, when, and the time left."""

import re
from io import StringIO

import pytest
from rich.console import Console
from support.cells import make_grid

from circuitkit.comparison.grid import Cell
from circuitkit.comparison.progress import PERIOD, GridProgress


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
    assert shown.getvalue() == f"6 cells to run.\n[1/6] {cells[0]}: failed: no luck\n"


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


def test_on_a_terminal_there_is_a_display_from_the_start(clock: Clock) -> None:
    progress, shown, cells = make(clock, terminal=True)
    assert "0 of 6 cells done; starting" in shown.getvalue()
    progress.start(cells[0])
    clock.now += 2.0
    progress.move(cells[0].key, 7, 2000, "edges")
    progress.tick()
    progress.end(cells[0].key, None)
    progress.start(cells[1])
    progress.tick()
    progress.close()
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert f"{cells[0]}: 7 of 2,000 edges" in said
    assert f"[1/6] {cells[0]}: 2.0 s" in said
    assert "1 of 6 cells done, about 10 s left" in said


@pytest.mark.parametrize(
    ("terminal", "resumed", "said"),
    [
        (True, True, "0 of 6 cells done; reading finished cells"),
        (True, False, "0 of 6 cells done; starting"),
        (False, True, "6 cells; reading those that are finished."),
        (False, False, ""),
    ],
)
def test_while_finished_cells_are_read_it_says_so(clock: Clock, terminal: bool, resumed: bool, said: str) -> None:
    shown = StringIO()
    progress = GridProgress(Console(file=shown, force_terminal=terminal, width=100), clock)
    progress.open(6, resumed)
    assert said in shown.getvalue()
    assert bool(said) == bool(shown.getvalue())
    progress.close()


def test_a_running_cell_takes_at_least_as_long_as_its_progress_tells(clock: Clock) -> None:
    progress, _, cells = make(clock, terminal=False)
    progress.start(cells[0])
    clock.now += 10
    progress.move(cells[0].key, 1000, 2000, "edges")  # resumed there: nothing is known yet
    assert progress.seconds_left() is None
    clock.now += 10
    progress.move(cells[0].key, 1250, 2000, "edges")
    assert progress.seconds_left() == 30.0 + 5 * 50.0  # the others as long as this one
    clock.now += 4
    assert progress.seconds_left() == 26.0 + 5 * 50.0
    clock.now += 26
    progress.move(cells[0].key, 10, 100, "evaluations")
    clock.now += 1
    progress.move(cells[0].key, 20, 100, "evaluations")
    assert progress.seconds_left() == 8.0 + 5 * 59.0
    progress.end(cells[0].key, None)
    progress.start(cells[3])  # the same strategy
    progress.move(cells[3].key, 0, 2000, "edges")
    clock.now += 30
    progress.move(cells[3].key, 100, 2000, "edges")  # much slower this time
    assert progress.seconds_left() == 30.0 * 19 + 4 * 51.0


def test_the_time_of_a_cell_is_that_of_its_model_and_task(clock: Clock) -> None:
    tasks = {"x": "ioi", "y": {"class_path": "ioi", "init_args": {"corruption": "swap"}}}
    grid = make_grid(models={"small": "toy", "large": {"name": "toy", "kv": "head"}}, tasks=tasks)
    cells = {(cell.model, cell.task, cell.strategy): cell for cell in grid.cells}
    progress = GridProgress(Console(file=StringIO()), clock)
    waiting = [cells[place] for place in cells if place[2] == "eap"]
    progress.begin(4, waiting, 1)
    run(progress, clock, cells["small", "x", "eap"], 2.0)
    run(progress, clock, cells["large", "x", "eap"], 100.0)
    assert progress.seconds_left() == 2 * 51.0  # another task, of which nothing is known
    run(progress, clock, cells["small", "y", "eap"], 4.0)
    assert progress.seconds_left() == (2.0 + 100.0 + 4.0) / 3
