"""Subnetwork probing: gates on nodes, trained against a price for every node that stays."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuitkit.circuit import Circuit, Origin
from circuitkit.engine.masked import MaskedRun
from circuitkit.errors import UsageError
from circuitkit.graph import EdgeGraph
from circuitkit.strategies.base import Discovery, DiscoveryStrategy
from circuitkit.strategies.gates import Gates, open_probability, start_at
from circuitkit.strategies.training import GateTraining, check_batches, check_options, train, training_runs

KEEP_PROBABILITY = 0.9


class SubnetworkProbing(DiscoveryStrategy):
    """Subnetwork probing (Cao et al. 2021, arXiv 2104.03514) in the variant of Conmy et al. 2023.

    Every query, key and value reader and every MLP's output has a hard-concrete gate, which starts open with a
    probability of 0.9 and mixes what the node carries with its ablated value. The loss is

        objective / span + strength * (mean over the nodes of the probability that the gate is open).

    A gate of a reader stands before all its edges, one of an MLP's output before all edges from it; a node stays where
    its gate's mean is above 1/2, and an edge where both its nodes do and it is connected.

    Departures: the mean weighs every node alike; the circuit follows from the gates' means, not from one sample;
    a query is mixed before its projection, where its edges are; the objective's unit is its span between the full
    and the ablated model.

    Args:
        strength: the price of the nodes: 1 unless given (ours; for logit differences or KL in nats the papers' sweeps
            take 0.01 to 250).
        strengths: several, one training and one circuit each, instead of `strength`.
        batch_size: prompts a step.
        learning_rate: Adam's: 0.05 (ours, for `max_steps` = 600; 1e-3 for 3,000 to 10,000 steps in the papers).
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`; see `EdgePruning`.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    def __init__(
        self,
        strength: float | None = None,
        strengths: Sequence[float] | None = None,
        batch_size: int = 32,
        learning_rate: float = 0.05,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        if strength is not None and strengths is not None:
            raise UsageError("Both strength and strengths are given.", "Give one of them.")
        if strengths is not None and not strengths:
            raise UsageError("strengths is empty.", "Give at least one, or leave it out.")
        self.strengths = list(strengths) if strengths is not None else [1.0 if strength is None else strength]
        for value in self.strengths:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UsageError(f"The strength {value!r} is not a number from 0 on.", "Give one such as 1.")
        check_batches(batch_size, learning_rate)
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=600)

    def discover(self, run: Discovery) -> list[Circuit]:
        """One training a strength."""
        run.checkpoint(self)
        runs = training_runs(run, self.batch_size, self.checkpoint)
        return [self._discover(run, runs, float(one), number) for number, one in enumerate(self.strengths, 1)]

    def _discover(self, run: Discovery, runs: Sequence[MaskedRun], strength: float, number: int) -> Circuit:
        graph = run.model.graph
        of_edges = node_gates(graph)
        gates = Gates(int(of_edges.max()) + 1, of_edges, start_at(KEEP_PROBABILITY))
        module = _Probing(self, gates, runs, run.generator.initial_seed(), strength)
        train(module, run, self._options, f"strength_{number}")
        scores = gates.scores()
        run.log(
            steps=run.metrics.get("steps", 0) + module.max_steps,
            nodes_kept=[*run.metrics.get("nodes_kept", []), int((gates.log_alpha > 0).sum())],
        )
        origin = torch.full((len(graph),), int(Origin.GIVEN), dtype=torch.int8)
        # A gate's distribution is symmetric about 1/2 at log-alpha 0: there its mean and its median cross 1/2
        return Circuit(graph, scores, scores > 0.5, origin, selection=f"strength {strength:g}").prune()


class _Probing(GateTraining):
    """A price for every open node."""

    def __init__(
        self, strategy: SubnetworkProbing, gates: Gates, runs: Sequence[MaskedRun], seed: int, strength: float
    ) -> None:
        super().__init__(gates, runs, seed, strategy._options["max_steps"])
        self._settings = strategy
        self._strength = strength

    def penalty(self) -> Tensor:
        """The strength times the mean probability that a gate is open."""
        return self._strength * open_probability(self.gates.log_alpha).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam([self.gates.log_alpha], lr=self._settings.learning_rate)


def node_gates(graph: EdgeGraph) -> Tensor:
    """The gates before each edge, that of its reader and that of its writer, long `[2, edges]`; -1 is none.

    Gates are those of the query, key and value readers in the graph's order, then those of the MLPs' outputs.
    """
    readers, writers = torch.full((graph.n_readers,), -1), torch.full((graph.n_writers,), -1)
    attention = [reader for block in graph.blocks if block.kind == "attention" for reader in block.readers]
    readers[attention] = torch.arange(len(attention))
    if graph.mlps:
        writers[[graph.mlp(layer) for layer in range(graph.layers)]] = len(attention) + torch.arange(graph.layers)
    return torch.stack([readers[graph.reader_of], writers[graph.writer_of]])
