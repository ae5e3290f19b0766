"""The live state of an incremental search: inputs and outputs of all nodes in the current circuit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.circuit.graph import Block
from circuitkit.engine.capture import capture
from circuitkit.engine.editors.positions import Positions, needed_everywhere
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.attention import kv_readers_of


@dataclass
class LayerState:
    """One layer's live state; rows of dead nodes are undefined.

    Attributes:
        inputs: of the attention's readers, `[R, B, T, D]`.
        q: rotated queries `[H, B, T, E]`; k: rotated keys, v: values, one per reader `[K, B, T, E]`.
        projected: z W_O of coupled heads, before the norm that follows, `[H, B, T, D]`; None if they are not coupled.
        mlp_input: `[B, T, D]`.
    """

    inputs: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    projected: Tensor | None
    mlp_input: Tensor


class LiveState:
    """The inputs and outputs of all nodes in the current circuit, on the prompts of one batch.

    Args:
        prepared: model, prompts, objective, ablation.
        kept: the starting circuit, bool `[edges]`.

    Attributes:
        differences: o - õ of every writer, `[W, B, T, D]`.
        layers: by number, from the layer under search to the last.
        final: the logits' input at the answer positions, `[B, A, D]`.
        live: whether a writer has a path of kept edges to the logits, bool `[W]`.
        needed_everywhere: whether a live writer is needed at all positions, not only at the answers, bool `[W]`.
    """

    @torch.no_grad()
    def __init__(self, prepared: PreparedBatch, kept: Tensor) -> None:
        self.prepared, self.model, self.graph = prepared, prepared.model, prepared.model.graph
        self.positions = Positions(prepared)
        self.layers: dict[int, LayerState] = {}
        self.live = torch.ones(self.graph.n_writers, dtype=torch.bool)
        self.needed_everywhere = self.live.clone()
        self._ablated_streams = self._sum_ablated()
        with prepared.capturing():
            if bool(kept.all()):
                outputs = capture(self.model, prepared.inputs, prepared.context)
                self.differences = outputs.sub_(prepared.ablated)
            else:
                self._run_circuit(kept)
        self.final = self.differences[0, :, :1]

    def _run_circuit(self, kept: Tensor) -> None:
        """Compute the differences of live writers; those of others, which nothing reads, are 0."""
        prepared = self.prepared
        inputs = prepared.inputs
        self.differences = inputs.new_zeros(self.graph.n_writers, *inputs.shape[1:])
        self.differences[: len(inputs)] = inputs - prepared.ablated[: len(inputs)]
        self.look_downstream(kept)
        for block, ablated in zip(self.graph.blocks[:-1], self._ablated_streams, strict=False):
            if block.kind == "attention":
                self.layers.clear()  # only the layer's own readers are held
            self._rebuild_block(block, kept, ablated)
        self.layers.clear()

    def _sum_ablated(self) -> list[Tensor]:
        """Compute the ablated model's stream before every block, in the order of `graph.blocks`."""
        model, graph, prepared = self.model, self.graph, self.prepared
        stream = prepared.ablated[: graph.inputs].sum(0) + model.constant(prepared.context)
        streams = []
        for layer in range(graph.layers):
            streams.append(stream)
            after = stream + prepared.ablated[graph.heads_of(layer)].sum(0) + model.attention_constant(layer)
            if graph.mlps:
                # A parallel MLP reads the stream before the attention's output bias is added
                streams.append(stream if graph.parallel else after)
                after = after + prepared.ablated[graph.mlp(layer)]
            stream = after
        return [*streams, stream]

    @torch.no_grad()
    def rebuild(self, kept: Tensor, first: int) -> None:
        """Compute the live state of a layer and all later ones, from the outputs of the writers before it.

        Args:
            kept: the circuit, bool `[edges]`.
            first: the first layer to compute.
        """
        self.look_downstream(kept)
        graph = self.graph
        for block, ablated in zip(graph.blocks, self._ablated_streams, strict=True):
            if block.layer >= first:
                self._rebuild_block(block, kept, ablated)

    def _rebuild_block(self, block: Block, kept: Tensor, ablated: Tensor) -> None:
        graph, matrix = self.graph, self.graph.matrix(kept, block)
        if block.kind == "attention":
            self._rebuild_attention(block, matrix, ablated)
        elif block.kind == "mlp" and self.live[graph.mlp(block.layer)]:
            x = self._inputs(block, matrix, ablated)
            self.layers[block.layer].mlp_input = x[0]
            self._store_outputs([graph.mlp(block.layer)], self.model.mlp(block.layer, x))
        elif block.kind == "logits":
            self.final = self.model.at_answers(self._inputs(block, matrix, ablated)[0], self.prepared.batch)

    def _inputs(self, block: Block, matrix: Tensor, ablated: Tensor) -> Tensor:
        """Compute the inputs `[n, B, T, D]` of n readers with the kept edges `matrix` `[n, U]`."""
        used = matrix.any(0).nonzero()[:, 0]
        if 2 * len(used) < block.writers:  # copying a few differences is cheaper than multiplying all
            matrix, differences = matrix[:, used], self.differences[used]
        else:
            differences = self.differences[: block.writers]
        sums = matrix.to(differences) @ differences.flatten(1)
        return sums.view(len(matrix), *differences.shape[1:]).add_(ablated)

    def _store_outputs(self, writers: list[int], outputs: Tensor) -> None:
        if (offset := self.prepared.offset(writers)) is not None:
            outputs = outputs + offset
        self.differences[writers] = outputs - self.prepared.ablated[writers]

    def _rebuild_attention(self, block: Block, matrix: Tensor, ablated: Tensor) -> None:
        model, graph, layer = self.model, self.graph, block.layer
        if layer not in self.layers:
            self.layers[layer] = self._empty_layer(block)
        state = self.layers[layer]
        heads = self.live[graph.heads_of(layer)].nonzero()[:, 0]
        if not len(heads):
            return
        groups = kv_readers_of(graph, heads)
        rows = torch.cat([heads, graph.heads + groups, graph.heads + graph.kv_readers + groups])
        inputs = self._inputs(block, matrix[rows], ablated)
        context = self.prepared.context
        mask = model.attention_mask(layer, context)
        run = model.attention(layer).run(inputs, model.rotary(layer, context), mask, heads)
        state.inputs[rows] = inputs
        state.q[heads], state.k[groups], state.v[groups] = run.q, run.k, run.v
        if state.projected is not None:
            state.projected.copy_(run.projected)
        self._store_outputs((heads + graph.head(layer, 0)).tolist(), run.outputs)

    def _empty_layer(self, block: Block) -> LayerState:
        graph, family, shape = self.graph, self.model.family, self.differences.shape[1:3]
        # Rows of nodes that are never live are never written, and take no memory on the CPU
        make = self.differences.new_empty
        return LayerState(
            inputs=make(len(block.readers), *shape, family.width),
            q=make(graph.heads, *shape, family.head_width),
            k=make(graph.kv_readers, *shape, family.head_width),
            v=make(graph.kv_readers, *shape, family.head_width),
            projected=make(graph.heads, *shape, family.width) if graph.coupled else None,
            mlp_input=make(*shape, family.width),
        )

    def look_downstream(self, kept: Tensor) -> None:
        """Find the live writers and those needed at all positions, going backwards from the logits."""
        self.live = self.graph.live_writers(kept)
        self.needed_everywhere = needed_everywhere(self.graph, kept, self.live)

    @property
    def capture_bytes(self) -> int:
        """Bytes of the ablated outputs and of the differences."""
        ablated = self.prepared.ablated.untyped_storage().nbytes()
        return ablated + self.differences.untyped_storage().nbytes()

    @property
    def live_bytes(self) -> int:
        """Bytes of inputs, queries, keys and values of live heads; the rows of others take no memory on the CPU.

        The same in a resumed search, so that its batches are too.
        """
        graph, family = self.graph, self.model.family
        vectors = 0.0
        takes_all = self.model.device.type != "cpu"  # on the CPU, a page takes memory when it is first written
        for layer in self.layers:
            heads = (self.live[graph.heads_of(layer)] | takes_all).nonzero()[:, 0]
            rows = len(heads) + 2 * len(kv_readers_of(graph, heads))
            vectors += 1 + rows * (1 + family.head_width / family.width) + graph.coupled * len(heads)
        own = round(vectors * self.differences[0].nbytes)
        return own + sum(stream.untyped_storage().nbytes() for stream in self._ablated_streams)
