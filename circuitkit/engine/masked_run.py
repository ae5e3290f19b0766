"""The masked run, equation (1): every reader gets each writer's output, its ablated output, or a mixture of both.

For a reader r and the writers w before it, with m in [0, 1] for every edge,

    x_r = sum over w of  m_wr o_w + (1 - m_wr) õ_w  =  stream - sum over w of (1 - m_wr) (o_w - õ_w)        (1)

where o_w is the writer's output in this run and õ_w its ablated output. It is computed layer by layer, as one matrix
product of 1 - m with the differences o - õ of the writers before the layer. It is differentiable in m.

Steps per layer:

1. Compute the inputs of all readers of the layer from the writers before it, in one product.
2. Compute the heads' outputs.
3. Subtract the removed parts of these heads from the MLP's input, and compute its output.

Outputs are added to the stream, and their differences to a buffer with its own backward pass (`_Differences`).
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

from circuitkit.engine import memory
from circuitkit.engine.memory import kept_by_autograd
from circuitkit.engine.prepared_batch import PreparedBatch


class MaskedRun:
    """Runs equation (1) for several masks at once.

    Args:
        prepared: model, batch, ablation.
        start: the first layer to run; the writers before it have the outputs `upstream`.
        upstream: outputs `[U, B, T, D]` of the U writers before layer `start`, the same for every mask; by default
            those of the writers before the first layer.
        rotate: investigate the policy's groups of readers in turn, one per call of `values` or `final`. Otherwise the
            caller tells the policy what to investigate.
        checkpoint: keep only the stream before each layer, and compute the layer again in the backward pass.

    Attributes:
        group: a counter of calls; modulo the number of groups, the group that the next call investigates.
    """

    def __init__(
        self,
        prepared: PreparedBatch,
        start: int = 0,
        upstream: Tensor | None = None,
        *,
        rotate: bool = False,
        checkpoint: bool = False,
    ) -> None:
        self.prepared = prepared
        self.start = start
        self.group = 0
        self._groups: list[Collection[int] | None] = (
            list(prepared.policy.groups(prepared.model.graph)) if rotate else [None]
        )
        self._checkpoint = checkpoint
        self._upstream = prepared.inputs if upstream is None else upstream
        self._upstream_differences = self._upstream - prepared.ablated[: self._upstream.shape[0]]
        stream = self._upstream.sum(0) + prepared.model.constant(prepared.context)
        for layer in range(start):
            stream = stream + prepared.model.attention_constant(layer)
        self._stream = stream

    def final(self, masks: Tensor) -> Tensor:
        """Compute the logits' input at the answer positions, `[J, B, A, D]`, for masks `[J, edges]` in [0, 1]."""
        group = self._groups[self.group % len(self._groups)]
        self.group += 1
        with self._investigating(group):
            return self._run(masks, None, group)

    def outputs(self, mask: Tensor) -> Tensor:
        """Compute every writer's output `[W, B, T, D]` under one mask `[edges]`."""
        collected: list[Tensor] = []
        self._run(mask[None], collected)
        return torch.cat([self._upstream, *(block[:, 0] for block in collected)])

    def values(self, masks: Tensor) -> Tensor:
        """Compute the objective under masks `[J, edges]`, `[J, B]`."""
        return self.prepared.values(self.final(masks))

    def _investigating(self, group: Collection[int] | None) -> AbstractContextManager[None]:
        return nullcontext() if group is None else self.prepared.policy.investigate(group)

    def _run(self, masks: Tensor, collected: list[Tensor] | None, group: Collection[int] | None = None) -> Tensor:
        prepared, model, graph = self.prepared, self.prepared.model, self.prepared.model.graph
        removed = 1 - masks.to(model.device, model.dtype)
        differences = _Differences(self._upstream_differences, prepared.ablated, len(masks))
        run_layer: Callable[[int, Tensor, Tensor], Tensor] = _Pass(prepared, differences, collected).run_layer

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            """Return contexts for a layer's forward pass, and for its repetition when `_investigating` has ended."""
            return nullcontext(), self._investigating(group)

        if self._checkpoint and torch.is_grad_enabled():
            run_layer = partial(
                checkpoint, run_layer, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
            )
        stream = self._stream.expand(len(masks), *self._stream.shape)  # [J, B, T, D]
        for layer in range(self.start, graph.layers):
            stream = run_layer(layer, stream, removed)
            memory.release(layer, stream)
        base, at_answers = differences.at(prepared.batch.read_positions, model.at_answers(stream, prepared.batch))
        return at_answers.read(base, graph.matrix(removed, graph.blocks[-1]))[0]


