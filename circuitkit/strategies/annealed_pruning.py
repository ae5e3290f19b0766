"""Annealed pruning: a soft choice of the best edges that becomes smaller and harder during one training."""

import math
from collections.abc import Sequence
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config.checks import check_flags
from circuitkit.strategies.base import OperatingPoint, as_list
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.ranking import RankingTraining
from circuitkit.strategies.gate_training.rounding import round_to_target
from circuitkit.strategies.gate_training.trained_strategy import TrainedStrategy
from circuitkit.strategies.gate_training.trainer import (
    check_batches,
    check_options,
)
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts


class AnnealedPruning(TrainedStrategy["_Annealing"]):
    """Annealed pruning, a method of this project: the mask of matryoshka attribution, annealed to one size.

    Every edge has a score s. A step makes a mask that sums to k,

        m = sigmoid((s - t) / temperature),    t such that the mask sums to k,

    as in matryoshka attribution (Arora et al. 2026, arXiv 2609.25518), and moves the scores along the gradient of the
    objective under it. During the training, k falls from `start` to the target (linearly in its log-odds), and the
    temperature from 1 to `temperature`, so that few edges are left between 0 and 1 (geometrically). Then both stay.
    There is no penalty and no noise: the mask has the size that is asked for at every step.

    The circuit has the target's number of edges, counting only connected ones. The scores rank all edges; sizes up to
    some times the target's are good circuits too, since the mask passed through them.

    Use the objective `kl`: with a logit difference, edges that make it larger than the full model's come first.

    Args:
        target: the fraction of the edges to remove; several values give one training and one circuit each.
        start: the fraction of the edges that the first mask sums to.
        temperature: of the last masks.
        falling: the fraction of the steps over which size and temperature fall.
        batch_size: prompts per step.
        prompts: how many different prompts of the train split the steps take in turn; see `EdgePruning`.
        learning_rate: Adam's; it falls linearly to 0.
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`; see `EdgePruning`. `max_steps` is 300 by default.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    operating_point = OperatingPoint("target", fraction=True)

    def __init__(
        self,
        target: float | Sequence[float] = 0.99,
        start: float = 0.98,
        temperature: float = 0.1,
        falling: float = 0.9,
        batch_size: int = 8,
        prompts: int | None = None,
        learning_rate: float = 0.1,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        as_list("target", target, lambda value: 0 < value < 1, "Give a sparsity between 0 and 1.")
        as_list("start", [start], lambda value: 0 < value < 1, "Give a fraction of the edges such as 0.98.")
        as_list("temperature", [temperature], lambda value: 0 < value <= 1, "Give a number up to 1, such as 0.1.")
        as_list("falling", [falling], lambda value: 0 < value <= 1, "Give a fraction of the steps such as 0.9.")
        check_batches(batch_size, prompts, learning_rate)
        check_flags(checkpoint=checkpoint)
        self.target = target
        self.start = start
        self.temperature = temperature
        self.falling = falling
        self.batch_size = batch_size
        self.prompts = prompts
        self.learning_rate = learning_rate
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=300)

    def make_training(self, run: Discovery, prompts: TrainingPrompts, value: float) -> "_Annealing":
        """Make a training from equal scores."""
        return _Annealing(self, len(run.model.graph), prompts, 1 - value)

    def make_circuit(self, graph: EdgeGraph, training: "_Annealing", value: float) -> Circuit:
        """Take the target's number of edges."""
        return round_to_target(graph, training.ranking(), value)


class _Annealing(RankingTraining):
    """The training of annealed pruning."""

    def __init__(self, strategy: AnnealedPruning, edges: int, prompts: TrainingPrompts, kept: float) -> None:
        super().__init__(edges, prompts, strategy._options["max_steps"], strategy.learning_rate)
        self._settings = strategy
        self._kept = kept

    def schedule(self, number: int) -> tuple[float, float]:
        """Return the size and the temperature of this step."""
        settings = self._settings
        steps = max(settings.falling * self.max_steps, 1)
        fallen = min(number // settings._options["accumulate_grad_batches"] / steps, 1.0)
        odds = (1 - fallen) * _log_odds(max(settings.start, self._kept)) + fallen * _log_odds(self._kept)
        return 1 / (1 + math.exp(-odds)), settings.temperature**fallen


def _log_odds(fraction: float) -> float:
    return math.log(fraction) - math.log1p(-fraction)
