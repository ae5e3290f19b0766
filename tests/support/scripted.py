"""Runs of a strategy that does nothing but what a test asks for."""

from collections.abc import Callable
from typing import Any

import torch
from support.tiny import random_batch, tiny

from circuitkit import Circuit, CircuitModel, Discoverer, DiscoveryStrategy, PromptBatch
from circuitkit.run.result import Result
from circuitkit.strategies.discovery import Discovery


class Scripted(DiscoveryStrategy):
    """Scores every edge by its number; calls `act` before that."""

    def __init__(self, act: Callable[[Discovery], Any] | None = None) -> None:
        self._act = act

    def discover(self, run: Discovery) -> Circuit:
        if self._act is not None:
            self._act(run)
        return Circuit.from_scores(run.model.graph, torch.arange(len(run.model.graph), dtype=torch.float64))


class Case:
    """A tiny model with prompts."""

    def __init__(self) -> None:
        self.model: CircuitModel = tiny("gpt2", dtype=torch.float32)
        self.batch: PromptBatch = random_batch(lengths=(5, 7, 6, 6))

    def run(self, strategy: Any = None, **options: Any) -> Result:
        return Discoverer("cpu", callbacks=[]).run(self.model, self.batch, strategy or Scripted(), **options)
