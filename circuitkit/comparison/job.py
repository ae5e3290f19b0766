"""One cell's work, as a process of its own or a task of a cluster does it."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuitkit.comparison.grid import Cell
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.evaluation import Ranking
from circuitkit.run.callbacks import Callback
from circuitkit.run.content import CONTENT, differences
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.run_folder import CHECKPOINT, CONFIG
from circuitkit.storage.owned_folder import BusyError
from circuitkit.storage.text import read_yaml
from circuitkit.strategies.discovery import Discovery

SECONDS_BETWEEN_REPORTS = 0.2
_PATIENCE = 10.0
"""Seconds to wait for the end of another process that still holds the cell's folder, such as one whose parent has just
been killed."""

_RANKINGS: tuple[Ranking, ...] = ("signed", "absolute")
"""Without `random`: the control is a cell of its own."""

Report = Callable[..., None]
"""Receives what a cell tells: `"progress"`, how many of how many units, and their name; or `"note"` and what is known
before its search."""


@dataclass(frozen=True)
class Job:
    """A cell to run.

    Attributes:
        cell: the cell.
        folder: its run folder, absolute.
        output: the file for what its process prints, absolute.
        accelerator, devices: as in `Discoverer`.
        threads: for torch.
        trusted_only: whether its specs may name registered classes only.
        again: whether its folder holds a result that could not be evaluated, to be replaced.
        content: hashes of the weights and prompts that finished cells with the same model, task, seed and examples
            were made with (see `run.content`); empty: there are none.
    """

    cell: Cell
    folder: Path
    output: Path
    accelerator: str
    devices: int
    threads: int
    trusted_only: bool
    again: bool
    content: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        reason: one line.
        log: a traceback, or empty.
        crashed: whether its process ended without a word; what it printed may say why.
    """

    reason: str
    log: str = ""
    crashed: bool = False


def run_job(job: Job, report: Report) -> Failure | None:
    """Run a cell, or continue it, in this process.

    Args:
        job: the cell, with its folder, which receives the result.
        report: receives the notes before the search, and its progress, a few times per second at most.

    Returns:
        None if the result is in the folder.
    """
    torch.set_num_threads(job.threads)
    try:
        _discover(job, [_Reporter(report), _ContentCheck(job)])
    except CircuitKitError as error:
        return Failure(" ".join(str(error).split()))
    except Exception as exception:  # a strategy from outside may raise anything
        lines = str(exception).strip().splitlines()
        reason = f"{type(exception).__name__}: {lines[0] if lines else ''} (see errors.log)"
        return Failure(reason, "".join(traceback.format_exception(exception)))
    return None


def _discover(job: Job, callbacks: list[Any]) -> None:
    config, options = job.cell.config, job.cell.options
    discoverer = Discoverer(
        job.accelerator,
        job.devices,
        callbacks,
        seed=job.cell.seed,
        memory_budget=options.memory_budget,
        trusted_only=job.trusted_only,
    )
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            discoverer.run(
                job.cell.model_spec,
                config["task"],
                config["strategy"],
                precision=job.cell.precision_spec,
                objective=config["objective"],
                ablation=options.ablation,
                examples=options.examples,
                sizes=options.sizes,
                rankings=_RANKINGS,
                out=job.folder,
                faithfulness=options.faithfulness,
                resume=True,
                overwrite=job.again,
            )
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


class _Reporter(Callback):
    """Passes on early notes, and progress not too often."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = 0.0

    def on_load_end(self, run: Discovery) -> None:
        """Pass on what is known before the search."""
        for note in run.notes:
            self._report("note", note)

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """Pass the progress on."""
        self._pass_on(done, total, unit)

    def on_evaluation_progress(self, run: Discovery, done: int, total: int) -> None:
        """Pass the progress on."""
        self._pass_on(done, total, "evaluations")

    def _pass_on(self, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_REPORTS:
            self._last = now
            self._report("progress", done, total, unit)


class _ContentCheck(Callback):
    """Refuses a cell with other prompts or weights than the finished cells of the same names."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_discovery_start(self, run: Discovery) -> None:
        """Compare the hashes, which the run has written into its folder."""
        if not self._job.content:
            return
        found = read_yaml(self._job.folder / CHECKPOINT / CONFIG).get(CONTENT, {})
        if different := differences(found, self._job.content):
            raise CircuitKitError(
                f"This cell has {different[0]} than cells that are finished.",
                "Restore what they were made with, or start the comparison from scratch, in another folder.",
            )
