"""Strategies that train a mask once per value of their operating point."""

import math
from abc import abstractmethod
from typing import Any, Generic, TypeVar

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.engine.memory import Need
from circuitkit.strategies.base import DiscoveryStrategy, check_distinct_prompts
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.trainer import (
    MaskTraining,
    count_batches,
    finished_trainings,
    train,
    training_prompts,
)
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts, count_prompts, step_need

Training = TypeVar("Training", bound=MaskTraining)


class TrainedStrategy(DiscoveryStrategy, Generic[Training]):
    """One training and one circuit per value of the operating point, or one of each without; a subclass says which.

    Attributes:
        batch_size, prompts, checkpoint: of `TrainingPrompts`; set by the subclass's constructor.
    """

    batch_size: int
    prompts: int | None
    checkpoint: bool
    _options: dict[str, Any]

    @abstractmethod
    def make_training(self, run: Discovery, prompts: TrainingPrompts, value: float) -> Training:
        """Make the training for a value of the operating point (NaN: there is none), at its start."""

    @abstractmethod
    def make_circuit(self, graph: EdgeGraph, training: Training, value: float) -> Circuit:
        """Make the circuit of a training that has ended."""

    def figures(self, training: Training) -> dict[str, float]:
        """Return the figures of a training that has ended; the run's metrics list them, one per training."""
        return {}

    def footprint(self, run: Discovery) -> Need:
        """Count one step."""
        return step_need(run, self.batch_size, self.prompts, self.checkpoint)

    def setup(self, run: Discovery) -> None:
        """Check the training's prompts before any work."""
        check_distinct_prompts(run, count_prompts(count_batches(self._options), self.batch_size, self.prompts))

    def discover(self, run: Discovery) -> list[Circuit]:
        """Train once per value of the operating point, each time from the start."""
        prompts = training_prompts(run, self._options, self.batch_size, self.prompts, self.checkpoint)
        values = [math.nan] if self.operating_point is None else list(map(float, self.operating_values()))
        logged = finished_trainings(run, len(values), prompts)
        return [self._train(run, prompts, value, number, logged) for number, value in enumerate(values, 1)]

    def _train(self, run: Discovery, prompts: TrainingPrompts, value: float, number: int, logged: int) -> Circuit:
        training = self.make_training(run, prompts, value)
        name = "ranking" if self.operating_point is None else f"{self.operating_point.argument}_{number}"
        train(training, run, self._options, name, max(logged, number - 1))
        if number > logged:
            figures = {name: [*run.metrics.get(name, []), one] for name, one in self.figures(training).items()}
            run.log(steps=training.max_steps * number, **figures)
        return self.make_circuit(run.model.graph, training, value)
