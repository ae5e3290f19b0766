"""The prompts of a training: a batch per step, which is prepared, used, and let go.

Since nothing of a batch is kept, the number of different prompts costs no memory, and no time but that of the passes
that prepare a batch: one over the corrupted prompts, and one of the full model where the objective compares with it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from circuitkit.data.hashes import hash_prompts
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.footprint import Footprints
from circuitkit.engine.memory import Need
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.gate_training.hard_concrete import noise

_SHUFFLE = 2**32  # a step number that no training reaches
_OF_SPAN = 64


class TrainingPrompts:
    """Different prompts of the train split in batches of nearly equal size, and the objective's gradient on them.

    The prompts come in an order that is shuffled by the seed, each once; then again in another order; and so on. What a
    step gets follows from the seed and the step's number alone.

    Args:
        run: the run.
        batches: how many the training takes.
        batch_size: the most prompts in one.
        prompts: how many different prompts; None: as many as the training uses, if the task has them.
        checkpoint: compute each layer again in the backward pass instead of keeping it.

    Attributes:
        processes: those of the run.
        content: a hash of all prompts.
    """

    def __init__(self, run: Discovery, batches: int, batch_size: int, prompts: int | None, checkpoint: bool) -> None:
        self._run = run
        self._prompts = run.distinct_prompts(count_prompts(batches, batch_size, prompts))
        self._size = math.ceil(len(self) / math.ceil(len(self) / batch_size))
        self._per_epoch = math.ceil(len(self) / self._size)
        self._seed = run.generator.initial_seed()
        self._checkpoint = checkpoint
        self._need = _footprints(run, [self._prompts]).masked_run(checkpoint)
        self.processes = run.processes
        self.content = hash_prompts(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, number: int) -> PromptBatch:
        """Return the batch of this number, without the padding that all its prompts share."""
        epoch, place = divmod(number, self._per_epoch)
        return self._prompts[self._order(epoch)[place * self._size : (place + 1) * self._size]].trim()

    def _order(self, epoch: int) -> Tensor:
        return noise(self._seed, _SHUFFLE + epoch, len(self)).argsort(stable=True)

    def objective(self, number: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute this process's part of the objective on a batch, and its gradient.

        A batch that does not fit into memory is computed in parts.

        Args:
            number: of the batch. It also decides which of the policy's groups of readers is investigated.
            mask: `[edges]` in [0, 1].

        Returns:
            The sum of the objective over this process's prompts, divided by the number of all prompts of the batch
            (float64, a scalar); and its gradient with respect to the mask, `[edges]`.
        """
        batch, mask = self.batch(number), mask.detach().requires_grad_()
        total, gradient = mask.new_zeros((), dtype=torch.float64), torch.zeros_like(mask)
        for masked_run in self._run.masked_runs([batch], need=self._need, checkpoint=self._checkpoint):
            masked_run.group = number
            with torch.enable_grad():
                value = masked_run.values(mask[None]).double().sum() / len(batch)
                (part,) = torch.autograd.grad(value, mask)
            total += value.detach()
            gradient += part
        return total, gradient

    @torch.no_grad()
    def span(self) -> float:
        """Compute |objective of the full model - of the ablated model|, mean over up to 64 prompts; 1 if it is 0."""
        chosen = self._prompts[self._order(0)[:_OF_SPAN]]
        edges = len(self._run.model.graph)
        ends = torch.tensor([[1.0], [0.0]], dtype=torch.float32, device=self._run.model.device).expand(-1, edges)
        total = ends.new_zeros(2, dtype=torch.float64)
        batches = [batch.trim() for batch in chosen.split(self._size)]
        for masked_run in self._run.masked_runs(batches, need=self._need):
            total += masked_run.values(ends).double().sum(1)
        full, ablated = (self.processes.sum(total) / len(chosen)).tolist()
        return abs(full - ablated) or 1.0


def count_prompts(batches: int, batch_size: int, prompts: int | None) -> int:
    """Return how many different prompts a training asks for; arguments as of `TrainingPrompts`."""
    used = batches * batch_size
    return used if prompts is None else min(prompts, used)


def step_need(run: Discovery, batch_size: int, prompts: int | None, checkpoint: bool) -> Need:
    """Count the memory of one step, which is that of the training; arguments as of `TrainingPrompts`."""
    batch = run.distinct_prompts(min(batch_size, prompts or batch_size))
    return replace(_footprints(run, [*run.batches, batch]).masked_run(checkpoint), prompts=len(batch))


def _footprints(run: Discovery, batches: Sequence[PromptBatch]) -> Footprints:
    return replace(run.footprints, batch=max(batches, key=lambda batch: batch.length))
