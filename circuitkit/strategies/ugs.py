"""UGS: uniform gradient sampling, which trains for every edge the probability that it is kept."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config.checks import check_flags
from circuitkit.strategies.base import OperatingPoint, as_list
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.hard_concrete import noise
from circuitkit.strategies.gate_training.trained_strategy import TrainedStrategy
from circuitkit.strategies.gate_training.trainer import (
    MaskTraining,
    check_batches,
    check_options,
)
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts

START = 1.0
"""The logit of every edge's probability at the start, as in the authors' code: 73%."""
BETAS = (0.9, 0.995)


class UGS(TrainedStrategy["_Sampling"]):
    """Uniform gradient sampling for edges (Li and Janson 2024, arXiv 2409.09951).

    Every edge has a probability p = sigmoid(theta) to be kept. Each step samples a mask: independently for every edge
    and with w = p (1 - p), the mask is uniform in (0, 1) with probability w, else 1 or 0, with mean p. With noise u,

        m = clamp((p - u) / w + 1/2, 0, 1),    where only the first p has a gradient.

    So theta gets the gradient dL/dm where m is uniform, and none elsewhere. Its mean is p (1 - p) times the mean of
    L(m = 1) - L(m = 0), the gradient of the mean loss of masks of zeros and ones. The loss is

        objective / span + edge_penalty * sum of p.

    To train is to remove edges whose effect, in the circuits that are sampled, is below `edge_penalty` times the span
    between full and ablated model. The circuit has the connected edges of p > 1/2; scores are p.

    Departures from the authors' code: prompts of one batch share a mask; gradients are divided by the probability of
    the window (it is w / w here) and not by the sampled fraction in it, which has the same mean; a sample's unconnected
    edges stay in the mask (they change nothing with the ablation *resample*); there is no penalty on nodes; the
    objective is divided by its span; the learning rate falls linearly to 0.

    Args:
        edge_penalty: the cost of an edge, as a fraction of the span; several give one training and one circuit each.
        batch_size: prompts per step, which has one mask; smaller batches see more masks in the same time.
        prompts: how many different prompts of the train split the steps take in turn; see `EdgePruning`.
        learning_rate: Adam's, with betas 0.9 and 0.995 (the authors use 0.01 to 0.15, and 3,000 steps).
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`; see `EdgePruning`. `max_steps` is 1,000 by default.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    operating_point = OperatingPoint("edge_penalty")

    def __init__(
        self,
        edge_penalty: float | Sequence[float] = 1e-3,
        batch_size: int = 8,
        prompts: int | None = None,
        learning_rate: float = 0.05,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        as_list("edge_penalty", edge_penalty, lambda value: value >= 0, "Give a number of at least 0, such as 0.001.")
        check_batches(batch_size, prompts, learning_rate)
        check_flags(checkpoint=checkpoint)
        self.edge_penalty = edge_penalty
        self.batch_size = batch_size
        self.prompts = prompts
        self.learning_rate = learning_rate
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=1000)

    def make_training(self, run: Discovery, prompts: TrainingPrompts, value: float) -> "_Sampling":
        """Make a training from equal probabilities."""
        return _Sampling(self, len(run.model.graph), prompts, run.generator.initial_seed(), value)

    def figures(self, training: "_Sampling") -> dict[str, float]:
        """Return the number of edges whose probability is between 0.1 and 0.9."""
        probabilities = training.probabilities()
        return {"undecided_edges": int(((probabilities > 0.1) & (probabilities < 0.9)).sum())}

    def make_circuit(self, graph: EdgeGraph, training: "_Sampling", value: float) -> Circuit:
        """Keep the connected edges that are more often kept than not."""
        probabilities = training.probabilities()
        score_sources = torch.full((len(graph),), int(ScoreSource.GIVEN), dtype=torch.int8)
        return Circuit(graph, probabilities, probabilities > 0.5, score_sources, f"edge penalty {value:g}").prune()


def sample_mask(logits: Tensor, noise: Tensor) -> Tensor:
    """Sample a mask from logits of probabilities and noise in (0, 1), all `[edges]`."""
    p = logits.sigmoid()
    fixed = p.detach()
    window = (fixed * (1 - fixed)).clamp(min=torch.finfo(p.dtype).tiny)  # 0 where p is 0 or 1 to the last bit
    return ((p - noise) / window + 0.5).clamp(0, 1)


class _Sampling(MaskTraining):
    """The training of UGS: the objective under sampled masks, plus a penalty on probabilities."""

    def __init__(self, strategy: UGS, edges: int, prompts: TrainingPrompts, seed: int, penalty: float) -> None:
        super().__init__(prompts, strategy._options["max_steps"])
        self.logits = nn.Parameter(torch.full((edges,), START, dtype=torch.float32))
        self._settings, self._seed, self._penalty = strategy, seed, penalty

    def mask(self, number: int) -> Tensor:
        """Sample a mask."""
        return sample_mask(self.logits, noise(self._seed, number, len(self.logits)).to(self.device))

    def sparsity(self) -> Tensor:
        """Compute the expected fraction of removed edges, a scalar."""
        return 1 - self.logits.sigmoid().mean()

    def penalty(self) -> Tensor:
        """Compute the penalty times the expected number of edges."""
        return self._penalty * self.logits.sigmoid().sum()

    def probabilities(self) -> Tensor:
        """Return the edges' probabilities, float64 `[edges]` on the CPU."""
        return self.logits.detach().double().sigmoid().cpu()

    def configure_optimizers(self) -> Any:
        """Set up Adam, with a rate that falls to 0."""
        return self.make_adam(self.logits, self._settings.learning_rate, BETAS)
