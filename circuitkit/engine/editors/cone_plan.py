"""The plan of a reader's cone: which nodes downstream of it can change, in which order, and at what cost.

The plan depends on the open reader and the circuit downstream of it, not on which edges a hypothesis removes. It is
made once per reader and run for many hypotheses (`cone.py`).

A node is *affected* if it is live and a path of kept edges leads to it from the open reader. A *delta* is the change of
an affected writer's output under a hypothesis; the first delta is the change of the open reader's input.

Steps are in the order of the forward pass. The affected part of a layer's attention is one step: its keys and values at
all positions, then its heads in up to two parts, those needed at all positions and those needed only at the answers. An
affected MLP is a step. The logits come last.

If heads are coupled and one of them is affected, the outputs of all change: all that anything reads have deltas, at the
same positions. Only z W_O of the affected ones is computed. If the norms of queries and keys are over all heads, one
affected query affects all queries, and one key all keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.circuit.graph import Block
from circuitkit.data.logits import LEAST_BYTES
from circuitkit.engine.editors.deltas import KeptEdges
from circuitkit.engine.editors.live_state import LiveState
from circuitkit.engine.editors.positions import PositionSet
from circuitkit.models.circuit_model import CircuitModel


@dataclass(frozen=True)
class PlannedReaders:
    """Affected readers of one kind in a step.

    Attributes:
        index: their numbers within the kind (query heads, key or value readers), ascending.
        rows: their rows in the block, as in `LayerState.inputs`.
        edges: the kept edges from deltas to them.
        live_inputs: their inputs in the current circuit, at the positions, `[n, B, P, D]`.
        at: the positions at which they are needed.
    """

    index: Tensor
    rows: Tensor
    edges: KeptEdges
    live_inputs: Tensor
    at: PositionSet


@dataclass(frozen=True)
class PlannedHeads:
    """Affected heads of a layer that are needed at one set of positions.

    Attributes:
        heads: their numbers within the layer.
        queries: those of the heads whose queries are affected.
        writers: the numbers of the writers whose outputs change: these heads, or all coupled ones with a kept edge.
        outputs_before: the writers' outputs in the current circuit, without the offset of anchored quantization,
            `[n, B, P, D]`.
        projected_before: z W_O of all heads of the layer in the current circuit, `[H, B, P, D]`, if they are coupled.
        at: the positions.
    """

    heads: Tensor
    queries: PlannedReaders | None
    writers: Tensor
    outputs_before: Tensor
    projected_before: Tensor | None
    at: PositionSet


@dataclass(frozen=True)
class AttentionStep:
    """The affected part of a layer's attention."""

    layer: int
    keys: PlannedReaders | None
    values: PlannedReaders | None
    parts: list[PlannedHeads]

    @property
    def readers(self) -> list[PlannedReaders]:
        """Return all affected readers."""
        found = [self.keys, self.values, *(part.queries for part in self.parts)]
        return [readers for readers in found if readers is not None]


@dataclass(frozen=True)
class MLPStep:
    """An affected MLP; `writers` is its number among the writers, `outputs_before` as in `PlannedHeads`."""

    layer: int
    input: PlannedReaders
    writers: Tensor
    outputs_before: Tensor


