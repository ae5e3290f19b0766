"""A batch made ready: what every part of the engine needs of it, computed once."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.capture import CleanErrors
from circuitkit.models.circuit_model import CircuitModel, Context
from circuitkit.objective import Objective
from circuitkit.precision.policy import FullPrecision, PrecisionPolicy
from circuitkit.prompts import PromptBatch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """A model under its policy, a batch, an objective and an ablation.

    Everything in it is computed when first asked for.
    """

    model: CircuitModel
    batch: PromptBatch
    objective: Objective
    ablation: Ablation
    policy: PrecisionPolicy = FullPrecision()  # noqa: RUF009  it has no state

    @cached_property
    def context(self) -> Context:
        """Positions, masks and rotations."""
        return self.model.context(self.batch)

    @cached_property
    def embedded(self) -> Tensor:
        """Clean output of `input`, `[B, T, D]`."""
        return self.model.embed(self.batch.clean)

    @cached_property
    def ablated(self) -> Tensor:
        """Every writer's ablated output, `[W, B, T, D]` or what broadcasts to it."""
        with torch.no_grad(), self.capturing():
            return self.ablation.outputs(self.model, self.batch, self.context)

    def capturing(self) -> AbstractContextManager[None]:
        """The precision that captures are made in: full where nodes are anchored to it, else the policy's low one."""
        return self.policy.full() if self.policy.anchored else self.policy.investigate(())

    @cached_property
    def _errors(self) -> CleanErrors:
        return CleanErrors(self.model, self.policy, self.embedded, self.context)

    def offset(self, writers: slice | Sequence[int] | Tensor) -> Tensor | None:
        """What anchored quantization adds to the outputs of writers as they are computed now, `[n, B, T, D]`.

        With C_w the clean output in full precision, f̂_w the node in low precision, and x_w its clean input,

            o_w(x) = f̂_w(x) + [C_w - f̂_w(x_w)]                                                         (2)

        is exact on the clean run, so that quantization touches only the change that a patch makes. The offset is the
        bracket; 0 for writers in full precision. None: 0 for all of them.

        Args:
            writers: heads of one layer, or one MLP.
        """
        low = self.policy.lowered() if self.policy.anchored else None
        if low is None or not low[writers].any():
            return None
        graph = self.model.graph
        numbers = torch.arange(graph.n_writers)[writers]
        layer, place = divmod(int(numbers[0]) - 1, graph.writers_per_layer)
        mlp = place == graph.heads
        errors = self._errors.of(layer, mlp)[numbers - (graph.mlp(layer) if mlp else graph.head(layer, 0))]
        return errors if bool(low[writers].all()) else errors * low[writers].to(errors)[:, None, None, None]

    @cached_property
    def reference(self) -> Tensor | None:
        """What the objective needs of the full model, in full precision."""
        if type(self.objective).reference is Objective.reference:
            return None
        with torch.no_grad(), self.policy.full():
            return self.objective.reference(self.model.logits(self.model.final_stream(self.batch)))

    def values(self, stream: Tensor) -> Tensor:
        """The objective on a final stream at the answer positions: `[..., B, A, D]` to `[..., B]`."""
        return self.objective.values(self.model.logits(stream), self.batch, self.reference)


def make_scenes(
    model: CircuitModel,
    batches: Iterable[PromptBatch],
    objective: Objective,
    ablation: Ablation,
    policy: PrecisionPolicy | None = None,
    memory_budget: int | None = None,
) -> list[Scene]:
    """Scenes for prompts, split so that the captures and gradients of each fit into memory.

    Args:
        model, objective, ablation, policy: of every scene; the policy is full precision unless given.
        batches: prompts, on the model's device.
        memory_budget: bytes; by default half of what is free.

    Raises:
        CircuitKitError: not even one prompt fits.
    """
    available = memory_budget or memory.budget(model.device)
    policy = policy or FullPrecision()
    scenes = []
    for batch in batches:
        objective.check(batch)
        each = _bytes_per_prompt(model, batch.length, policy)
        parts = batch.split(memory.how_many(each, available, f"prompt of {batch.length} tokens"))
        if len(parts) > 1:
            _log.info("%d prompts are taken in %d parts, at %d MiB a prompt", len(batch), len(parts), each >> 20)
        scenes += [Scene(model, part, objective, ablation, policy) for part in parts]
    return scenes


def bytes_per_run(model: CircuitModel, length: int) -> int:
    """Bytes that a run of one prompt takes under autograd: a layer's reader gradients, and what is kept for them."""
    graph = model.graph
    # Measured: 22 vectors a layer are kept in a Llama, 32 in a GPT-2
    return (3 * graph.readers_per_layer + 32 * graph.layers) * _bytes_per_vector(model, length)


def _bytes_per_prompt(model: CircuitModel, length: int, policy: PrecisionPolicy) -> int:
    # Differences, the capture they come from, and what low precision gets wrong there
    captured = (2 + policy.anchored) * model.graph.n_writers
    return captured * _bytes_per_vector(model, length) + bytes_per_run(model, length)


def _bytes_per_vector(model: CircuitModel, length: int) -> int:
    return length * model.family.width * torch.finfo(model.dtype).bits // 8
