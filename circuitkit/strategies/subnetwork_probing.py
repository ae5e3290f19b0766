"""Subnetwork probing: gates on nodes, trained with a penalty on open gates."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config.checks import check_flags
from circuitkit.strategies.base import OperatingPoint, as_list
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.hard_concrete import Gates, open_probability, start_at
from circuitkit.strategies.gate_training.trained_strategy import TrainedStrategy
from circuitkit.strategies.gate_training.trainer import (
    GateTraining,
    check_batches,
    check_options,
)
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts

KEEP_PROBABILITY = 0.9


class SubnetworkProbing(TrainedStrategy["_Probing"]):
    """Subnetwork probing (Cao et al. 2021, arXiv 2104.03514) in the variant of Conmy et al. 2023.

    Every query, key and value reader and every MLP's output has a hard-concrete gate, which mixes the node's value with
    its ablated one and is open with probability 0.9 at the start. The loss is

        objective / span + l0_weight * (mean over the nodes of the probability that the gate is open).

    A reader's gate applies to all its edges, an MLP's to all edges from its output. A node is kept if the mean of its
    gate is above 1/2, and an edge if both its nodes are kept and it is connected.

    Departures: the penalty is a mean in which all nodes count equally; the gates' means, not one sample, determine the
    circuit; a query is mixed before its projection, where its edges end; the objective is divided by its span between
    the full and the ablated model.

    Args:
        l0_weight: the weight of the expected L0 norm (the default 1 is ours; for logit differences or KL in nats the
            papers' sweeps go from 0.01 to 250); several give one training and one circuit each.
        batch_size: prompts per step.
        prompts: how many different prompts of the train split the steps take in turn; see `EdgePruning`.
        learning_rate: Adam's: 0.05 (ours, for `max_steps` = 600; 1e-3 for 3,000 to 10,000 steps in the papers).
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`; see `EdgePruning`.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    operating_point = OperatingPoint("l0_weight")

    def __init__(
        self,
        l0_weight: float | Sequence[float] = 1.0,
        batch_size: int = 32,
        prompts: int | None = None,
        learning_rate: float = 0.05,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        as_list("l0_weight", l0_weight, lambda value: value >= 0, "Give a number of at least 0, such as 1.")
        check_batches(batch_size, prompts, learning_rate)
        check_flags(checkpoint=checkpoint)
        self.l0_weight = l0_weight
        self.batch_size = batch_size
        self.prompts = prompts
        self.learning_rate = learning_rate
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=600)

    def make_training(self, run: Discovery, prompts: TrainingPrompts, value: float) -> "_Probing":
        """Make a training from gates that are open with probability 0.9."""
        of_edges = node_gates(run.model.graph)
        gates = Gates(int(of_edges.max()) + 1, of_edges, start_at(KEEP_PROBABILITY))
        return _Probing(self, gates, prompts, run.generator.initial_seed(), value)

    def figures(self, training: "_Probing") -> dict[str, float]:
        """Return the number of nodes kept."""
        return {"nodes_kept": int((training.gates.log_alpha > 0).sum())}

    def make_circuit(self, graph: EdgeGraph, training: "_Probing", value: float) -> Circuit:
        """Keep the connected edges between nodes whose gates are more often open than not."""
        scores = training.gates.scores()
        score_sources = torch.full((len(graph),), int(ScoreSource.GIVEN), dtype=torch.int8)
        # At log-alpha 0 a gate's distribution is symmetric about 1/2, so both its mean and P(z > 1/2) are 1/2
        return Circuit(graph, scores, scores > 0.5, score_sources, selection=f"L0 weight {value:g}").prune()


class _Probing(GateTraining):
    """The training of subnetwork probing: objective plus penalty."""

    def __init__(
        self, strategy: SubnetworkProbing, gates: Gates, prompts: TrainingPrompts, seed: int, l0_weight: float
    ) -> None:
        super().__init__(gates, prompts, seed, strategy._options["max_steps"])
        self._settings = strategy
        self._l0_weight = l0_weight

    def penalty(self) -> Tensor:
        """Compute the L0 weight times the mean probability that a gate is open."""
        return self._l0_weight * open_probability(self.gates.log_alpha).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Set up Adam."""
        return torch.optim.Adam([self.gates.log_alpha], lr=self._settings.learning_rate)


def node_gates(graph: EdgeGraph) -> Tensor:
    """Return the numbers of the gates of each edge's reader and writer, long `[2, edges]`; -1: no gate.

    Gates are numbered: first those of the query, key and value readers in the graph's order, then those of MLP outputs.
    """
    readers, writers = (torch.full((count,), -1, dtype=torch.int64) for count in (graph.n_readers, graph.n_writers))
    attention = [reader for block in graph.blocks if block.kind == "attention" for reader in block.readers]
    readers[attention] = torch.arange(len(attention), dtype=torch.int64)
    if graph.mlps:
        writers[[graph.mlp(layer) for layer in range(graph.layers)]] = len(attention) + torch.arange(
            graph.layers, dtype=torch.int64
        )
    return torch.stack([readers[graph.reader_of], writers[graph.writer_of]])
