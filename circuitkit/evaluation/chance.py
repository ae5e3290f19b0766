"""Whether the model does the task at all, before anything is searched."""

import torch

from circuitkit.data.accuracy import accuracy
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.prepared_batch import reference_batches
from circuitkit.evaluation.intervals import Figure, proportion_figure
from circuitkit.models.circuit_model import CircuitModel

_CHANCE, _CLEARLY_BETTER = 0.5, 0.75


@torch.no_grad()
def model_accuracy(model: CircuitModel, batch: PromptBatch, memory_budget: int | None = None) -> Figure | None:
    """Measure on what share of the answers the full model is right; None if some prompt has no answer.

    Args:
        model: in full precision.
        batch: the prompts, on the model's device.
        memory_budget: bytes; by default half of what is free.
    """
    if not (batch.answers >= 0).flatten(1).any(-1).all():
        return None
    parts = reference_batches(model, batch, memory_budget)
    values = [accuracy(model.logits(model.final_stream(part)), part).double().cpu() for part in parts]
    return proportion_figure(torch.cat(values).numpy())


def chance_notes(figure: Figure | None, batch: PromptBatch, split: str) -> list[str]:
    """Say if a model does a task hardly better than chance: then no circuit of it means anything.

    Args:
        figure: the accuracy.
        batch: the prompts. Unless each answer position has one answer and one wrong answer, chance is not one half, and
            nothing is said.
        split: of the prompts.
    """
    asked = batch.answer_positions >= 0
    of_two = all(((tokens >= 0).sum(-1)[asked] == 1).all() for tokens in (batch.answers, batch.wrong_answers))
    if figure is None or figure.value is None or figure.low is None or not of_two:
        return []
    if figure.low > _CHANCE or figure.value >= _CLEARLY_BETTER:  # a few prompts, all right, have a wide interval
        return []
    return [
        f"The model gives the answer a larger logit than the wrong answer on {figure.value:.0%} of the {len(batch)} "
        f"{split} prompts; chance is {_CHANCE:.0%}. It may not do this task at all: then no circuit of it means "
        "anything. Try another model or task, or more prompts."
    ]
