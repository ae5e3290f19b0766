"""What prompts are good for: whether a model does them, which objectives and strategies suit, how many it takes.

How many prompts an interval takes is estimated from its width for one circuit: the first edges of EAP's ranking. An
interval over prompts narrows with the square root of their number.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric import Fabric

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import registry
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.errors import CircuitKitError
from circuitkit.evaluation.ability import Ability, measure_ability_on
from circuitkit.evaluation.chance import is_near_chance
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.evaluation.intervals import Figure
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision
from circuitkit.strategies.base import ZeroGradientError
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
            are too few, too different or too alike to tell, or there is no `objective`.
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
    ability = measure_ability_on(model, batch, {})
    chance = ability.chance
    near = ability.accuracy is not None and chance is not None and is_near_chance(ability.accuracy, chance)
    objectives = list(_refused("objectives", lambda objective: objective.check(batch)))
    suiting: dict[str, Objective] = {name: objective for name, objective, why in objectives if not why}
    runs = {name: _make_run(model, batch, objective, seed) for name, objective in suiting.items()}
    by_gradient = [name for name, objective in suiting.items() if not objective.zero_at_full_model]
    chosen = Task.objective if Task.objective in by_gradient else next(iter(by_gradient), None)
    figure = Figure(None, None, None) if chosen is None else _faithfulness(runs[chosen])
    return Suitability(
        ability,
        near,
        {name: why for name, _, why in objectives},
        {name: _refusing_strategies(run) for name, run in runs.items()},
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


def _refused(kind: str, use: Callable[[Any], object]) -> Iterator[tuple[str, Any, str]]:
    """Make and use every registered object of a kind with its default arguments, if all have a default.

    Args:
        kind: of `registry.KINDS`.
        use: refuses the object by an error.

    Yields:
        Its name, the object, and why it cannot be used, as an installed package that is broken; empty: it can.
    """
    for name in registry.names(kind):
        one, why = None, ""
        try:
            made = registry.load(kind, name)
            if any(one.default is one.empty for one in inspect.signature(made).parameters.values()):
                continue
            one = made()
            use(one)
        except ZeroGradientError:  # its message names method and objective; this one is the same for all
            why = "every edge would score zero, since the objective's gradient vanishes at the full model"
        except CircuitKitError as error:
            why = error.problem
        except Exception as error:  # of someone's package
            why = f"{type(error).__name__}: {error}"
        yield name, one, why


def _make_run(model: CircuitModel, batch: PromptBatch, objective: Objective, seed: int) -> Discovery:
    fabric = Fabric(accelerator=model.device.type, devices=1)
    generator = torch.Generator().manual_seed(seed)
    return Discovery(model, [batch], objective, Resample(), FullPrecision(), fabric, generator)


def _refusing_strategies(run: Discovery) -> dict[str, str]:
    """Return the registered strategies that refuse a run with their default arguments, and why."""
    used = _refused("strategies", lambda strategy: check_strategy(strategy, replace(run, notes=[], metrics={})))
    return {name: why for name, _, why in used if why}


def _faithfulness(run: Discovery) -> Figure:
    """Measure the first edges of EAP's ranking on the prompts that it was made of."""
    circuit = Circuit.from_scores(run.model.graph, run.attribution())
    evaluator = Evaluator.prepare(run.model, run.batches[0], run.objective, run.ablation, "train")
    (point,) = evaluator.evaluate(circuit, [FRACTION], ["absolute"]).points
    return point.searched.faithfulness or Figure(None, None, None)