def kept_per_layer(prepared: PreparedBatch) -> int:
    """Measure the bytes that autograd keeps of one layer of a masked run of one prompt."""
    model, graph, last = prepared.model, prepared.model.graph, prepared.model.graph.layers - 1
    differences = _Differences(prepared.inputs, prepared.ablated, 1)
    removed = torch.zeros(1, len(graph), dtype=model.dtype, device=model.device).requires_grad_()
    stream = prepared.inputs[:1].clone().requires_grad_()
    known = [*model.model.parameters(), *model.model.buffers(), *prepared.context.tensors(), removed, differences._own]
    run = _Pass(prepared, differences, None)
    return kept_by_autograd(lambda: run.run_layer(last, stream, removed), iter(known))


class _Pass:
    """One pass of a masked run through the layers.

    Args:
        prepared: model, prompts, ablation.
        differences: the pass's buffer.
        collected: a list to append the outputs of every block of writers to, `[n, J, B, T, D]`; None: do not keep them.
    """

    def __init__(self, prepared: PreparedBatch, differences: "_Differences", collected: list[Tensor] | None) -> None:
        self._prepared, self._differences, self._collected = prepared, differences, collected

    def run_layer(self, layer: int, stream: Tensor, removed: Tensor) -> Tensor:
        """Run a layer, and return the stream after it.

        Args:
            layer: its number.
            stream: the stream before it, `[J, B, T, D]`.
            removed: 1 - m, `[J, edges]`.
        """
        model, graph = self._prepared.model, self._prepared.model.graph
        block = graph.attention(layer)
        weights = graph.matrix(removed, block)  # [J, R, U]
        if graph.mlps:  # the MLP reads the writers before the layer in the same product
            of_mlp = graph.matrix(removed, graph.mlp_block(layer))  # [J, 1, U or U + H]
            weights = torch.cat([weights, of_mlp[..., : block.writers]], 1)
        inputs, *rest = self._differences.read(stream, weights).split(len(block.readers))
        heads = model.heads(layer, inputs, self._prepared.context)
        added = self._add(block.writers, heads) + model.attention_constant(layer)
        if not graph.mlps:
            return stream + added
        (x,) = rest  # [1, J, B, T, D]
        if not graph.parallel:
            x = self._differences.read(x[0] + added, of_mlp[..., block.writers :], block.writers)
        return stream + added + self._add(graph.mlp(layer), model.mlp(layer, x))

    def _add(self, first: int, outputs: Tensor) -> Tensor:
        """Add the outputs `[n, J, B, T, D]` of writers from number `first` on to the buffer; return their sum."""
        if (offset := self._prepared.offset(slice(first, first + len(outputs)))) is not None:
            outputs = outputs + offset.unsqueeze(1)
        if self._collected is not None:
            self._collected.append(outputs)
        return self._differences.write(first, outputs)


