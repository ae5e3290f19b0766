"""Matryoshka attribution: scores of all edges, trained so that the best edges are a good circuit at every size."""

from collections.abc import Sequence
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config.checks import check_flags
from circuitkit.errors import UsageError
from circuitkit.strategies.base import as_list
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.hard_concrete import noise
from circuitkit.strategies.gate_training.ranking import RankingTraining
from circuitkit.strategies.gate_training.trained_strategy import TrainedStrategy
from circuitkit.strategies.gate_training.trainer import check_batches, check_options
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts

_START = 2**33  # a step number that no training reaches
_GOLDEN = (5**0.5 - 1) / 2


class Matryoshka(TrainedStrategy["_EverySize"]):
    """Matryoshka attribution (Arora et al. 2026, arXiv 2609.25518).

    One training learns a ranking of all edges that is good at every size. Each step draws a size k, log-uniform between
    two fractions of the edges, and makes a mask of the scores s,

        m = sigmoid((s - t) / temperature),    t such that the mask sums to k.

    The loss is objective / span under that mask; the gradient includes that of t (see `gate_training.soft_top`). Scores
    start at 0. It only scores edges: the circuit keeps all of them; choose a size by ranking. The smallest score is
    shifted to 0, so that rankings by score and by |score| agree.

    Use the objective `kl`. With a logit difference, as in the paper, edges that make it larger than the full model's
    come first.

    Departures from the paper: sizes of successive steps are spread evenly (a golden-ratio sequence from a start that
    the seed draws) instead of drawn independently, and leave out circuits of a few edges, which connect nothing; the
    learning rate falls linearly to 0; the objective is divided by its span between the full and the ablated model.

    Args:
        sizes: the smallest and the largest fraction of the edges. With sizes near the full model, rankings hold on
            other prompts as well as without them, or better (`docs/explanation/held-out.md`).
        temperature: of the mask: 0.5, as in the authors' code.
        batch_size: prompts per step.
        prompts: how many different prompts of the train split the steps take in turn; see `EdgePruning`.
        learning_rate: Adam's: 0.1 (the authors use 0.05 to 0.1 for edges, and 5,000 steps).
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`; see `EdgePruning`. `max_steps` is 1,000 by default.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    def __init__(
        self,
        sizes: Sequence[float] = (0.001, 0.98),
        temperature: float = 0.5,
        batch_size: int = 32,
        prompts: int | None = None,
        learning_rate: float = 0.1,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        found = as_list("sizes", sizes, lambda value: 0 < value < 1, "Give two fractions, such as [0.001, 0.98].")
        if len(found) != 2 or found[0] > found[1]:
            raise UsageError(f"sizes={sizes!r} are not a smallest and a largest fraction.", "Give [0.001, 0.98].")
        as_list("temperature", temperature, lambda value: value > 0, "Give a positive number such as 0.5.")
        check_batches(batch_size, prompts, learning_rate)
        check_flags(checkpoint=checkpoint)
        self.sizes = sizes
        self.temperature = temperature
        self.batch_size = batch_size
        self.prompts = prompts
        self.learning_rate = learning_rate
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=1000)

    def make_training(self, run: Discovery, prompts: TrainingPrompts, value: float) -> "_EverySize":
        """Make the training from equal scores."""
        return _EverySize(self, len(run.model.graph), prompts, run.generator.initial_seed())

    def make_circuit(self, graph: EdgeGraph, training: "_EverySize", value: float) -> Circuit:
        """Rank all edges by their scores."""
        return Circuit.from_scores(graph, training.ranking())


class _EverySize(RankingTraining):
    """The training of matryoshka attribution: another size at every step."""

    def __init__(self, strategy: Matryoshka, edges: int, prompts: TrainingPrompts, seed: int) -> None:
        super().__init__(edges, prompts, strategy._options["max_steps"], strategy.learning_rate)
        self._settings = strategy
        self._start = noise(seed, _START, 1).item()

    def schedule(self, number: int) -> tuple[float, float]:
        """Return the next size of the sequence, and the temperature."""
        smallest, largest = self._settings.sizes
        place = (self._start + number * _GOLDEN) % 1
        return smallest ** (1 - place) * largest**place, self._settings.temperature
