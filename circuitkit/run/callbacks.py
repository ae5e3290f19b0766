"""The hooks that a run calls, and the callbacks that show its progress."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.strategies.discovery import Discovery


class Callback:
    """Hooks that do nothing; a subclass overrides those it needs. Any object with some of these hooks will do."""

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        """Called before prompts are made and the policy is prepared; `model` is None if the run will load it."""

    def on_load_exception(self, exception: BaseException) -> None:
        """Called when loading fails or is interrupted; the exception is raised again afterwards."""

    def on_load_end(self, run: Discovery) -> None:
        """Called when model, prompts and ablation are ready, before any search; `run.notes` has what to know before."""

    def on_discovery_start(self, run: Discovery) -> None:
        """Called when everything is ready, before the strategy starts."""

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """Called when `done` of `total` units are finished; `shown` has figures to display with them."""

    def on_reader_end(self, run: Discovery, search: GreedySearch) -> None:
        """Called when a search has decided all edges of one reader."""

    def on_save_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """Called when the strategy's state is saved; the callback may add its own to `saved`, under its own key."""

    def on_load_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """Called when an interrupted run is resumed, with what `on_save_checkpoint` has added."""

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """Called when the strategy has returned, before the evaluation."""

    def on_evaluation_progress(self, run: Discovery, done: int, total: int) -> None:
        """Called when `done` of about `total` circuits of all sizes and splits are evaluated."""

    def on_exception(self, run: Discovery, exception: BaseException) -> None:
        """Called when the strategy fails or is interrupted; the exception is raised again afterwards."""


class RichProgress(Callback):
    """A progress bar with the figures that a strategy reports (edges tested, edges kept) and the time left.

    Args:
        console: where to draw; by default stderr, so that stdout has only the results. Nothing is drawn on a console
            that is not a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_load_start(self, device: torch.device, model: CircuitModel | None) -> None:
        """Start drawing, since loading takes a while."""
        self._start("making prompts" if model is not None else "loading the model, making prompts")

    def on_load_exception(self, exception: BaseException) -> None:
        """Remove the bar."""
        self._stop()

    def on_load_end(self, run: Discovery) -> None:
        """Remove the bar: what comes next may write lines."""
        self._stop()

    def on_discovery_start(self, run: Discovery) -> None:
        """Start drawing the search."""
        self._stop()
        self._start("discovering")

    def _start(self, what: str) -> None:
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, figures="")
        self._bar.start()

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """Move the bar; reset it when `done` falls, as it does at the strategy's next threshold."""
        if self._bar is None:
            return
        if done < self._bar.tasks[0].completed:
            self._bar.reset(self._task)
        figures = ", ".join(f"{name} {_format(value)}" for name, value in shown.items())
        text = f"{done:,} of {total:,} {unit}"
        self._bar.update(self._task, description=text, completed=done, total=total, figures=figures)

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, run: Discovery, exception: BaseException) -> None:
        """Remove the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class ProgressLog(Callback):
    """Writes the progress and the final metrics to the loggers."""

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """Log one row."""
        run.fabric.log_dict({unit: done, **_numbers_in(shown)})

    def on_discovery_end(self, run: Discovery, circuits: Sequence[Circuit]) -> None:
        """Log one row with the run's metrics."""
        run.fabric.log_dict(_numbers_in(run.metrics))


def _format(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
