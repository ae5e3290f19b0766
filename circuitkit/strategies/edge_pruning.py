"""Edge pruning: gates on all edges at once, trained until only the wanted number of them is open."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from circuitkit.circuit import Circuit, Origin
from circuitkit.engine.masked import MaskedRun
from circuitkit.errors import UsageError
from circuitkit.graph import EdgeGraph
from circuitkit.strategies.base import Discovery, DiscoveryStrategy
from circuitkit.strategies.gates import Gates
from circuitkit.strategies.training import GateTraining, check_batches, check_options, train, training_runs

MULTIPLIER_WAY = 4800.0


class EdgePruning(DiscoveryStrategy):
    """Edge pruning (Bhaskar et al. 2024, arXiv 2406.16778).

    Every edge has a hard-concrete gate m, and its reader sees m o + (1 - m) õ. With s the sparsity expected of the
    gates and t the target, which rises from 0, the loss is

        objective / span + l1 (s - t) + l2 (s - t)^2,

    minimised over the gates and maximised over l1 and l2, which start at 0. In the end one threshold over all
    gates decides. The circuit has the target's number of edges, counting only what is connected: see `rounded`.

    The paper's objective is `kl`, which is the one to choose: trained on a logit difference, gates find edges that make
    it larger than the full model's. Here it is the run's. Other departures from the paper: s is exact (the expected L0
    norm) instead of that of the sample, so that its gradient reaches gates that are wide open; the objective's unit
    is its span between the full and the ablated model; gates of writers count in s instead of having a target of
    their own; no weight decay.

    Args:
        target: the part of the edges to remove; 0.9 unless given.
        targets: several, one training and one circuit each, instead of `target`.
        writer_gates: also gates that mix a writer's output with its ablated one before anyone reads it. Without,
            there are none.
        batch_size: prompts a step; 32 in the paper.
        learning_rate: AdamW's for the gates: 0.1 (ours; the paper's 0.8 needs its 3,000 steps). It rises over the
            first `warm_up` of the steps and falls linearly to 0.
        multiplier_learning_rate: AdamW's for l1 and l2: 4800 / `max_steps` unless given (ours: how far they can come
            in all is what matters; the paper's 0.8 comes to 2,400). It rises likewise and stays.
        start: log-alpha of every gate at first: 2 (ours; at the paper's 10 a gate has practically no gradient).
        warm_up: the part of the steps over which the learning rates rise: 1/15, as in the paper (200 of 3,000).
        rise: the part of the steps over which the target rises linearly: 0.6 (ours, to leave time to settle; 5/6 in
            the paper).
        checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        trainer: options of `lightning.Trainer`: `max_steps` (1,000 unless given: ours, for small models; 3,000 in the
            paper), `gradient_clip_val` (1.0, as in the paper), `accumulate_grad_batches`, `logger`, `callbacks`,
            `enable_progress_bar`, ... What the run decides (device, precision) is not among them. Objects may be
            mappings of `class_path` and `init_args`.

    Raises:
        UsageError: an argument is out of its range; an option of the trainer is unknown.
    """

    def __init__(
        self,
        target: float | None = None,
        targets: Sequence[float] | None = None,
        writer_gates: bool = False,
        batch_size: int = 32,
        learning_rate: float = 0.1,
        multiplier_learning_rate: float | None = None,
        start: float = 2.0,
        warm_up: float = 1 / 15,
        rise: float = 0.6,
        checkpoint: bool = False,
        trainer: dict[str, Any] | None = None,
    ) -> None:
        if target is not None and targets is not None:
            raise UsageError("Both target and targets are given.", "Give one of them.")
        if targets is not None and not targets:
            raise UsageError("targets is empty.", "Give at least one, or leave it out.")
        self.targets = list(targets) if targets is not None else [0.9 if target is None else target]
        for value in self.targets:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise UsageError(f"The target {value!r} is not between 0 and 1.", "Give a sparsity such as 0.9.")
        check_batches(batch_size, learning_rate)
        if multiplier_learning_rate is not None and not 0 < multiplier_learning_rate < math.inf:
            raise UsageError(f"multiplier_learning_rate={multiplier_learning_rate!r}.", "Give one such as 8.")
        if not math.isfinite(start):
            raise UsageError(f"start={start!r} is not a finite number.", "Give a log-alpha such as 2.")
        for name, part in (("warm_up", warm_up), ("rise", rise)):
            if not 0 <= part <= 1:
                raise UsageError(f"{name}={part!r} is not between 0 and 1.", "Give a part of the steps such as 0.5.")
        self.writer_gates = writer_gates
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.multiplier_learning_rate = multiplier_learning_rate
        self.start = start
        self.warm_up = warm_up
        self.rise = rise
        self.checkpoint = checkpoint
        self.trainer = trainer
        self._options = check_options(trainer, max_steps=1000)

    def discover(self, run: Discovery) -> list[Circuit]:
        """One training a target, each from the full model."""
        run.checkpoint(self)
        runs = training_runs(run, self.batch_size, self.checkpoint)
        return [self._discover(run, runs, float(target), number) for number, target in enumerate(self.targets, 1)]

    def _discover(self, run: Discovery, runs: Sequence[MaskedRun], target: float, number: int) -> Circuit:
        graph = run.model.graph
        edges = torch.arange(len(graph))
        of_edges = torch.stack([edges, len(graph) + graph.writer_of] if self.writer_gates else [edges])
        gates = Gates(len(graph) + self.writer_gates * graph.n_writers, of_edges, self.start)
        module = _Pruning(self, gates, runs, run.generator.initial_seed(), target)
        train(module, run, self._options, f"target_{number}")
        scores, wanted = gates.scores(), round((1 - target) * len(graph))
        kept = rounded(graph, scores, wanted)
        run.log(
            steps=run.metrics.get("steps", 0) + module.max_steps,
            expected_sparsity=[*run.metrics.get("expected_sparsity", []), module.sparsity().item()],
        )
        origin = torch.full((len(graph),), int(Origin.GIVEN), dtype=torch.int8)
        return Circuit(graph, scores, kept, origin, selection=f"target {target:g}, connected edges counted")


class _Pruning(GateTraining):
    """The Lagrangian."""

    def __init__(
        self, strategy: EdgePruning, gates: Gates, runs: Sequence[MaskedRun], seed: int, target: float
    ) -> None:
        super().__init__(gates, runs, seed, strategy._options["max_steps"])
        self.multipliers = nn.Parameter(torch.zeros(2))
        self._settings = strategy
        self._target = target

    def penalty(self) -> Tensor:
        """l1 (s - t) + l2 (s - t)^2."""
        risen = self.global_step / max(self._settings.rise * self.max_steps, 1)
        gap = self.sparsity() - self._target * min(risen, 1.0)
        return self.multipliers[0] * gap + self.multipliers[1] * gap.square()

    def configure_optimizers(self) -> Any:
        """Descent for the gates, ascent for the multipliers."""
        warm_up = max(self._settings.warm_up * self.max_steps, 1)

        def rising(step: int) -> float:
            return min((step + 1) / warm_up, 1.0)

        def falling(step: int) -> float:
            return min(rising(step), (self.max_steps - step) / max(self.max_steps - warm_up, 1))

        rate = self._settings.multiplier_learning_rate or MULTIPLIER_WAY / self.max_steps
        optimizer = torch.optim.AdamW(
            [
                {"params": [self.gates.log_alpha], "lr": self._settings.learning_rate},
                {"params": [self.multipliers], "lr": rate, "maximize": True},
            ],
            weight_decay=0.0,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [falling, rising])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def rounded(graph: EdgeGraph, scores: Tensor, wanted: int) -> Tensor:
    """The best edges, `wanted` of them, counting only what is connected to `input` and to the logits.

    One threshold for all edges, as low as it may be with no more than `wanted` edges left when what is not connected
    is dropped. Where the next edge would connect several at once, and too many, the best of those that are connected
    without it make up the number.

    Args:
        graph: the edges.
        scores: `[edges]`.
        wanted: how many edges to keep.

    Returns:
        bool `[edges]`; fewer than `wanted` only where every further edge alone would not be connected.
    """
    ranking = Circuit.from_scores(graph, scores)
    low, high = 0, len(graph)
    while low < high:  # what is connected grows with the number of edges
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(ranking.top(middle).prune()) <= wanted else (low, middle - 1)
    kept = ranking.top(low).prune().kept
    reached = graph.reached_writers(kept)
    live = graph.live_readers(graph.live_writers(kept))
    joined = ~kept & reached[graph.writer_of] & live[graph.reader_of]
    best = scores.masked_fill(~joined, -torch.inf).sort(descending=True, stable=True).indices
    kept[best[: min(wanted - int(kept.sum()), int(joined.sum()))]] = True
    return kept