class ConePlan:
    """The plan of one reader's cone.

    Args:
        state: the live state, after `look_downstream`.
        reader: the open reader.
        kept: the circuit, bool `[edges]`. Not copied: while the reader is open, nothing downstream of it is removed.

    Attributes:
        reader_at: the positions at which the open reader is needed.
        steps: in the order of the forward pass.
        logits: the kept edges from deltas to the logits.
        room: how many deltas there are for each set of positions.
        bytes_per_hypothesis: memory that one hypothesis takes.
        rows: rows of one hypothesis in the largest matrix products (prompts x positions).
        cost: multiply-adds of one hypothesis, relative to a forward pass without the unembedding.
    """

    def __init__(self, state: LiveState, reader: int, kept: Tensor) -> None:
        self._state, self._model, self._graph, self._reader = state, state.model, state.graph, reader
        self._changed, self._answers = state.positions.changed, state.positions.answers
        block = self._graph.block(reader)
        self.reader_at: PositionSet = self._changed if self._needed_everywhere(block) else self._answers
        # The affected writers of each set of positions, in the order of their deltas
        self._writers: dict[PositionSet, list[int]] = {self._changed: [], self._answers: []}
        self._affected = torch.zeros(self._graph.n_writers, dtype=torch.bool)
        self._read = torch.zeros_like(self._affected)  # which writers have a kept edge
        if self._graph.coupled:
            self._read[self._graph.writer_of[kept]] = True
        self.steps: list[AttentionStep | MLPStep] = []
        self.logits: KeptEdges
        first = self._graph.blocks.index(block)
        for later in self._graph.blocks[first:]:
            self._plan_block(later, kept)
        self.room: dict[PositionSet, int] = {
            at: len(self._writers[at]) + self._has_reader_delta(at) for at in (self._changed, self._answers)
        }
        self.bytes_per_hypothesis = self._bytes()
        self.rows = len(state.prepared.batch) * (self._changed if self.room[self._changed] else self._answers).count
        self.cost = self._cost()

    def _needed_everywhere(self, block: Block) -> bool:
        if block.kind == "logits":
            return False
        kind, _, _ = self._graph.reader(self._reader)
        return kind in ("k", "v") or bool(
            self._state.needed_everywhere[list(self._graph.writers_fed_by(self._reader))].any()
        )

    def _has_reader_delta(self, at: PositionSet) -> bool:
        """Tell whether the first delta, the open reader's own, is in this set of positions."""
        return at is self._answers or self.reader_at is self._changed

    def _plan_block(self, block: Block, kept: Tensor) -> None:
        graph, state = self._graph, self._state
        matrix = graph.matrix(kept, block)
        affected = (matrix & self._affected[: block.writers]).any(1)
        if self._reader in block.readers:
            affected[self._reader - block.readers.start] = True
        first = torch.zeros(1, dtype=torch.long)
        if block.kind == "logits":
            self.logits = self._kept_edges(block, matrix, first, self._answers)
        elif block.kind == "attention":
            if affected.any():
                self._plan_attention(block, matrix, affected)
        elif affected[0] and state.live[graph.mlp(block.layer)]:
            writers = torch.tensor([graph.mlp(block.layer)], dtype=torch.int64)
            at = self._changed if state.needed_everywhere[writers] else self._answers
            x = at.take(state.layers[block.layer].mlp_input[None])
            readers = PlannedReaders(first, first, self._kept_edges(block, matrix, first, at), x, at)
            self.steps.append(MLPStep(block.layer, readers, writers, self._outputs_before(writers, at)))
            self._add_deltas(writers, at)

    def _plan_attention(self, block: Block, matrix: Tensor, affected: Tensor) -> None:
        graph, state, layer = self._graph, self._state, block.layer
        live = state.live[graph.heads_of(layer)]
        q, k, v = affected.split([graph.heads, graph.kv_readers, graph.kv_readers])
        share = graph.heads // graph.kv_readers
        if graph.coupled and self._model.attention(layer).heads_normed_together:
            q, k = q | q.any(), k | k.any()
        heads = (q | (k | v).repeat_interleave(share)) & live
        if not heads.any():
            return
        groups = heads.unflatten(0, (-1, share)).any(1)
        everywhere = state.needed_everywhere[graph.heads_of(layer)]

        def plan(which: Tensor, offset: int, at: PositionSet) -> PlannedReaders | None:
            index = which.nonzero()[:, 0]
            if not len(index):
                return None
            rows = index + offset
            edges = self._kept_edges(block, matrix, rows, at)
            return PlannedReaders(index, rows, edges, at.take(state.layers[layer].inputs[rows]), at)

        keys = plan(k & groups, graph.heads, self._changed)
        values = plan(v & groups, graph.heads + graph.kv_readers, self._changed)
        parts = []
        for at, some in ((self._changed, heads & everywhere), (self._answers, heads & ~everywhere)):
            if some.any():
                index = some.nonzero()[:, 0]
                changed = self._read[graph.heads_of(layer)].nonzero()[:, 0] if graph.coupled else index
                writers, projected = changed + graph.head(layer, 0), state.layers[layer].projected
                parts.append(
                    PlannedHeads(
                        index,
                        plan(q & some, 0, at),
                        writers,
                        self._outputs_before(writers, at),
                        None if projected is None else at.take(projected),
                        at,
                    )
                )
        for part in parts:
            self._add_deltas(part.writers, part.at)
        self.steps.append(AttentionStep(layer, keys, values, parts))

    def _kept_edges(self, block: Block, matrix: Tensor, rows: Tensor, at: PositionSet) -> KeptEdges:
        """Find the kept edges from the deltas so far to the readers in some `rows` of a block."""
        writers = [writer for writer in self._writers[at] if writer < block.writers]
        kept = matrix[rows][:, writers]
        if self._has_reader_delta(at):
            own = rows + block.readers.start == self._reader
            kept = torch.cat([own[:, None], kept], 1)
        return KeptEdges(kept.to(self._state.differences.device))

    def _outputs_before(self, writers: Tensor, at: PositionSet) -> Tensor:
        """Compute some writers' outputs in the current circuit, without their offset, `[n, B, P, D]`."""
        prepared = self._state.prepared
        outputs = at.take(self._state.differences[writers])
        ablated = prepared.ablated[writers]
        if ablated.shape[-2] > 1:
            ablated = at.take(ablated.expand(-1, *outputs.shape[1:2], -1, -1))
        outputs = outputs + ablated
        offset = prepared.offset(writers)
        return outputs if offset is None else outputs - at.take(offset)

    def _add_deltas(self, writers: Tensor, at: PositionSet) -> None:
        self._affected[writers] = True
        self._writers[self._answers] += writers.tolist()
        if at is self._changed:
            self._writers[self._changed] += writers.tolist()

    def _bytes(self) -> int:
        """Count the bytes of one hypothesis at its peak.

        They are all deltas, the bags of all kept edges, and the inputs and results of the largest step.
        """
        wide, narrow = self._changed.count, self._answers.count
        deltas = self.room[self._changed] * wide + self.room[self._answers] * narrow
        largest, index_bytes = 0, self.logits.index_bytes(narrow)
        for step in self.steps:
            read = [step.input] if isinstance(step, MLPStep) else step.readers
            index_bytes += sum(readers.edges.index_bytes(readers.at.count) for readers in read)
            if isinstance(step, MLPStep):
                largest = max(largest, 8 * step.input.at.count)
            else:
                keyed = [readers for readers in (step.keys, step.values) if readers is not None]
                vectors = sum(3 * len(readers.index) * wide for readers in keyed)
                vectors += sum(6 * len(part.heads) * part.at.count for part in step.parts)
                vectors += self._graph.coupled * sum((2 + 2 * len(part.writers)) * part.at.count for part in step.parts)
                largest = max(largest, vectors)
        vocabulary = self._model.family.unembedding()[0].shape[0]
        each = self._state.differences.element_size()
        bytes_per_prompt = (deltas + largest) * self._model.family.width * each + index_bytes
        bytes_per_prompt += 3 * narrow * vocabulary * max(each, LEAST_BYTES)
        return bytes_per_prompt * len(self._state.prepared.batch)

    @property
    def copied_bytes(self) -> int:
        """Bytes of live inputs, and of outputs in the current circuit, at the positions."""
        copies: list[Tensor] = []
        for step in self.steps:
            if isinstance(step, MLPStep):
                copies.append(step.outputs_before)
            else:
                copies += [readers.live_inputs for readers in step.readers]
                copies += [part.outputs_before for part in step.parts]
                at_answers = [part.projected_before for part in step.parts if part.at is self._answers]
                copies += [projected for projected in at_answers if projected is not None]  # otherwise a view
        return sum(copy.nbytes for copy in copies)

    def _cost(self) -> float:
        family, length = self._model.family, self._state.prepared.batch.length
        projection = family.head_width * family.width  # multiply-adds of one vector
        attending = 2 * length * family.head_width
        mlp = self._model.mlp_size
        used = float(self.logits.count * self._answers.count * family.width)
        for step in self.steps:
            if isinstance(step, MLPStep):
                used += mlp * step.input.at.count
                used += sum(self._read_cost([step.input], 0))
            else:
                used += sum(len(part.heads) * part.at.count * (projection + attending) for part in step.parts)
                used += sum(self._read_cost(step.readers, projection))
        return used / forward_macs(self._model, length)

    def _read_cost(self, readers: list[PlannedReaders], projection: int) -> Iterator[int]:
        """Yield the multiply-adds of each reader: its sum over kept edges, and its projection."""
        width = self._model.family.width
        for one in readers:
            yield one.at.count * (len(one.index) * projection + one.edges.count * width)


def forward_macs(model: CircuitModel, length: int) -> int:
    """Count the multiply-adds of a plain forward pass of one prompt of `length` tokens, without the unembedding."""
    graph, family = model.graph, model.family
    projections = 2 * family.head_width * family.width * (graph.heads + graph.kv_heads)
    attending = 2 * length * family.head_width * graph.heads
    return length * graph.layers * (projections + attending + model.mlp_size)
