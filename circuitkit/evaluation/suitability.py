"""What prompts are good for: whether a model does them, which objectives and strategies suit, how many it takes.

How many prompts an interval takes is estimated from its width for one circuit: the first edges of EAP's ranking. An
interval over prompts narrows with the square root of their number.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric import Fabric

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import registry
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.ability import Ability, ability_on
from circuitkit.evaluation.chance import is_near_chance
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.evaluation.intervals import Figure
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import check_strategy
from circuitkit.tasks.base import Task
from circuitkit.torch_state import usual_torch_state

HALF_WIDTH = 0.1
"""Of the interval whose number of prompts is estimated."""
FRACTION = 0.05
"""Of the edges that the circuit has by which the number is estimated."""


@dataclass(frozen=True)
class Suitability:
    """What prompts are good for.

    Attributes:
        ability: how well the model does them.
        near_chance: whether its accuracy may be that of a choice at random: then no circuit means anything.
        objectives: every registered objective, and why it does not suit; empty: it does.
        strategies: of every objective that suits, each registered strategy that does not, and why.
        objective: the one that `faithfulness` is measured in; None: none that suits has a gradient at the full model.
        faithfulness: of EAP's circuit of `FRACTION` of the edges, on the prompts that it was found on.
        needed: how many prompts an interval of faithfulness takes whose ends are `HALF_WIDTH` away; None: the prompts
            are too few, or too different, to tell.
    """

    ability: Ability
    near_chance: bool
    objectives: Mapping[str, str]
    strategies: Mapping[str, Mapping[str, str]]
    objective: str | None
    faithfulness: Figure
    needed: int | None


@usual_torch_state()
def measure_suitability(model: CircuitModel, batch: PromptBatch, seed: int = 0) -> Suitability:
    """Find out what prompts are good for with a model, in full precision.

    Args:
        model: the model.
        batch: the prompts.
        seed: of the generators.

    Raises:
        UsageError: the prompts do not fit the model, or no corrupted prompt differs from its clean one.
    """
    model.synchronize()
    model.check_prompts(batch)
    batch = batch.to(model.device)
    Resample().check(batch)
    ability = ability_on(model, batch, {})
    chance = ability.chance
    near = ability.accuracy is not None and chance is not None and is_near_chance(ability.accuracy, chance)
    made: dict[str, Objective] = dict(_make_all("objectives"))
    refused = {name: _refusal(objective, batch) for name, objective in made.items()}
    suiting = {name: objective for name, objective in made.items() if not refused[name]}
    runs = {name: _make_run(model, batch, objective, seed) for name, objective in suiting.items()}
    by_gradient = [name for name, objective in suiting.items() if not objective.zero_at_full_model]
    chosen = Task.objective if Task.objective in by_gradient else next(iter(by_gradient), None)
    figure = Figure(None, None, None) if chosen is None else _faithfulness(runs[chosen])
    return Suitability(
        ability,
        near,
        refused,
        {name: dict(_refusing_strategies(run)) for name, run in runs.items()},
        chosen,
        figure,
        count_needed(figure, len(batch)),
    )


def count_needed(figure: Figure, prompts: int, half_width: float = HALF_WIDTH) -> int | None:
    """Estimate how many prompts give an interval whose farther end is `half_width` from the value.

    Args:
        figure: measured on `prompts` prompts.
        prompts: their number.
        half_width: the one wanted.

    Returns:
        At least 1; None if the figure has no interval, or one without width.
    """
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    widest = max(figure.high - figure.value, figure.value - figure.low)
    return math.ceil(prompts * (widest / half_width) ** 2) or None


def _make_all(kind: str) -> Iterator[tuple[str, Any]]:
    """Make every registered object of a kind with its default arguments, if all have a default."""
    for name in registry.names(kind):
        made = registry.load(kind, name)
        if all(one.default is not one.empty for one in inspect.signature(made).parameters.values()):
            yield name, made()


def _refusal(objective: Objective, batch: PromptBatch) -> str:
    try:
        objective.check(batch)
    except UsageError as error:
        return error.problem
    return ""


def _make_run(model: CircuitModel, batch: PromptBatch, objective: Objective, seed: int) -> Discovery:
    fabric = Fabric(accelerator=model.device.type, devices=1)
    generator = torch.Generator().manual_seed(seed)
    return Discovery(model, [batch], objective, Resample(), FullPrecision(), fabric, generator)


def _refusing_strategies(run: Discovery) -> Iterator[tuple[str, str]]:
    """Yield the registered strategies that refuse a run with their default arguments, and why."""
    for name, strategy in _make_all("strategies"):
        try:
            check_strategy(strategy, replace(run, notes=[], metrics={}))
        except CircuitKitError as error:
            yield name, error.problem


def _faithfulness(run: Discovery) -> Figure:
    """Measure the first edges of EAP's ranking on the prompts that it was made of."""
    circuit = Circuit.from_scores(run.model.graph, run.attribution())
    evaluator = Evaluator.prepare(run.model, run.batches[0], run.objective, run.ablation, "train")
    (point,) = evaluator.evaluate(circuit, [FRACTION], ["absolute"]).points
    return point.searched.faithfulness or Figure(None, None, None)
