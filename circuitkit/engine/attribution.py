"""First-order effects of removing every edge, from one backward pass (Syed et al. 2023, arXiv 2310.10348).

    score(w -> r) = (õ_w - o_w) . dL/dx_r,  summed over positions

No reader has a pass of its own: all readers of a layer share the stream's value, so that one backward gives every
reader's own gradient, which is contracted with the differences of the writers before it as soon as it is known.

Steps: capture the ablated outputs; run the clean prompts, keeping the differences õ - o and a graph for autograd
in which every reader's input is a point of its own; one backward from the objective, during which each block's
gradients `[R, B, T, D]` are made, contracted, summed into the stream's gradient and dropped.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from circuitkit.engine.scene import Scene
from circuitkit.models.circuit_model import CircuitModel, apply_by_head
from circuitkit.models.norm import Norm
from circuitkit.models.weights import AttentionWeights

Sink = Callable[[Tensor], None]
"""Takes gradients of a block's readers, `[R, B, T, D]`."""


def attribute(scene: Scene) -> Tensor:
    """Estimated effect of removing each edge alone, summed over the prompts of the scene.

    Args:
        scene: model under its policy, batch, objective and ablation.

    Returns:
        `[edges]`: objective after the removal minus before; positive where the edge helps.
    """
    graph = scene.model.graph
    scores = scene.embedded.new_zeros(len(graph))
    for group in scene.policy.groups(graph):
        with scene.policy.investigate(group):
            estimated = _Pass(scene).scores()
        if len(group) == graph.n_readers:
            return estimated
        for reader in group:
            scores[graph.edges(reader)] = estimated[graph.edges(reader)]
    return scores


class _Pass:
    """One forward and one backward."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.model: CircuitModel = scene.model
        graph = self.model.graph
        shape = (graph.n_writers, *scene.embedded.shape)
        ablated = scene.ablated
        # One set of differences: the ablated outputs, from which the clean ones are subtracted as they come
        self._differences = ablated.clone() if ablated.shape == shape else ablated.expand(shape).clone()
        self._scores = scene.embedded.new_zeros(len(graph))

    @torch.enable_grad()
    def scores(self) -> Tensor:
        """Run forward and backward; the scores `[edges]`."""
        scene, model, graph = self.scene, self.model, self.model.graph
        self._wrote(slice(0, 1), scene.embedded[None])
        stream = (scene.embedded + model.constant(scene.context)).requires_grad_()
        start = stream
        for layer in range(graph.layers):
            before = stream
            stream = stream + self._attention(layer, stream) + model.attention_constant(layer)
            if graph.mlps:
                block = graph.mlp_block(layer)
                sink = self._sink(block.edges, block.writers)
                read: Tensor = _apply(_Read, before if graph.parallel else stream, sink)
                mlp = model.mlp(layer, read)
                self._wrote(slice(graph.mlp(layer), graph.mlp(layer) + 1), mlp.detach()[None])
                stream = stream + mlp
        last = graph.blocks[-1]
        stream = _apply(_Read, stream, self._sink(last.edges, last.writers))
        value = scene.values(model.at_answers(stream, scene.batch)).sum()
        torch.autograd.grad(value, start)
        return self._scores

    def _attention(self, layer: int, stream: Tensor) -> Tensor:
        """What a layer's heads add together, `[B, T, D]`."""
        model, graph = self.model, self.model.graph
        block, weights = graph.attention(layer), model.weights.attention(layer)
        sink = self._sink(block.edges, block.writers)
        q, k, v = _apply(_Project, stream, model.attention_norm(layer), weights, graph.kv_readers, sink)
        gathered = model.attend(layer, q, k, v, self.scene.context)
        heads = graph.heads_of(layer)
        total: Tensor = _apply(_Write, gathered, weights.o, lambda outputs: self._wrote(heads, outputs))
        return total

    def _wrote(self, writers: slice, outputs: Tensor) -> None:
        self._differences[writers] -= outputs

    def _sink(self, edges: slice, writers: int) -> Sink:
        def contract(gradients: Tensor) -> None:
            matrix = self._scores[edges].view(gradients.shape[0], writers)
            matrix.addmm_(gradients.flatten(1), self._differences[:writers].flatten(1).T)

        return contract


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    """`Function.apply`, which torch leaves untyped."""
    return function.apply(*arguments)


class _Read(torch.autograd.Function):
    """A reader's input; its gradient goes to the sink on the way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sink: Sink) -> Tensor:
        ctx.sink = sink
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.sink(gradient[None])
        return gradient, None


class _Project(torch.autograd.Function):
    """Queries, keys and values of a layer from one stream; backwards, a gradient for each reader."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: Norm, weights: AttentionWeights, kv_readers: int, sink: Sink
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.norm, ctx.weights, ctx.sink = norm, weights, sink
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
        (x,) = ctx.saved_tensors
        readers = sum(gradient.shape[0] for gradient in gradients)
        inputs = x.new_empty(readers, x.numel() // x.shape[-1], x.shape[-1])  # [R, B * T, D]
        start = 0
        for gradient, weight in zip(gradients, (ctx.weights.q, ctx.weights.k, ctx.weights.v), strict=True):
            stop = start + gradient.shape[0]
            share = gradient.shape[0] // weight.shape[0]
            rows = gradient.reshape(weight.shape[0], -1, weight.shape[1])
            torch.bmm(rows, weight, out=inputs[start:stop].view(weight.shape[0], share * inputs.shape[1], -1))
            start = stop
        by_reader = ctx.norm.vjp(x, inputs.view(readers, *x.shape))
        ctx.sink(by_reader)
        return by_reader.sum(0), None, None, None, None


class _Write(torch.autograd.Function):
    """Sum of the heads' outputs; each head's own goes to `wrote` on the way."""

    @staticmethod
    def forward(ctx: Any, gathered: Tensor, o: Tensor, wrote: Callable[[Tensor], None]) -> Tensor:
        ctx.o = o
        outputs = torch.bmm(gathered.flatten(1, -2), o)  # [H, B * T, D]
        wrote(outputs.unflatten(1, gathered.shape[1:-1]))
        total: Tensor = outputs.sum(0).unflatten(0, gathered.shape[1:-1])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        flat = ctx.o.reshape(-1, ctx.o.shape[-1])  # [H * E, D]
        return (gradient @ flat.T).unflatten(-1, (ctx.o.shape[0], -1)).movedim(-2, 0), None, None
