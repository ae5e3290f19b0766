"""What a run leaves: its result, in memory and as a folder.

A run folder holds

- `config.yaml`: the resolved configuration; `circuitkit discover --config` takes it;
- `circuit.safetensors` and `circuit.json`: the circuit; of several the first, and `circuit_2`, `circuit_3`, ... the
  others in their order;
- `metrics.csv`: what was logged on the way;
- `result.json`: everything else, strictly JSON (what is not finite is null). It is written last: a folder without it
  is not a finished run.
"""

import csv
import io
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import torch
from lightning.fabric.loggers.logger import Logger

from circuitkit import specs
from circuitkit.circuit import Circuit
from circuitkit.circuit_files import write_atomically
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation import Evaluation, Point
from circuitkit.run_folder import CONFIG, METRICS, RESULT, RunFolder
from circuitkit.summary import summary

VERSION = 1
_PACKAGES = (
    "pahq-circuitkit",
    "torch",
    "transformers",
    "lightning",
    "bitsandbytes",
    "numpy",
    "safetensors",
    "jsonargparse",
)
_CONFIG_KEYS = (
    "model",
    "kv",
    "dtype",
    "task",
    "strategy",
    "precision",
    "objective",
    "ablation",
    "examples",
    "seed",
)
_FLUSH_SECONDS = 10


@dataclass(frozen=True)
class Result:
    """What a discovery found, how faithful that is, and what it cost. `print` it to read it.

    Attributes:
        circuits: one a setting of the strategy, such as a threshold.
        evaluations: of each, on held-out prompts; empty where none was asked for.
        metrics: what the run and its strategy counted: `edges_tested`, `wall_s` and `load_s` (seconds), `peak_mb` and
            `load_peak_mb` (2**20 bytes; see `ResourceMonitor`), `smallest_gap`, ...
        config: the resolved configuration, seed included.
        environment: when and where: versions of the packages, the machine.
        notes: what a reader should know before relying on it.
        history: the rows of `metrics.csv`.
    """

    circuits: list[Circuit]
    evaluations: list[Evaluation]
    metrics: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def circuit(self) -> Circuit:
        """The first circuit."""
        return self.circuits[0]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder: whole, or not at all.

        Args:
            folder: where to; made if it is missing.
            overwrite: replace the results that are there.

        Raises:
            UsageError: the folder holds results.
            CircuitKitError: it cannot be written.
        """
        target = RunFolder(folder, overwrite=overwrite)
        target.fill(self.write)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UsageError: the folder is not a finished run.
            CircuitKitError: a file is missing or damaged.
        """
        folder = Path(folder)
        found = _read_json(folder / RESULT)
        try:
            evaluations = [
                Evaluation(**{**one, "points": [Point(**point) for point in one["points"]]})
                for one in found["evaluations"]
            ]
            names = [one["file"] for one in found["circuits"]]
            rest = {key: found[key] for key in ("metrics", "environment", "notes")}
        except (KeyError, TypeError) as error:
            raise CircuitKitError(f"{folder / RESULT} is damaged: {error!r}.", "Run the discovery again.") from error
        return cls(
            circuits=[Circuit.load(folder, name) for name in names],
            evaluations=evaluations,
            config=_config(folder / CONFIG),
            history=_read_csv(folder / METRICS),
            **rest,
        )

    def write(self, folder: Path) -> None:
        """Write all of it into a folder that is there; see `RunFolder.fill`."""
        for name, circuit in zip(_circuit_names(len(self.circuits)), self.circuits, strict=True):
            circuit.save(folder, name)
        for name, data in (
            (CONFIG, specs.to_yaml(self.config).encode()),
            (METRICS, to_csv(self.history).encode()),
            (RESULT, to_json(self.to_dict())),
        ):
            write_atomically(folder / name, data)

    def to_dict(self) -> dict[str, Any]:
        """What `result.json` holds."""
        circuits = [
            {"file": name, "selection": circuit.selection, "edges": len(circuit), "of": len(circuit.graph)}
            for name, circuit in zip(_circuit_names(len(self.circuits)), self.circuits, strict=True)
        ]
        return {
            "version": VERSION,
            "circuits": circuits,
            "metrics": self.metrics,
            "evaluations": [evaluation.to_dict() for evaluation in self.evaluations],
            "notes": self.notes,
            "seed": self.config.get("seed"),
            "environment": self.environment,
        }

    def __str__(self) -> str:
        return summary(self.circuits, self.evaluations, self.metrics, self.config, self.notes)


class MetricsLog(Logger):
    """The rows of `metrics.csv`: kept, and written every few seconds while the run goes on.

    Args:
        folder: where; None keeps the rows only.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self._folder = folder
        self._written = time.monotonic()

    @property
    def name(self) -> str:
        """Of the logger."""
        return "metrics"

    @property
    def version(self) -> int:
        """There is one."""
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; rows are numbered as they come, unless `step` says otherwise."""
        self.rows.append({"step": len(self.rows) if step is None else step, **metrics})
        if self._folder is not None and time.monotonic() - self._written > _FLUSH_SECONDS:
            write_atomically(self._folder / METRICS, to_csv(self.rows).encode())
            self._written = time.monotonic()


def environment(device: torch.device) -> dict[str, Any]:
    """When, with what versions, and on what machine (nothing that names it)."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    machine = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_mb": _physical_memory() // 2**20,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions, "machine": machine}


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def to_json(value: Any) -> bytes:
    """Strict JSON, indented."""
    return (json.dumps(finite(value), indent=2, allow_nan=False, default=str) + "\n").encode()


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; the columns in the order in which they first appear."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _circuit_names(count: int) -> list[str]:
    return ["circuit" if number == 1 else f"circuit_{number}" for number in range(1, count + 1)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{str(path.parent)!r} is not a finished run: it has no {path.name}.",
            "Give a folder that `circuitkit discover --out` or `result.save` wrote.",
        ) from error
    except (OSError, ValueError) as error:
        raise CircuitKitError(f"{path} cannot be read: {error}.", "Run the discovery again.") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise CircuitKitError(
            f"{path} is not a result of version {VERSION}.", "Read it with the circuitkit that wrote it."
        )
    return found


def _config(path: Path) -> dict[str, Any]:
    found = specs.read_yaml(path)
    if missing := [key for key in _CONFIG_KEYS if key not in found]:
        raise CircuitKitError(f"{path} does not say the {missing[0]} of the run.", "Run the discovery again.")
    return found


def _read_csv(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0
