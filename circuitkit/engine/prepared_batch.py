"""A prepared batch of prompts: everything that the engine needs from it, computed once."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine import memory
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.anchoring import CleanErrors
from circuitkit.engine.memory import Need
from circuitkit.engine.processes import ALONE, Processes
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.context import Context
from circuitkit.precision.base import FullPrecision, PrecisionPolicy

_log = logging.getLogger(__name__)
_KEPT_PER_LAYER = 32  # vectors that autograd keeps: 22 of a Llama, 32 of a GPT-2 (measured)


@dataclass(frozen=True)
class PreparedBatch:
    """A model under its policy, a batch of prompts, an objective and an ablation.

    Its properties are computed when first accessed.

    Attributes:
        batch: this process's prompts.
        processes: those that work on the prompts together.
        share: of the batch's prompts in all processes, the fraction that this one has. 0: it has none, and `batch` is a
            prompt of another process, which does not count.
    """

    model: CircuitModel
    batch: PromptBatch
    objective: Objective
    ablation: Ablation
    policy: PrecisionPolicy = FullPrecision()  # noqa: RUF009  it has no state
    processes: Processes = ALONE
    share: float = 1.0

    @cached_property
    def context(self) -> Context:
        """Positions, attention masks and rotary positions."""
        return self.model.context(self.batch)

    @cached_property
    def inputs(self) -> Tensor:
        """Clean outputs of the writers before the first layer, `[1 or 2, B, T, D]`."""
        return self.model.inputs(self.batch.clean, self.context)

    @property
    def first_changed_position(self) -> int:
        """Return the first position at which a clean and an ablated output can differ."""
        return self.ablation.first_changed_position(self.batch) if self.model.family.causal else 0

    @cached_property
    def ablated(self) -> Tensor:
        """Every writer's ablated output, `[W, B, T, D]` or a shape that broadcasts to it."""
        return self._compute_ablated()

    def take_ablated(self) -> Tensor:
        """Return the ablated outputs `[W, B, T, D]` in memory of their own, which the caller may overwrite."""
        shape = (self.model.graph.n_writers, *self.inputs.shape[1:])
        held = self.__dict__.get("ablated")
        ablated = self._compute_ablated() if held is None else held
        return ablated if held is None and ablated.shape == shape else ablated.expand(shape).clone()

    def _compute_ablated(self) -> Tensor:
        with torch.no_grad(), self.capturing():
            return self.ablation.outputs(self.model, self.batch, self.context)

    def capturing(self) -> AbstractContextManager[None]:
        """Enter the precision of captures: full if the policy anchors nodes, otherwise the policy's low precision."""
        return self.policy.full() if self.policy.anchored else self.policy.investigate(())

    @cached_property
    def _errors(self) -> CleanErrors:
        return CleanErrors(self.model, self.policy, self.inputs, self.context)

    def offset(self, writers: slice | Sequence[int] | Tensor) -> Tensor | None:
        """Return the offsets of anchored quantization for writers in their current precision (see `anchoring`).

        Args:
            writers: heads of one layer, or one MLP.

        Returns:
            `[n, B, T, D]`, 0 for writers in full precision (unless coupled with others); None: 0 for all of them.
        """
        low = self.policy.low_precision_writers() if self.policy.anchored else None
        if low is None:
            return None
        graph = self.model.graph
        numbers = torch.arange(graph.n_writers, dtype=torch.int64)[writers]
        layer, place = graph.place_of(int(numbers[0]))
        mlp = place == graph.heads
        places = numbers - (graph.mlp(layer) if mlp else graph.head(layer, 0))
        if graph.coupled and not mlp:
            heads = low[graph.heads_of(layer)]  # those that were not asked for count too
            if heads.any() and not heads.all():
                return self._errors.of_mixture(layer, heads)[places]
        if not low[writers].any():
            return None
        errors = self._errors.of(layer, mlp)[places]
        return errors if bool(low[writers].all()) else errors * low[writers].to(errors)[:, None, None, None]

    @cached_property
    def reference(self) -> Tensor | None:
        """The full model's results that the objective compares with, in full precision; None for most objectives."""
        if type(self.objective).reference is Objective.reference:
            return None
        with torch.no_grad(), self.policy.full():
            return self.objective.reference(self.model.logits(self.model.final_stream(self.batch)))

    def values(self, stream: Tensor) -> Tensor:
        """Compute the objective from the final stream at the answer positions: `[..., B, A, D]` to `[..., B]`."""
        return self.objective.values(self.model.logits(stream), self.batch, self.reference)


def prepare_batches(
    model: CircuitModel,
    batches: Iterable[PromptBatch],
    objective: Objective,
    ablation: Ablation,
    policy: PrecisionPolicy | None = None,
    memory_budget: int | None = None,
    need: Need | None = None,
    processes: Processes = ALONE,
) -> list[PreparedBatch]:
    """Prepare prompts in batches, split so that what they need fits into memory.

    Each process gets its prompts of every batch, and as many batches as the others.

    Args:
        model, objective, ablation, policy: of every batch; the policy is full precision unless given.
        batches: prompts, on the model's device.
        memory_budget: bytes; by default half of what is free.
        need: of their use; by default captures, and a run under autograd.
        processes: that share the prompts.

    Raises:
        CircuitKitError: not even batches of one prompt fit.
    """
    available = memory_budget or memory.budget(model.device)
    policy, prompts = policy or FullPrecision(), list(batches)
    count = -(-sum(map(len, prompts)) // processes.count)
    need = need or _default_need(model, max(batch.length for batch in prompts), policy)
    largest = processes.smallest(need.largest_batch(count, available))
    prepared_batches, before = [], 0
    for batch in prompts:
        objective.check(batch)
        parts = batch.split(processes.count * largest)
        if len(parts) > 1:
            _log.info("%d prompts are split into %d parts", len(batch), len(parts))
        for part in parts:
            own = processes.own(part, before)
            share, before = len(own) / len(part), before + len(part)
            prompts_here = own if share else part[:1]
            prepared_batches.append(PreparedBatch(model, prompts_here, objective, ablation, policy, processes, share))
    return prepared_batches


def reference_batches(model: CircuitModel, batch: PromptBatch, memory_budget: int | None = None) -> list[PromptBatch]:
    """Split the prompts that an ablation is fitted on, so that a plain run of each part fits into memory."""
    layer = 4 * model.graph.writers_per_layer + _KEPT_PER_LAYER
    need = Need(working={"run": layer * _bytes_per_vector(model, batch.length)})
    return batch.split(need.largest_batch(len(batch), memory_budget or memory.budget(model.device)))


def capture_bytes(prepared_batches: Sequence[PreparedBatch]) -> int:
    """Count the bytes of clean and ablated outputs, 2 W B T D numbers."""
    model = prepared_batches[0].model
    prompts = sum(len(prepared.batch) * prepared.batch.length for prepared in prepared_batches)
    return 2 * model.graph.n_writers * prompts * _bytes_per_vector(model, 1)


def _default_need(model: CircuitModel, length: int, policy: PrecisionPolicy) -> Need:
    graph, vector = model.graph, _bytes_per_vector(model, length)
    run = 3 * graph.readers_per_layer + _KEPT_PER_LAYER * graph.layers
    return Need(working={"captures": (2 + policy.anchored) * graph.n_writers * vector, "autograd": run * vector})


def _bytes_per_vector(model: CircuitModel, length: int) -> int:
    return length * model.family.width * model.dtype.itemsize
