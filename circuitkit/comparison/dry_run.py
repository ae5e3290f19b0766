"""What a comparison would do: the memory and time of every cell, predicted from a few timed steps."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from circuitkit.comparison.grid import Cell, Grid
from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.report.dry_run import DryRun
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.run_config import load_model


@dataclass(frozen=True)
class Prediction:
    """What is expected of a cell.

    Attributes:
        cell: the cell.
        dry_run: its memory and time; None if its run would be refused.
        error: why it would be refused; empty otherwise.
    """

    cell: Cell
    dry_run: DryRun | None
    error: str = ""


def predict_cells(grid: Grid, accelerator: str = "auto", devices: int = 1) -> Iterator[Prediction]:
    """Predict every cell of a grid, in this process; a model is loaded once for all of its cells. Nothing is written.

    Args:
        grid: the grid; of identical cells only the first is predicted.
        accelerator, devices: as in `Discoverer`.

    Raises:
        UsageError: this machine has no such accelerator.
    """
    Discoverer(accelerator, devices, callbacks=[])
    loaded: dict[str, CircuitModel | CircuitKitError] = {}
    seen: set[str] = set()
    for cell in grid.cells:
        if cell.key in seen:
            continue
        seen.add(cell.key)
        key = json.dumps(cell.model_spec, sort_keys=True)
        if key not in loaded:
            loaded.clear()  # frees memory before the next model is loaded
            try:
                loaded[key] = load_model(cell.model_spec)
            except CircuitKitError as error:
                loaded[key] = error
        yield _predict(cell, loaded[key], accelerator, devices)


def _predict(cell: Cell, model: CircuitModel | CircuitKitError, accelerator: str, devices: int) -> Prediction:
    config, options = cell.config, cell.options
    discoverer = Discoverer(accelerator, devices, [], seed=cell.seed, memory_budget=options.memory_budget)
    try:
        if isinstance(model, CircuitKitError):
            raise model
        found = discoverer.dry_run(
            model,
            config["task"],
            config["strategy"],
            precision=cell.precision_spec,
            objective=config["objective"],
            ablation=options.ablation,
            examples=options.examples,
            faithfulness=options.faithfulness,
        )
    except Exception as error:  # a strategy from outside may raise anything
        what = "" if isinstance(error, CircuitKitError) else f"{type(error).__name__}: "
        return Prediction(cell, None, " ".join(f"{what}{error}".split()))
    return Prediction(cell, found)
