"""Whether the model does the task at all, before anything is searched."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from circuitkit.data.accuracy import accuracy
from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.prepared_batch import reference_batches
from circuitkit.evaluation.intervals import Array, Figure, proportion_figure
from circuitkit.models.circuit_model import CircuitModel

Measure = Callable[[Logits, PromptBatch], Tensor]
"""From the logits of the full model to one value per prompt, `[B]`."""


def model_accuracy(model: CircuitModel, batch: PromptBatch, memory_budget: int | None = None) -> Figure | None:
    """Measure on what share of the answers the full model is right; None if some prompt has no answer.

    Args:
        model: in full precision.
        batch: the prompts, on the model's device.
        memory_budget: bytes; by default half of what is free.
    """
    if not (batch.answers >= 0).flatten(1).any(-1).all():
        return None
    (values,) = measure_prompts(model, batch, [accuracy], memory_budget)
    return proportion_figure(values)


@torch.no_grad()
def measure_prompts(
    model: CircuitModel, batch: PromptBatch, measures: Sequence[Measure], memory_budget: int | None = None
) -> list[Array]:
    """Measure the full model on every prompt, in one run; one float64 `[prompts]` per measure."""
    found: list[list[Tensor]] = [[] for _ in measures]
    for part in reference_batches(model, batch, memory_budget):
        logits = model.logits(model.final_stream(part))
        for measure, values in zip(measures, found, strict=True):
            values.append(measure(logits, part).double().cpu())
    return [torch.cat(values).numpy() for values in found]


def chance_level(batch: PromptBatch) -> float | None:
    """Return the accuracy of a choice at random among answers and wrong answers.

    Args:
        batch: the prompts.

    Returns:
        From 0 to 1; None if some answer position has no answers or no wrong answers.
    """
    right, wrong = ((tokens >= 0).sum(-1) for tokens in (batch.answers, batch.wrong_answers))
    asked = batch.answer_positions >= 0
    if not ((right > 0) & (wrong > 0))[asked].all():
        return None
    shares = torch.where(asked, right.double() / (right + wrong).clamp(min=1), 0)
    return float((shares.sum(-1) / asked.sum(-1)).mean())


def chance_notes(figure: Figure | None, batch: PromptBatch, split: str) -> list[str]:
    """Say if a model does a task hardly better than chance: then no circuit of it means anything.

    Args:
        figure: the accuracy.
        batch: the prompts; without wrong answers there is no chance level, and nothing is said.
        split: of the prompts.
    """
    chance = chance_level(batch)
    if figure is None or chance is None or not is_near_chance(figure, chance):
        return []
    several = batch.wrong_answers.shape[-1] > 1
    return [
        f"The model gives the answer a larger logit than {'every' if several else 'the'} wrong answer on "
        f"{figure.value:.0%} of the {len(batch)} {split} prompts; chance is {chance:.0%}. It may not do this task at "
        "all: then no circuit of it means anything. Try another model or task, or more prompts."
    ]


def is_near_chance(figure: Figure, chance: float) -> bool:
    """Tell whether an accuracy may be that of a choice at random; it is not if it is over halfway from there to 1."""
    if figure.value is None or figure.low is None:
        return False
    return figure.low <= chance and figure.value < (1 + chance) / 2  # a few prompts, all right, have a wide interval
