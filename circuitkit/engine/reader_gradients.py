"""Every reader's own gradient: one forward and one backward for all of them, at one point or at several.

All readers of a layer share the stream's value, so that one backward gives each reader its own gradient: each block's
gradients are made, handed on, summed into the stream's gradient and dropped.

Steps: run the clean prompts, keeping the differences õ - o; run them again with some writers' outputs interpolated,
and a graph for autograd in which every reader's input is a point of its own; one backward from the objective. Where
the clean run itself is the point, the two runs are one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitkit.engine import memory
from circuitkit.engine.scene import Scene, bytes_per_run
from circuitkit.errors import UsageError
from circuitkit.graph import Block, EdgeGraph
from circuitkit.models.backward_rule import BackwardRule
from circuitkit.models.circuit_model import CircuitModel, apply_by_head
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionByHead

Sink = Callable[[Block, Tensor], None]
"""Takes a block and the gradients at its readers, `[R, B, T, D]`, summed over integration steps."""
Fetch = Callable[[], AttentionByHead]
"""Gives a layer's weights, anew in the backward: under a policy they are made when asked for, and not to be kept."""
Wrote = Callable[[slice, Tensor], None]
"""Takes numbers of writers and their outputs, `[n, 1, B, T, D]`."""


@dataclass(frozen=True)
class Interpolation:
    """Clean runs in which some writers carry a mixture of what they write there and their ablated outputs.

    Attributes:
        writers: one of `writer_groups`.
        shares: the parts of the clean output, one a run: õ + share * (o - õ). S of them.

    Raises:
        UsageError: there are no shares.
    """

    writers: slice
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.shares:
            raise UsageError("An interpolation has no shares.", "Give one for each run, such as (0.0, 0.5).")


CLEAN_RUN = Interpolation(slice(0, 1), (1.0,))
"""Nothing but the clean run."""


def writer_groups(graph: EdgeGraph) -> list[slice]:
    """Writers that are interpolated together: `input`; the heads of a layer; an MLP."""
    groups = [slice(0, 1)]
    for layer in range(graph.layers):
        groups.append(graph.heads_of(layer))
        if graph.mlps:
            groups.append(slice(graph.mlp(layer), graph.mlp(layer) + 1))
    return groups


