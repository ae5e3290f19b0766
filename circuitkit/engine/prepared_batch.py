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
from circuitkit.models.circuit_model import CircuitModel, Context
from circuitkit.precision.base import FullPrecision, PrecisionPolicy

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedBatch:
    """A model under its policy, a batch of prompts, an objective and an ablation.

    Its properties are computed when first accessed.
    """

    model: CircuitModel
    batch: PromptBatch
    objective: Objective
    ablation: Ablation
    policy: PrecisionPolicy = FullPrecision()  # noqa: RUF009  it has no state

    @cached_property
    def context(self) -> Context:
        """Positions, attention masks and rotary positions."""
        return self.model.context(self.batch)

    @cached_property
    def embedded(self) -> Tensor:
        """Clean output of `input`, `[B, T, D]`."""
        return self.model.embed(self.batch.clean)

    @cached_property
    def ablated(self) -> Tensor:
        """Every writer's ablated output, `[W, B, T, D]` or a shape that broadcasts to it."""
        with torch.no_grad(), self.capturing():
            return self.ablation.outputs(self.model, self.batch, self.context)

    def capturing(self) -> AbstractContextManager[None]:
        """Enter the precision of captures: full if the policy anchors nodes, otherwise the policy's low precision."""
        return self.policy.full() if self.policy.anchored else self.policy.investigate(())

    @cached_property
    def _errors(self) -> CleanErrors:
        return CleanErrors(self.model, self.policy, self.embedded, self.context)

    def offset(self, writers: slice | Sequence[int] | Tensor) -> Tensor | None:
        """Return the offsets of anchored quantization for writers in their current precision (see `anchoring`).

        Args:
            writers: heads of one layer, or one MLP.

        Returns:
            `[n, B, T, D]`, 0 for writers in full precision; None: 0 for all of them.
        """
        low = self.policy.low_precision_writers() if self.policy.anchored else None
        if low is None or not low[writers].any():
            return None
        graph = self.model.graph
        numbers = torch.arange(graph.n_writers, dtype=torch.int64)[writers]
        layer, place = divmod(int(numbers[0]) - 1, graph.writers_per_layer)
        mlp = place == graph.heads
        errors = self._errors.of(layer, mlp)[numbers - (graph.mlp(layer) if mlp else graph.head(layer, 0))]
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
) -> list[PreparedBatch]:
    """Prepare prompts in batches, split so that the captures and gradients of each fit into memory.

    Args:
        model, objective, ablation, policy: of every batch; the policy is full precision unless given.
        batches: prompts, on the model's device.
        memory_budget: bytes; by default half of what is free.

    Raises:
        CircuitKitError: not even one prompt fits.
    """
    available = memory_budget or memory.budget(model.device)
    policy = policy or FullPrecision()
    prepared_batches = []
    for batch in batches:
        objective.check(batch)
        each = _bytes_per_prompt(model, batch.length, policy)
        parts = batch.split(memory.how_many(each, available, f"prompt of {batch.length} tokens"))
        if len(parts) > 1:
            _log.info("%d prompts are split into %d parts, at %d MiB per prompt", len(batch), len(parts), each >> 20)
        prepared_batches += [PreparedBatch(model, part, objective, ablation, policy) for part in parts]
    return prepared_batches


def capture_bytes(prepared_batches: Sequence[PreparedBatch]) -> int:
    """Count the bytes of clean and ablated outputs, 2 W B T D numbers."""
    model = prepared_batches[0].model
    prompts = sum(len(prepared.batch) * prepared.batch.length for prepared in prepared_batches)
    return 2 * model.graph.n_writers * prompts * _bytes_per_vector(model, 1)


def bytes_per_run(model: CircuitModel, length: int) -> int:
    """Count the bytes of one prompt's run under autograd: a layer's reader gradients, and all that autograd keeps."""
    graph = model.graph
    # Measured: autograd keeps 22 vectors per layer of a Llama, 32 of a GPT-2
    return (3 * graph.readers_per_layer + 32 * graph.layers) * _bytes_per_vector(model, length)


def _bytes_per_prompt(model: CircuitModel, length: int, policy: PrecisionPolicy) -> int:
    # Differences, the capture that they come from, and the offsets of anchored quantization
    captured = (2 + policy.anchored) * model.graph.n_writers
    return captured * _bytes_per_vector(model, length) + bytes_per_run(model, length)


def _bytes_per_vector(model: CircuitModel, length: int) -> int:
    return length * model.family.width * torch.finfo(model.dtype).bits // 8
