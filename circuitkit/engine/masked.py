"""The masked run, equation (1): a model whose readers see each writer's output, its ablated output, or a mixture.

For a reader r and the writers w before it, with m in [0, 1] for every edge,

    x_r = sum over w of  m_wr o_w + (1 - m_wr) õ_w  =  stream - sum over w of (1 - m_wr) (o_w - õ_w)        (1)

where o_w is the writer's output in this very run and õ_w its ablated output. It is computed a layer at a time, as
one product of the removed shares (1 - m) with the differences (o - õ) of the causal prefix of writers. Gradients in
m flow.

Steps, layer by layer: what all readers of the layer read of the writers before it, in one product; the heads'
outputs; what the MLP reads of these heads; the MLP's output. Outputs join the stream, and the differences in their
buffer, which the backward pass goes back through (see `_Differences`).
"""

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from circuitkit.engine.scene import Scene


class MaskedRun:
    """Runs equation (1) for several masks at once.

    Args:
        scene: model, batch, ablation.
        start: the first layer to run; what stands before it is taken from `upstream`.
        upstream: outputs `[P, B, T, D]` of the writers before layer `start`, the same for every mask; by default
            that of `input` alone.
        rotate: investigate the policy's groups of readers in turn, one a call of `values` or `final`. Without, the
            policy is left to the caller.
        checkpoint: keep the stream before each layer only, and compute the layer again in the backward pass.

    Attributes:
        turn: which group the next call investigates, counted on and on; set it to go on where another run ended.
    """

    def __init__(
        self,
        scene: Scene,
        start: int = 0,
        upstream: Tensor | None = None,
        *,
        rotate: bool = False,
        checkpoint: bool = False,
    ) -> None:
        self.scene = scene
        self.start = start
        self.turn = 0
        self._groups: list[Collection[int] | None] = list(scene.policy.groups(scene.model.graph)) if rotate else [None]
        self._checkpoint = checkpoint
        self._upstream = scene.embedded[None] if upstream is None else upstream
        self._upstream_differences = self._upstream - scene.ablated[: self._upstream.shape[0]]
        stream = self._upstream.sum(0) + scene.model.constant(scene.context)
        for layer in range(start):
            stream = stream + scene.model.attention_constant(layer)
        self._stream = stream

    def final(self, masks: Tensor) -> Tensor:
        """The logits' input at the answer positions, `[J, B, A, D]`, for masks `[J, edges]` in [0, 1]."""
        group = self._groups[self.turn % len(self._groups)]
        self.turn += 1
        with self._investigating(group):
            return self._run(masks, None, group)

    def outputs(self, mask: Tensor) -> Tensor:
        """Every writer's output `[W, B, T, D]` under one mask `[edges]`."""
        collected: list[Tensor] = []
        self._run(mask[None], collected)
        return torch.cat([self._upstream, *(block[:, 0] for block in collected)])

    def values(self, masks: Tensor) -> Tensor:
        """The objective under masks `[J, edges]`, `[J, B]`."""
        return self.scene.values(self.final(masks))

    def _investigating(self, group: Collection[int] | None) -> AbstractContextManager[None]:
        return nullcontext() if group is None else self.scene.policy.investigate(group)

    def _run(self, masks: Tensor, collected: list[Tensor] | None, group: Collection[int] | None = None) -> Tensor:
        scene, model, graph = self.scene, self.scene.model, self.scene.model.graph
        removed = 1 - masks.to(model.device, model.dtype)
        differences = _Differences(self._upstream_differences, scene.ablated, len(masks))

        def wrote(first: int, outputs: Tensor) -> Tensor:
            """What writers from number `first` on add to the stream, by their outputs `[n, J, B, T, D]`."""
            if (offset := scene.offset(slice(first, first + len(outputs)))) is not None:
                outputs = outputs + offset.unsqueeze(1)
            if collected is not None:
                collected.append(outputs)
            return differences.write(first, outputs)

        def run_layer(layer: int, stream: Tensor, removed: Tensor) -> Tensor:
            block = graph.attention(layer)
            weights = graph.matrix(removed, block)  # [J, R, P]
            if graph.mlps:  # the MLP reads the writers before the layer in the same product
                of_mlp = graph.matrix(removed, graph.mlp_block(layer))  # [J, 1, P or P + H]
                weights = torch.cat([weights, of_mlp[..., : block.writers]], 1)
            inputs, *rest = differences.read(stream, weights).split(len(block.readers))
            heads = model.heads(layer, inputs, scene.context)
            added = wrote(block.writers, heads) + model.attention_constant(layer)
            if not graph.mlps:
                return stream + added
            (x,) = rest  # [1, J, B, T, D]
            if not graph.parallel:
                x = differences.read(x[0] + added, of_mlp[..., block.writers :], block.writers)
            return stream + added + wrote(graph.mlp(layer), model.mlp(layer, x))

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            """Of a layer's run, which is inside the investigation already, and of its repetition, which is not."""
            return nullcontext(), self._investigating(group)

        step: Callable[[int, Tensor, Tensor], Tensor] = run_layer
        if self._checkpoint and torch.is_grad_enabled():
            step = partial(checkpoint, run_layer, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        stream = self._stream.expand(len(masks), *self._stream.shape)  # [J, B, T, D]
        for layer in range(self.start, graph.layers):
            stream = step(layer, stream, removed)
        positions = scene.batch.answer_positions.clamp(min=0)
        base, at_answers = differences.at(positions, model.at_answers(stream, scene.batch))
        return at_answers.read(base, graph.matrix(removed, graph.blocks[-1]))[0]


class _Differences:
    """The differences o_w - õ_w of the writers so far, `[W, J, B, T, D]`.

    They stand in one buffer that is written as the run goes on, so that a product over a prefix of the writers is one
    matrix product. Autograd allows no such thing; so `read` and `write` bring their own backward passes, which have one
    buffer of gradients: that of a read adds to the gradients of the differences it read, that of a write takes those
    of its own writers. What `write` returns joins the stream, and every later `read` starts from the stream: so
    autograd comes to a write when it has been through all reads behind it.

    Args:
        upstream: those of the first writers, the same for every mask, `[P, B, T, D]`.
        ablated: õ, `[W, B, T, D]` or what broadcasts to it.
        masks: J.
    """

    def __init__(self, upstream: Tensor, ablated: Tensor, masks: int) -> None:
        before, writers = upstream.shape[0], ablated.shape[0]
        self._ablated = ablated
        self._shared = upstream[: before if before > 1 else 0]  # `input` alone is not worth a product of its own
        self._own = upstream.new_empty(writers - len(self._shared), masks, *upstream.shape[1:])
        if before == 1:
            self._own[0] = upstream[0]
        self.gradients: Tensor | None = None  # of `_own`

    def write(self, first: int, outputs: Tensor) -> Tensor:
        """Take in the outputs `[n, J, B, T, D]` of the writers from number `first` on; their sum `[J, B, T, D]`."""
        total: Tensor = _apply(_Write, outputs, self, first)
        return total

    def read(self, base: Tensor, weights: Tensor, first: int = 0) -> Tensor:
        """Readers' inputs: `base` minus the weighted differences.

        Args:
            base: `[J, *]`; it depends on the sums that `write` returned for the writers read.
            weights: `[J, R, n]`, of the n writers from number `first` on.

        Returns:
            `[R, J, *]`.
        """
        inputs: Tensor = _apply(_Read, base, weights, self, first)
        return inputs

    def at(self, positions: Tensor, base: Tensor) -> tuple[Tensor, "_Differences"]:
        """The differences at positions `[B, A]` of the prompts, to be read with the base returned, `base` itself."""
        where = torch.arange(len(positions), device=positions.device)[:, None], positions
        there = copy.copy(self)
        there._shared, there._own = self._shared[:, *where], self._own[:, :, *where]
        tied: Tensor = _apply(_At, base, self, there, where)
        return tied, there

    # The same without gradients, and the gradients; for the functions below

    def put(self, first: int, outputs: Tensor) -> None:
        """Take in the outputs of writers."""
        start, stop = first - len(self._shared), first - len(self._shared) + len(outputs)
        torch.sub(outputs, self._ablated[first : first + len(outputs)].unsqueeze(1), out=self._own[start:stop])

    def subtracted(self, base: Tensor, weights: Tensor, first: int) -> Tensor:
        """Readers' inputs."""
        inputs = base.flatten(1).unsqueeze(1).repeat(1, weights.shape[1], 1)  # [J, R, *]
        for part, values in self._parts(first, weights.shape[2]):
            of_values = weights[..., part].reshape(len(values), -1, values.shape[1])
            inputs.view(len(values), -1, inputs.shape[2]).baddbmm_(of_values, values, alpha=-1)
        by_reader: Tensor = inputs.transpose(0, 1).unflatten(2, base.shape[1:])
        return by_reader

    def back(self, gradient: Tensor, weights: Tensor, first: int) -> Tensor:
        """The weights' gradient from that of the inputs; the differences' is added to `gradients`."""
        gradient = gradient.flatten(2).transpose(0, 1).contiguous()  # [J, R, *]
        slopes = [
            (gradient.view(len(values), -1, gradient.shape[2]) @ values.mT).view(*weights.shape[:2], -1)
            for _, values in self._parts(first, weights.shape[2])
        ]
        if self.gradients is None:
            self.gradients = torch.zeros_like(self._own)
        own = max(len(self._shared) - first, 0)
        start, stop = first + own - len(self._shared), first + weights.shape[2] - len(self._shared)
        rows = self.gradients[start:stop].flatten(2).transpose(0, 1)
        rows.baddbmm_(weights[..., own:].mT, gradient, alpha=-1)
        return -torch.cat(slopes, 2)

    def start_backward(self, there: "_Differences", where: tuple[Tensor, Tensor]) -> None:
        """Begin the gradients with those of `there`, what `at` gave."""
        self.gradients, some, there.gradients = torch.zeros_like(self._own), there.gradients, None
        if some is not None:
            by_position = (2, 3, 0, 1, 4)  # [B, T, W, J, D]
            self.gradients.permute(by_position).index_put_(where, some.permute(by_position), accumulate=True)

    def gradients_of(self, first: int, count: int) -> Tensor:
        """A view of some writers' gradients, `[n, J, *]`."""
        assert self.gradients is not None, "the logits read every writer"
        return self.gradients[first - len(self._shared) : first - len(self._shared) + count]

    def _parts(self, first: int, count: int) -> Iterator[tuple[slice, Tensor]]:
        """The values of writers, `[1 or J, n, *]` in one piece or two, and which of the `count` each has."""
        shared = len(self._shared)
        split = min(max(shared - first, 0), count)
        if split:
            yield slice(split), self._shared[first : first + split].flatten(1)[None]
        if split < count:
            own = self._own[first + split - shared : first + count - shared]
            yield slice(split, count), own.flatten(2).transpose(0, 1)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`Function.apply`, which torch leaves untyped."""
    return function.apply(*arguments)


class _Write(torch.autograd.Function):
    """`_Differences.write`."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, differences: _Differences, first: int) -> Tensor:
        ctx.differences, ctx.first, ctx.count = differences, first, len(outputs)
        differences.put(first, outputs)
        return outputs.sum(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.differences.gradients_of(ctx.first, ctx.count).add_(gradient), None, None


class _Read(torch.autograd.Function):
    """`_Differences.read`."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, weights: Tensor, differences: _Differences, first: int) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.differences, ctx.first = differences, first
        return differences.subtracted(base, weights, first)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        return gradient.sum(0), ctx.differences.back(gradient, weights, ctx.first), None, None


class _At(torch.autograd.Function):
    """`_Differences.at`: its backward starts that of all differences, with the gradients at the positions alone."""

    @staticmethod
    def forward(
        ctx: Any, base: Tensor, whole: _Differences, there: _Differences, where: tuple[Tensor, Tensor]
    ) -> Tensor:
        ctx.whole, ctx.there, ctx.where = whole, there, where
        return base.view_as(base)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.whole.start_backward(ctx.there, ctx.where)
        return gradient, None, None, None
