"""Edge pruning: gates on all edges, trained until only a given fraction of them is open."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config.checks import check_flags, is_number
from circuitkit.errors import UsageError
from circuitkit.strategies.base import OperatingPoint, as_list
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.hard_concrete import Gates
from circuitkit.strategies.gate_training.rounding import round_to_target
from circuitkit.strategies.gate_training.trained_strategy import TrainedStrategy
from circuitkit.strategies.gate_training.trainer import (
    GateTraining,
    check_batches,
    check_options,
)
from circuitkit.strategies.gate_training.training_prompts import TrainingPrompts

MULTIPLIER_TRAVEL = 4800.0
"""The default learning rate of the multipliers times the number of steps: the distance that they can travel."""


class EdgePruning(TrainedStrategy["_Pruning"]):
    """Edge pruning (Bhaskar et al. 2024, arXiv 2406.16778).

    Every edge has a hard-concrete gate m, and its reader gets m o + (1 - m) õ. With the expected sparsity s of the
    gates and the target t, which rises from 0, the loss is

        objective / span + l1 (s - t) + l2 (s - t)^2,

    minimized over the gates and maximized over l1 and l2, which start at 0. At the end one threshold over all gates
    chooses the circuit: it has the target's number of edges, counting only connected ones (see `round_to_size`).

    Use the objective `kl`, as the paper does: with a logit difference, the gates find edges that make it larger than
    the full model's.

    Departures from the paper: s follows from the expected L0 norm instead of the sample, so that its gradient reaches
    gates that are wide open; the objective is divided by its span between the full and the ablated model; gates of
    writers count in s instead of having their own target; there is no weight decay.

    Args:
        target: the fraction of the edges to remove; several values give one training and one circuit each.
        writer_gates: add a gate per writer that mixes its output with its ablated output for all readers.
        batch_size: prompts per step; 32 in the paper.
        prompts: how many different prompts of the train split the steps take in turn; by default as many as they use,
            if the task has them. More prompts cost neither memory nor time, and the circuit holds on others.
        learning_rate: AdamW's for the gates: 0.1 (ours; the paper's 0.8 needs its 3,000 steps). It rises over the
            first `warm_up` of the steps and falls linearly to 0.
        multiplier_learning_rate: AdamW's for l1 and l2; by default 4800 / `max_steps` (ours: the distance that they can
            travel in all steps matters, which is 0.8 x 3,000 = 2,400 in the paper). It rises likewise, then stays
            constant.
        start: initial log-alpha of every gate: 2 (ours; at the paper's 10 a gate has practically no gradient).
        warm_up: the fraction of the steps over which the learning rates rise: 1/15, as in the paper (200 of 3,000).
        target_ramp: the fraction of the steps over which the target rises linearly: 0.6 (ours, to leave time to settle;
            5/6 in the paper).
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`: `max_steps` (by default 1,000: ours, for small models; 3,000 in the
            paper), `gradient_clip_val` (1.0, as in the paper), `accumulate_grad_batches`, `logger`, `callbacks`,
            `enable_progress_bar`, ... The run's own choices (device, precision) are not among them. Objects may be
            mappings of `class_path` and `init_args`.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    operating_point = OperatingPoint("target", fraction=True)

    def __init__(
        self,
        target: float | Sequence[float] = 0.9,
        writer_gates: bool = False,
        batch_size: int = 32,
        prompts: int | None = None,
        learning_rate: float = 0.1,
        multiplier_learning_rate: float | None = None,
        start: float = 2.0,
        warm_up: float = 1 / 15,
        target_ramp: float = 0.6,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        as_list("target", target, lambda value: 0 < value < 1, "Give a sparsity between 0 and 1.")
        check_batches(batch_size, prompts, learning_rate)
        given = multiplier_learning_rate
        if given is not None and not (is_number(given) and 0 < given < math.inf):
            raise UsageError(
                f"multiplier_learning_rate={given!r} is not a positive number.",
                "Give one such as 8.",
            )
        check_flags(writer_gates=writer_gates, checkpoint=checkpoint)
        if not (is_number(start) and math.isfinite(start)):
            raise UsageError(f"start={start!r} is not a finite number.", "Give a log-alpha such as 2.")
        for name, part in (("warm_up", warm_up), ("target_ramp", target_ramp)):
            if not (is_number(part) and 0 <= part <= 1):
                raise UsageError(f"{name}={part!r} is not between 0 and 1.", "Give a fraction such as 0.5.")
        self.target = target
        self.writer_gates = writer_gates
        self.batch_size = batch_size
        self.prompts = prompts
        self.learning_rate = learning_rate
        self.multiplier_learning_rate = multiplier_learning_rate
        self.start = start
        self.warm_up = warm_up
        self.target_ramp = target_ramp
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=1000)

    def make_training(self, run: Discovery, prompts: TrainingPrompts, value: float) -> "_Pruning":
        """Make a training from wide open gates."""
        graph = run.model.graph
        edges = torch.arange(len(graph), dtype=torch.int64)
        of_edges = torch.stack([edges, len(graph) + graph.writer_of] if self.writer_gates else [edges])
        gates = Gates(len(graph) + self.writer_gates * graph.n_writers, of_edges, self.start)
        return _Pruning(self, gates, prompts, run.generator.initial_seed(), value)

    def figures(self, training: "_Pruning") -> dict[str, float]:
        """Return the expected sparsity."""
        return {"expected_sparsity": training.sparsity().item()}

    def make_circuit(self, graph: EdgeGraph, training: "_Pruning", value: float) -> Circuit:
        """Round the gates to the target's number of edges."""
        return round_to_target(graph, training.gates.scores(), value)


class _Pruning(GateTraining):
    """The training of edge pruning: objective plus Lagrangian."""

    def __init__(self, strategy: EdgePruning, gates: Gates, prompts: TrainingPrompts, seed: int, target: float) -> None:
        super().__init__(gates, prompts, seed, strategy._options["max_steps"])
        self.multipliers = nn.Parameter(torch.zeros(2, dtype=torch.float32))
        self._settings = strategy
        self._target = target

    def penalty(self) -> Tensor:
        """Compute l1 (s - t) + l2 (s - t)^2."""
        risen = self.global_step / max(self._settings.target_ramp * self.max_steps, 1)
        gap = self.sparsity() - self._target * min(risen, 1.0)
        return self.multipliers[0] * gap + self.multipliers[1] * gap.square()

    def configure_optimizers(self) -> Any:
        """Set up descent for the gates, ascent for the multipliers."""
        warm_up = max(self._settings.warm_up * self.max_steps, 1)

        def rising(step: int) -> float:
            return min((step + 1) / warm_up, 1.0)

        def falling(step: int) -> float:
            return min(rising(step), (self.max_steps - step) / max(self.max_steps - warm_up, 1))

        rate = self._settings.multiplier_learning_rate or MULTIPLIER_TRAVEL / self.max_steps
        optimizer = torch.optim.AdamW(
            [
                {"params": [self.gates.log_alpha], "lr": self._settings.learning_rate},
                {"params": [self.multipliers], "lr": rate, "maximize": True},
            ],
            weight_decay=0.0,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [falling, rising])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
