"""The masked run, equation (1): a model whose readers see each writer's output, its ablated output, or a mixture.

For a reader r and the writers w before it, with m in [0, 1] for every edge,

    x_r = sum over w of  m_wr o_w + (1 - m_wr) õ_w  =  stream - sum over w of (1 - m_wr) (o_w - õ_w)        (1)

where o_w is the writer's output in this very run and õ_w its ablated output. It is computed a layer at a time, as
one product of the removed shares (1 - m) with the differences (o - õ) of the causal prefix of writers. Gradients in
m flow.

Steps, layer by layer: the readers' inputs from stream and differences; the heads' outputs; likewise the MLP; both
join the stream and the differences.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from circuitkit.engine.scene import Scene
from circuitkit.graph import Block


class MaskedRun:
    """Runs equation (1) for several masks at once.

    Args:
        scene: model, batch, ablation.
        start: the first layer to run; what stands before it is taken from `upstream`.
        upstream: outputs `[P, B, T, D]` of the writers before layer `start`, the same for every mask; by default
            that of `input` alone.
    """

    def __init__(self, scene: Scene, start: int = 0, upstream: Tensor | None = None) -> None:
        self.scene = scene
        self.start = start
        self._upstream = scene.embedded[None] if upstream is None else upstream
        before = self._upstream.shape[0]
        self._ablated = scene.ablated
        self._upstream_differences = self._upstream - self._ablated[:before]
        stream = self._upstream.sum(0) + scene.model.constant(scene.context)
        for layer in range(start):
            stream = stream + scene.model.attention_constant(layer)
        self._stream = stream

    def final(self, masks: Tensor) -> Tensor:
        """The logits' input at the answer positions, `[J, B, A, D]`, for masks `[J, edges]` in [0, 1]."""
        return self._run(masks, None)

    def outputs(self, mask: Tensor) -> Tensor:
        """Every writer's output `[W, B, T, D]` under one mask `[edges]`."""
        collected: list[Tensor] = []
        self._run(mask[None], collected)
        return torch.cat([self._upstream, *(block[:, 0] for block in collected)])

    def values(self, masks: Tensor) -> Tensor:
        """The objective under masks `[J, edges]`, `[J, B]`."""
        return self.scene.values(self.final(masks))

    def _run(self, masks: Tensor, collected: list[Tensor] | None) -> Tensor:
        model, graph = self.scene.model, self.scene.model.graph
        removed = 1 - masks.to(model.device, model.dtype)
        stream = self._stream.expand(len(masks), *self._stream.shape)  # [J, B, T, D]
        differences = _Differences(self._upstream_differences, graph.n_writers, len(masks))

        def read(block: Block) -> Tensor:
            """Inputs of a block's readers, `[R, J, B, T, D]`."""
            return stream - differences.weighted(graph.matrix(removed, block))

        def wrote(outputs: Tensor) -> Tensor:
            writers = slice(differences.count, differences.count + len(outputs))
            if (offset := self.scene.offset(writers)) is not None:
                outputs = outputs + offset.unsqueeze(1)
            differences.append(outputs - self._ablated[writers].unsqueeze(1))
            if collected is not None:
                collected.append(outputs)
            return outputs

        for layer in range(self.start, graph.layers):
            heads = model.heads(layer, read(graph.attention(layer)), self.scene.context)
            mlp_input = read(graph.mlp_block(layer)) if graph.mlps and graph.parallel else None
            stream = stream + wrote(heads).sum(0) + model.attention_constant(layer)
            if graph.mlps:
                mlp = model.mlp(layer, read(graph.mlp_block(layer)) if mlp_input is None else mlp_input)  # [1, J, ...]
                stream = stream + wrote(mlp)[0]
        stream, final = model.at_answers(stream, self.scene.batch), graph.blocks[-1]
        differences.take(lambda x: model.at_answers(x, self.scene.batch))
        return (stream - differences.weighted(graph.matrix(removed, final)))[0]


class _Differences:
    """The differences o_w - õ_w of the writers so far.

    Without gradients they stand in one buffer, so that a product over the prefix is one matrix product; under
    autograd a buffer cannot be written in place, and the products of the pieces are summed.
    """

    def __init__(self, shared: Tensor, writers: int, masks: int) -> None:
        self.count = shared.shape[0]
        self._pieces: list[Tensor] = [shared.unsqueeze(1)]  # [n, J or 1, B, T, D]
        self._buffer: Tensor | None = None
        if not torch.is_grad_enabled():
            self._buffer = shared.new_empty(writers - self.count, masks, *shared.shape[1:])
        self._shared = self.count

    def append(self, differences: Tensor) -> None:
        """Add those of the next writers, `[n, J, B, T, D]`."""
        self.count += differences.shape[0]
        if self._buffer is None:
            self._pieces.append(differences)
        else:
            filled = self.count - self._shared
            self._buffer[filled - differences.shape[0] : filled] = differences
            self._pieces[1:] = [self._buffer[:filled]]

    def take(self, select: Callable[[Tensor], Tensor]) -> None:
        """Keep part of every difference only."""
        self._pieces = [select(piece) for piece in self._pieces]

    def weighted(self, weights: Tensor) -> Tensor:
        """Sums weighted by `[J, R, P]` over the first P writers, `[R, J, *]`; P ends with a piece or inside one."""
        total: Tensor | None = None
        start = 0
        for piece in self._pieces:
            stop = min(start + piece.shape[0], weights.shape[-1])
            if start >= stop:
                break
            part, used = weights[..., start:stop], piece[: stop - start]
            if piece.shape[1] == 1:  # the same for every mask
                product = torch.einsum("jrw,wx->rjx", part, used.flatten(1))
            else:
                product = torch.einsum("jrw,wjx->rjx", part, used.flatten(2))
            total = product if total is None else total + product
            start = stop
        assert total is not None, "every reader reads `input`"
        sums: Tensor = total.unflatten(2, self._pieces[0].shape[2:])
        return sums