class ReaderGradients:
    """The differences of a scene's writers, and the gradients at its readers.

    Args:
        scene: model under its policy, batch, objective and ablation.
        rule: what the backward follows.
        memory_budget: bytes for captures and runs; by default half of what is free.

    Attributes:
        differences: ablated minus clean output of every writer, `[W, B, T, D]`; complete when a sink is called.
    """

    def __init__(self, scene: Scene, rule: BackwardRule, memory_budget: int | None = None) -> None:
        self._scene = scene
        shape = (scene.model.graph.n_writers, *scene.embedded.shape)
        ablated = scene.ablated
        # One set of differences: the ablated outputs, from which the clean ones are subtracted as they come
        self.differences = ablated.clone() if ablated.shape == shape else ablated.expand(shape).clone()
        self._complete = False
        self._model: CircuitModel = scene.model.under(rule)
        self._memory_budget = memory_budget

    def at(self, interpolation: Interpolation, sink: Sink, behind: bool = False) -> None:
        """Hand over the gradients of these runs' objectives at every reader, summed over the runs.

        Args:
            interpolation: where.
            sink: called for the blocks from the last to the first, several times where not all runs fit into memory.
            behind: only at readers behind the interpolated writers.

        Raises:
            UsageError: the interpolated writers are not one of `writer_groups`.
        """
        writers, clean = interpolation.writers, self._scene.embedded[None]
        if writers not in writer_groups(self._model.graph):
            raise UsageError(f"The writers {writers} are not interpolated together.", "Choose from writer_groups().")
        if interpolation == CLEAN_RUN:
            self._backward({0: clean}, 0, sink)
            return
        if not self._complete:
            with torch.no_grad():
                self._forward({0: clean}, sink)
        for shares in clean.new_tensor(interpolation.shares).split(self._steps_at_once()):
            given = {0: clean, writers.start: self._mixture(writers, shares)}
            self._backward(given, writers.start if behind else 0, sink)

    def _mixture(self, writers: slice, shares: Tensor) -> Tensor:
        """Sum of the writers' interpolated outputs, `[S, B, T, D]`."""
        ablated, differences = self._scene.ablated[writers].sum(0), self.differences[writers].sum(0)
        return ablated - shares[:, None, None, None] * differences

    def _steps_at_once(self) -> int:
        scene, available = self._scene, self._memory_budget
        each = len(scene.batch) * bytes_per_run(scene.model, scene.batch.length)
        if available is None:
            available = memory.budget(scene.model.device)
        else:
            available -= 2 * self.differences.nbytes
        return max(1, available // each)  # a scene is made such that one fits

    @torch.enable_grad()
    def _backward(self, given: Mapping[int, Tensor], start: int, sink: Sink) -> None:
        leaf = given[start].requires_grad_()
        torch.autograd.grad(self._forward(given, sink), leaf)

    def _forward(self, given: Mapping[int, Tensor], sink: Sink) -> Tensor:
        """The objective, summed over runs and prompts. The first such run completes the differences.

        Args:
            given: summed outputs `[S, B, T, D]` that stand in for writers, by the first one's number: `input`, and
                interpolated ones. What stands before these is the same in all runs, and computed once (S is 1).
            sink: of the backward.
        """
        scene, model, graph = self._scene, self._model, self._model.graph
        wrote = None if self._complete else self._wrote
        if wrote is not None:
            wrote(slice(0, 1), given[0].detach()[None])
        stream = given[0] + model.constant(scene.context)
        for layer in range(graph.layers):
            before = stream
            heads = given.get(graph.head(layer, 0))
            stream = stream + (self._heads(layer, stream, sink, wrote) if heads is None else heads)
            stream = stream + model.attention_constant(layer)
            if graph.mlps:
                mlp = given.get(graph.mlp(layer))
                read = before if graph.parallel else stream
                stream = stream + (self._mlp(layer, read, sink, wrote) if mlp is None else mlp)
        self._complete = True
        stream = _apply(_Read, stream, partial(_hand_over, sink, graph.blocks[-1]))
        logits = model.logits(model.at_answers(stream, scene.batch))
        return scene.objective.values(logits, scene.batch, scene.reference).sum()

    def _heads(self, layer: int, stream: Tensor, sink: Sink, wrote: Wrote | None) -> Tensor:
        """What a layer's heads add together, `[S, B, T, D]`."""
        model, graph = self._model, self._model.graph
        weights: Fetch = partial(model.weights.attention, layer)
        hand_over = partial(_hand_over, sink, graph.attention(layer))
        q, k, v = _apply(_Project, stream, model.attention_norm(layer), weights, graph.kv_readers, hand_over)
        gathered = model.attend(layer, q, k, v, self._scene.context)
        each = None if wrote is None else partial(wrote, graph.heads_of(layer))
        return self._anchored(graph.heads_of(layer), _apply(_Write, gathered, weights, each))

    def _mlp(self, layer: int, read: Tensor, sink: Sink, wrote: Wrote | None) -> Tensor:
        """What an MLP adds, `[S, B, T, D]`."""
        graph = self._model.graph
        mlp = self._model.mlp if self._scene.policy.lowered() is None else self._model.mlp_again
        output = mlp(layer, _apply(_Read, read, partial(_hand_over, sink, graph.mlp_block(layer))))
        writer = slice(graph.mlp(layer), graph.mlp(layer) + 1)
        if wrote is not None:
            wrote(writer, output.detach()[None])
        return self._anchored(writer, output)

    def _anchored(self, writers: slice, total: Tensor) -> Tensor:
        """What some writers add together, with their offsets."""
        offset = self._scene.offset(writers)
        return total if offset is None else total + offset.sum(0)

    def _wrote(self, writers: slice, outputs: Tensor) -> None:
        self.differences[writers] -= outputs[:, 0]
        if (offset := self._scene.offset(writers)) is not None:
            self.differences[writers] -= offset


def _hand_over(sink: Sink, block: Block, gradients: Tensor) -> None:
    """Gradients `[R, S, B, T, D]` of a block's readers to the sink."""
    sink(block, gradients[:, 0] if gradients.shape[1] == 1 else gradients.sum(1))


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`Function.apply`, which torch leaves untyped."""
    return function.apply(*arguments)


class _Read(torch.autograd.Function):
    """A reader's input; its gradient is handed over on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hand_over: Callable[[Tensor], None]) -> Tensor:
        ctx.hand_over = hand_over
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.hand_over(gradient[None])
        return gradient, None


class _Project(torch.autograd.Function):
    """Queries, keys and values of a layer from one stream; backwards, a gradient for each reader."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Norm,
        fetch: Fetch,
        kv_readers: int,
        hand_over: Callable[[Tensor], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.norm, ctx.fetch, ctx.hand_over = norm, fetch, hand_over
        weights = fetch()
        normed = norm(x)[None]
        share = kv_readers // weights.k.shape[0]  # above 1 where each query head has keys and values of its own
        return (
            apply_by_head(normed, weights.q, weights.q_bias),
            apply_by_head(normed, weights.k, weights.k_bias).repeat_interleave(share, 0),
            apply_by_head(normed, weights.v, weights.v_bias).repeat_interleave(share, 0),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,), weights = ctx.saved_tensors, ctx.fetch()
        readers = sum(gradient.shape[0] for gradient in gradients)
        inputs = x.new_empty(readers, x.numel() // x.shape[-1], x.shape[-1])  # [R, S * B * T, D]
        start = 0
        for gradient, weight in zip(gradients, (weights.q, weights.k, weights.v), strict=True):
            stop = start + gradient.shape[0]
            share = gradient.shape[0] // weight.shape[0]
            rows = gradient.reshape(weight.shape[0], -1, weight.shape[1])
            torch.bmm(rows, weight, out=inputs[start:stop].view(weight.shape[0], share * inputs.shape[1], -1))
            start = stop
        by_reader = ctx.norm.vjp(x, inputs.view(readers, *x.shape))
        ctx.hand_over(by_reader)
        return by_reader.sum(0), None, None, None, None


class _Write(torch.autograd.Function):
    """Sum of the heads' outputs; each head's own goes to `wrote` on the way, where that is asked for."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, fetch: Fetch, wrote: Callable[[Tensor], None] | None) -> Tensor:
        ctx.fetch, o = fetch, fetch().o
        if wrote is None:
            return gathered.movedim(0, -2).flatten(-2) @ o.flatten(0, 1)
        outputs = torch.bmm(gathered.flatten(1, -2), o)  # [H, S * B * T, D]
        wrote(outputs.unflatten(1, gathered.shape[1:-1]))
        total: Tensor = outputs.sum(0).unflatten(0, gathered.shape[1:-1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        o = ctx.fetch().o
        by_head = (gradient @ o.reshape(-1, o.shape[-1]).T).unflatten(-1, (o.shape[0], -1))  # [*, H, E]
        return by_head.movedim(-2, 0), None, None
