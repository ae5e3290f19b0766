"""The logger behind `metrics.csv`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import Logger

from circuitkit.run.run_folder import METRICS
from circuitkit.storage.files import write_atomically
from circuitkit.storage.state import SavedState, misfit
from circuitkit.storage.text import to_csv
from circuitkit.strategies.discovery import Discovery

_SECONDS_BETWEEN_WRITES = 10
_ROWS = "rows"


class MetricsLog(Logger):
    """Collects the rows of `metrics.csv`, and writes them every few seconds; a callback too, for resumed runs.

    Args:
        folder: where to write; None keeps the rows in memory only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self._folder = folder
        self._loaded = 0
        self._written = time.monotonic()

    @property
    def name(self) -> str:
        """Return the logger's name."""
        return "metrics"

    @property
    def version(self) -> int:
        """Return 0: there is one version."""
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing, since `config.yaml` holds them."""

    def on_save_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """Save the rows with the run's state."""
        saved[_ROWS] = self.rows

    def on_load_checkpoint(self, run: Discovery, saved: dict[str, Any]) -> None:
        """Continue after the rows of the interrupted run."""
        rows = SavedState({_ROWS: saved.get(_ROWS)}, "the state", [_ROWS]).items(_ROWS)
        if not all(isinstance(row, dict) for row in rows):
            raise misfit("the rows of metrics.csv are not mappings")
        self.rows[: self._loaded] = rows  # a later state of the same run has the rows of an earlier one too
        self._loaded = len(rows)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; rows are numbered in order, unless `step` is given."""
        self.rows.append({"step": len(self.rows) if step is None else step, **metrics})
        if self._folder is not None and time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            write_atomically(self._folder / METRICS, to_csv(self.rows).encode())
            self._written = time.monotonic()
