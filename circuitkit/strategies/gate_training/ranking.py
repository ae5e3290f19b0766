"""Training scores of all edges, of which the best are chosen softly at every step."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.strategies.gate_training.soft_top import soft_top
from circuitkit.strategies.gate_training.trainer import MaskTraining
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts


class RankingTraining(MaskTraining):
    """The training of scores: the objective under a mask of the best edges (see `soft_top`), without a penalty.

    Scores start at 0, so that at first every edge counts alike.

    Args:
        edges: how many.
        prompts: a batch per step.
        max_steps: the number of optimizer steps.
        learning_rate: Adam's; it falls linearly to 0.
    """

    def __init__(self, edges: int, prompts: TrainingPrompts, max_steps: int, learning_rate: float) -> None:
        super().__init__(prompts, max_steps)
        self.scores = nn.Parameter(torch.zeros(edges, dtype=torch.float32))
        self._learning_rate = learning_rate
        self._size = float(edges)

    @abstractmethod
    def schedule(self, number: int) -> tuple[float, float]:
        """Return the fraction of the edges, and the temperature, of the mask for the batch of this number."""

    def mask(self, number: int) -> Tensor:
        """Compute the mask of this batch's size, of at least one edge."""
        fraction, temperature = self.schedule(number)
        self._size = max(len(self.scores) * fraction, 1.0)
        return soft_top(self.scores, self._size, temperature)

    def sparsity(self) -> Tensor:
        """Compute the fraction of edges that the last mask removed, a scalar."""
        return self.scores.new_tensor(1 - self._size / len(self.scores))

    def ranking(self) -> Tensor:
        """Return the scores, float64 `[edges]` on the CPU, shifted so that the smallest is 0.

        So rankings by score and by |score| agree.
        """
        scores = self.scores.detach().double().cpu()
        return scores - scores.min()

    def configure_optimizers(self) -> Any:
        """Set up Adam, with a rate that falls to 0."""
        return self.make_adam(self.scores, self._learning_rate)