class _Differences:
    """The differences o_w - õ_w of the writers so far, `[W, J, B, T, D]`.

    One buffer is filled during the run, so that the sum over all writers before a reader is one matrix product.
    Autograd does not allow such writes, so `write` and `read` have their own backward passes, which share a buffer of
    gradients. The backward pass of `read` adds to the gradients of the differences that it read. That of `write`
    returns the gradients of the writers that it wrote. The order is safe: the result of `write` is added to the
    stream, and every later `read` starts from the stream. So autograd reaches a `write` only after all reads downstream
    of it.

    Args:
        upstream: the differences of the first U writers, the same for every mask, `[U, B, T, D]`.
        ablated: õ, `[W, B, T, D]` or a shape that broadcasts to it.
        masks: J.
    """

    def __init__(self, upstream: Tensor, ablated: Tensor, masks: int) -> None:
        before, writers = upstream.shape[0], ablated.shape[0]
        self._ablated = ablated
        # For `input` alone, a separate product costs more than it saves
        self._shared = upstream[: before if before > 1 else 0]
        self._own = upstream.new_empty(writers - len(self._shared), masks, *upstream.shape[1:])
        if before == 1:
            self._own[0] = upstream[0]
        self.gradients: Tensor | None = None  # of `_own`

    def write(self, first: int, outputs: Tensor) -> Tensor:
        """Add the outputs `[n, J, B, T, D]` of the writers from number `first` on; return their sum `[J, B, T, D]`."""
        total: Tensor = _apply(_Write, outputs, self, first)
        return total

    def read(self, base: Tensor, weights: Tensor, first: int = 0) -> Tensor:
        """Compute readers' inputs: `base` minus the weighted differences.

        Args:
            base: `[J, *]`; it depends on the sums that `write` returned for the writers that are read.
            weights: `[J, R, n]`, of the n writers from number `first` on.

        Returns:
            `[R, J, *]`.
        """
        inputs: Tensor = _apply(_Read, base, weights, self, first)
        return inputs

    def at(self, positions: Tensor, base: Tensor) -> tuple[Tensor, "_Differences"]:
        """Select the differences at positions `[B, A]`; return `base`, tied to them for autograd, and them."""
        where = torch.arange(len(positions), dtype=torch.int64, device=positions.device)[:, None], positions
        there = copy.copy(self)
        there._shared, there._own = self._shared[:, *where], self._own[:, :, *where]
        tied: Tensor = _apply(_At, base, self, there, where)
        return tied, there

    # Forward and backward passes, for the autograd functions below

    def put(self, first: int, outputs: Tensor) -> None:
        """Add the outputs of writers."""
        start, stop = first - len(self._shared), first - len(self._shared) + len(outputs)
        torch.sub(outputs, self._ablated[first : first + len(outputs)].unsqueeze(1), out=self._own[start:stop])

    def subtract(self, base: Tensor, weights: Tensor, first: int) -> Tensor:
        """Compute readers' inputs."""
        inputs = base.flatten(1).unsqueeze(1).repeat(1, weights.shape[1], 1)  # [J, R, *]
        for part, values in self._parts(first, weights.shape[2]):
            of_values = weights[..., part].reshape(len(values), -1, values.shape[1])
            inputs.view(len(values), -1, inputs.shape[2]).baddbmm_(of_values, values, alpha=-1)
        by_reader: Tensor = inputs.transpose(0, 1).unflatten(2, base.shape[1:])
        return by_reader

    def backward(self, gradient: Tensor, weights: Tensor, first: int) -> Tensor:
        """Compute the gradient of the weights from that of the inputs; add that of the differences to `gradients`."""
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
        """Initialize the gradients with those of `there`, the result of `at`."""
        self.gradients, some, there.gradients = torch.zeros_like(self._own), there.gradients, None
        if some is not None:
            by_position = (2, 3, 0, 1, 4)  # [B, T, W, J, D]
            self.gradients.permute(by_position).index_put_(where, some.permute(by_position), accumulate=True)

    def gradients_of(self, first: int, count: int) -> Tensor:
        """Return a view of some writers' gradients, `[n, J, *]`."""
        assert self.gradients is not None, "the logits read every writer"
        return self.gradients[first - len(self._shared) : first - len(self._shared) + count]

    def _parts(self, first: int, count: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield places among some writers, and their differences: shared ones `[1, n, *]`, others `[J, n, *]`."""
        shared = len(self._shared)
        split = min(max(shared - first, 0), count)
        if split:
            yield slice(split), self._shared[first : first + split].flatten(1)[None]
        if split < count:
            own = self._own[first + split - shared : first + count - shared]
            yield slice(split, count), own.flatten(2).transpose(0, 1)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """Call `Function.apply`, which torch leaves untyped."""
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
        return differences.subtract(base, weights, first)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        return gradient.sum(0), ctx.differences.backward(gradient, weights, ctx.first), None, None


class _At(torch.autograd.Function):
    """`_Differences.at`; its backward pass initializes the gradients of all differences from those at the positions."""

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
