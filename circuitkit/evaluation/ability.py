"""How well a model does a task: its accuracy beside chance, its logit difference, and how many prompts there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from circuitkit.data.accuracy import accuracy
from circuitkit.data.logits import Logits
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.evaluation.chance import chance_level, measure_prompts, model_accuracy
from circuitkit.evaluation.intervals import Figure, mean_figures, proportion_figure
from circuitkit.evaluation.prompts import make_prompts
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.base import Split, Task

EXAMPLES = 64
"""How many prompts are measured, if the task has them."""


@dataclass(frozen=True)
class Ability:
    """What a model can do of a task.

    Attributes:
        accuracy: the share of answers at which the model is right (see `circuitkit.data.accuracy`), from 0 to 1; None
            if some prompt has no answer.
        chance: the accuracy of a choice at random among answers and wrong answers; None without wrong answers.
        logit_difference: mean logit of the answers minus that of the wrong answers; None without wrong answers.
        prompts: how many were measured, of the train split.
        available: how many different prompts each split can have; None where that is not known.
    """

    accuracy: Figure | None
    chance: float | None
    logit_difference: Figure | None
    prompts: int
    available: Mapping[Split, int | None]


def measure_ability(model: CircuitModel, task: Task, examples: int = EXAMPLES, seed: int = 0) -> Ability:
    """Measure how well a model does a task, on prompts of the train split.

    Args:
        model: in full precision.
        task: the task.
        examples: how many prompts to measure, at most.
        seed: of the prompts.

    Raises:
        UsageError: the task has no prompts for this model, such as too few words that are one token.
    """
    available: dict[Split, int | None] = {
        split: task.available(model.tokenizer, split, seed) for split in get_args(Split)
    }
    return measure_ability_on(model, make_prompts(model, task, "train", examples, seed), available)


def measure_ability_on(model: CircuitModel, batch: PromptBatch, available: Mapping[Split, int | None]) -> Ability:
    """Measure how well a model does these prompts, which are on its device; `available` is that of the result."""
    chance = chance_level(batch)
    if chance is None:
        return Ability(model_accuracy(model, batch), None, None, len(batch), available)
    right, difference = measure_prompts(model, batch, [accuracy, _logit_difference])
    return Ability(proportion_figure(right), chance, mean_figures(difference).figure(), len(batch), available)


def _logit_difference(logits: Logits, batch: PromptBatch) -> Tensor:
    return -LogitDifference().values(logits, batch, None)
