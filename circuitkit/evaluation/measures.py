"""What is measured of a model or circuit, one value per prompt: objectives, and accuracy."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from circuitkit.config import specs
from circuitkit.data.accuracy import accuracy
from circuitkit.data.logits import Logits
from circuitkit.data.objectives import KLDivergence, LogitDifference, Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError

ACCURACY = "accuracy"
"""The measure that is no objective: the share of a prompt's answers that beat every wrong answer."""
GOOD = 0.8
"""A circuit with at least this faithfulness is called faithful."""

Values = Mapping[str, np.ndarray]
"""By measure, float64 `[prompts]`."""


class Measures:
    """The measures of one batch of prompts.

    The searched objective comes first. The logit difference, the KL divergence and the accuracy follow, as far as the
    prompts have what they need.

    Args:
        objective: the searched one.
        batch: the prompts, on the model's device.
        full: logits of the full model.
    """

    def __init__(self, objective: Objective, batch: PromptBatch, full: Logits) -> None:
        self._batch = batch
        self._objectives = {objective_name(objective): objective}
        for other in (LogitDifference(), KLDivergence()):
            if _has_what_it_needs(other, batch):
                self._objectives.setdefault(objective_name(other), other)
        self._references = {name: one.reference(full) for name, one in self._objectives.items()}
        self._has_answers = bool((batch.answers >= 0).flatten(1).any(-1).all())

    def of(self, logits: Logits) -> dict[str, Tensor]:
        """Measure logits `[..., B, A, *]`: by measure, float64 `[..., B]` on the CPU."""
        found = {
            name: objective.values(logits, self._batch, self._references[name])
            for name, objective in self._objectives.items()
        }
        if self._has_answers:
            found[ACCURACY] = accuracy(logits, self._batch)
        return {name: values.to("cpu", torch.float64) for name, values in found.items()}


def objective_name(objective: Objective) -> str:
    """Return an objective's name: the registered one, or that of its class."""
    return specs.label("objectives", specs.describe(objective))


def _has_what_it_needs(objective: Objective, batch: PromptBatch) -> bool:
    try:
        objective.check(batch)
    except UsageError:
        return False
    return True
