"""Cells as tasks of a Ray cluster, for comparisons that need more than one machine.

Ray is not asked to try a task again: a cell that fails is a row, and `resume` runs it. Every task has a worker process
of its own. All machines must see the comparison's folder under the same path.
"""

import logging
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from circuitkit.comparison.executors import GRACE, Ended, Event, Executor
from circuitkit.comparison.job import Failure, Job, run_job
from circuitkit.errors import UsageError


@dataclass
class _Task:
    job: Job
    reference: Any
    deadline: float
    stopped: Failure | None = None


class RayExecutor(Executor):
    """Runs cells in the Ray cluster that this process is connected to, or that `RAY_ADDRESS` names, or a local one.

    Args:
        slots: how many tasks at once.
        threads: how many cores each task reserves.
        gpus: how many GPUs each task reserves.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, slots: int, threads: int = 1, gpus: int = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "Ray is not installed.", 'Install it (pip install "pahq-circuitkit[ray]"), or use the executor process.'
            ) from error
        self._ray = ray
        self.slots = slots
        self._tasks: dict[str, _Task] = {}
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            before = signal.getsignal(signal.SIGTERM)
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            if before is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray's own handler would end this process at once
        # max_calls=1: the next task gets a new process, so that peak memory is a cell's own
        options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0, "max_calls": 1}
        self._run = ray.remote(**options)(_run)

    def start(self, job: Job) -> None:
        """Submit a task; its time limit counts from here."""
        limit = job.cell.options.time_limit
        deadline = float("inf") if limit is None else time.monotonic() + limit
        self._tasks[job.cell.key] = _Task(job, self._run.remote(job, list(sys.path)), deadline)

    def events(self, timeout: float) -> list[Event]:
        """Return the tasks that have ended; cancel those whose time is up."""
        references = {task.reference: key for key, task in self._tasks.items()}
        due = min((task.deadline for task in self._tasks.values()), default=float("inf"))
        timeout = max(0.0, min(timeout, due - time.monotonic()))
        done, _ = self._ray.wait(list(references), num_returns=len(references), timeout=timeout)
        for task in self._tasks.values():
            if time.monotonic() >= task.deadline:
                self._ray.cancel(task.reference, force=task.stopped is not None)
                limit = task.job.cell.options.time_limit
                task.stopped = Failure(f"It was stopped after its time limit of {limit:g} s.")
                task.deadline = time.monotonic() + GRACE
        return [self._collect(references[reference]) for reference in done]

    def stop(self) -> list[Ended]:
        """Cancel all tasks, first by an interruption, then by force."""
        references = {task.reference: key for key, task in self._tasks.items()}
        done: list[Any] = []
        for force in (False, True) if references else ():
            for reference in references:
                self._ray.cancel(reference, force=force)
            done, left = self._ray.wait(list(references), num_returns=len(references), timeout=GRACE)
            if not left:
                break
        ended = [self._collect(references[reference]) for reference in done]
        return [event for event in ended if event.failure is None]

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        if self._owns_cluster:
            self._ray.shutdown()

    def _collect(self, key: str) -> Ended:
        task = self._tasks.pop(key)
        try:
            return Ended(key, self._ray.get(task.reference))
        except self._ray.exceptions.RayError as error:
            if task.stopped is not None:
                return Ended(key, task.stopped)
            what = next(iter(str(error).strip().splitlines()), "")
            return Ended(
                key, Failure(f"Its Ray task failed: {type(error).__name__}: {what} (see errors.log)", str(error))
            )


def _run(job: Job, path: list[str]) -> Failure | None:
    """Run a job: the work of one task."""
    sys.path[:] = path
    return run_job(job, lambda *message: None)
