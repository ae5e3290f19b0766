"""The cone behind a reader: the nodes that a change of its input can reach, planned once and run for many hypotheses.

A *change* is what a hypothesis adds to a writer's output, or (the first one) to the open reader's input. Steps, in the
order of the forward pass: a layer's affected keys and values, its affected heads (those needed at all positions apart
from those needed at the answers alone), its MLP; at the end the logits. A step's readers get their live input plus
the sum of the changes of the writers whose edges are kept; what its nodes then write, less what they wrote, is the
next change. All readers and heads of a step are one batched product.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.engine.changes import Changes, DifferentiableChanges, Reads, TableOfChanges
from circuitkit.engine.live import LiveState, project, write
from circuitkit.graph import Block


@dataclass
class _Readers:
    """Affected readers of one kind in a step.

    Attributes:
        index: their numbers within the kind (query heads, key-value readers), rising.
        rows: their rows in the layer's inputs.
        reads: which changes they see.
        inputs: their live inputs at the positions, `[n, B, P, D]`.
    """

    index: Tensor
    rows: Tensor
    reads: Reads
    inputs: Tensor


@dataclass
class _Heads:
    """Affected heads of a layer that are needed at one set of positions.

    Attributes:
        written: what they compute now, from live inputs, `[n, B, P, D]`.
    """

    heads: Tensor
    everywhere: bool
    queries: _Readers | None
    writers: Tensor
    written: Tensor


@dataclass
class _Attention:
    layer: int
    keys: _Readers | None
    values: _Readers | None
    heads: list[_Heads]


@dataclass
class _MLP:
    layer: int
    everywhere: bool
    readers: _Readers
    writer: Tensor
    written: Tensor


class Cone:
    """The cone behind one reader of a live state.

    Args:
        state: as the circuit stands; `look_behind` done.
        reader: the open reader.
        kept: the circuit, bool `[edges]`; a copy is not needed as nothing behind the reader changes while it is open.

    Attributes:
        bytes_per_hypothesis: what each of the hypotheses that run together takes.
        rows: of the largest matrices that a hypothesis is multiplied as.
        cost: multiply-adds of one hypothesis, of those of a plain forward without the unembedding.
    """

    def __init__(self, state: LiveState, reader: int, kept: Tensor) -> None:
        self.state, self.model, self.graph = state, state.model, state.graph
        self._positions = state.positions
        self._mlp = self.model.mlp if state.scene.policy.lowered() is None else self.model.mlp_again
        self._reader = reader
        block = self.graph.block(reader)
        self._everywhere = self._needed_everywhere(block)
        self._sources, self._skipped = state.differences[: block.writers], self._positions.start
        if not self._everywhere or 4 * self._skipped > state.scene.batch.length:  # else a copy is not worth its memory
            self._sources, self._skipped = self._positions.take(self._sources, self._everywhere).contiguous(), 0
        # The open reader's own change stands first in each order; then the writers whose output changes
        self._columns: dict[bool, list[int]] = {True: [-1] if self._everywhere else [], False: [-1]}
        self._affected = torch.zeros(self.graph.n_writers, dtype=torch.bool)
        self._steps: list[_Attention | _MLP] = []
        self._logits: Reads
        first = self.graph.blocks.index(block)
        for later in self.graph.blocks[first:]:
            self._plan(later, kept)
        self.bytes_per_hypothesis = self._bytes()
        self.rows = len(state.scene.batch) * self._positions.count(bool(self._columns[True]))
        self.cost = self._cost()

    # Planning

    def _needed_everywhere(self, block: Block) -> bool:
        if block.kind == "logits":
            return False
        kind, _, _ = self.graph.reader(self._reader)
        return kind in ("k", "v") or bool(self.state.everywhere[list(self.graph.owners(self._reader))].any())

    def _plan(self, block: Block, kept: Tensor) -> None:
        graph, state = self.graph, self.state
        matrix = graph.matrix(kept, block)
        hit = (matrix & self._affected[: block.writers]).any(1)
        if self._reader in block.readers:
            hit[self._reader - block.readers.start] = True
        if block.kind == "logits":
            self._logits = self._reads(block, matrix, torch.zeros(1, dtype=torch.long), everywhere=False)
        elif block.kind == "mlp":
            writer = graph.mlp(block.layer)
            if hit[0] and state.live[writer]:
                everywhere = bool(state.everywhere[writer])
                x = self._positions.take(state.layers[block.layer].mlp_input[None], everywhere)
                zero = torch.zeros(1, dtype=torch.long)
                readers = _Readers(zero, zero, self._reads(block, matrix, zero, everywhere), x)
                numbers = torch.tensor([writer])
                written = self._written(numbers, everywhere)
                self._steps.append(_MLP(block.layer, everywhere, readers, numbers, written))
                self._changes(numbers, everywhere)
        elif hit.any():
            self._plan_attention(block, matrix, hit)

    def _plan_attention(self, block: Block, matrix: Tensor, hit: Tensor) -> None:
        graph, state, layer = self.graph, self.state, block.layer
        live = state.live[graph.heads_of(layer)]
        q, k, v = hit.split([graph.heads, graph.kv_readers, graph.kv_readers])
        share = graph.heads // graph.kv_readers
        affected = (q | (k | v).repeat_interleave(share)) & live
        if not affected.any():
            return
        groups = affected.unflatten(0, (-1, share)).any(1)

        def readers(which: Tensor, offset: int, everywhere: bool) -> _Readers | None:
            index = which.nonzero()[:, 0]
            if not len(index):
                return None
            rows = index + offset
            inputs = self._positions.take(state.layers[layer].inputs[rows], everywhere)
            return _Readers(index, rows, self._reads(block, matrix, rows, everywhere), inputs)

        step = _Attention(
            layer,
            keys=readers(k & groups, graph.heads, True),
            values=readers(v & groups, graph.heads + graph.kv_readers, True),
            heads=[],
        )
        for everywhere in (True, False):
            some = affected & (state.everywhere[graph.heads_of(layer)] == everywhere)
            if some.any():
                heads = some.nonzero()[:, 0]
                writers = heads + graph.head(layer, 0)
                written, queries = self._written(writers, everywhere), readers(q & some, 0, everywhere)
                step.heads.append(_Heads(heads, everywhere, queries, writers, written))
        for part in step.heads:
            self._changes(part.writers, part.everywhere)
        self._steps.append(step)

    def _reads(self, block: Block, matrix: Tensor, rows: Tensor, everywhere: bool) -> Reads:
        """Which changes these readers of a block see."""
        columns = [writer for writer in self._columns[everywhere] if writer < block.writers]
        kept = matrix[rows][:, [max(writer, 0) for writer in columns]]
        if columns and columns[0] == -1:
            kept[:, 0] = rows + block.readers.start == self._reader
        return Reads(kept.to(self.state.differences.device))

    def _written(self, writers: Tensor, everywhere: bool) -> Tensor:
        """What some writers compute now: their output without its offset, at the positions, `[n, B, P, D]`."""
        state = self.state
        outputs = self._positions.take(state.differences[writers], everywhere)
        ablated = state.scene.ablated[writers]
        if ablated.shape[-2] > 1:
            ablated = self._positions.take(ablated.expand(-1, *outputs.shape[1:2], -1, -1), everywhere)
        outputs = outputs + ablated
        offset = state.scene.offset(writers)
        return outputs if offset is None else outputs - self._positions.take(offset, everywhere)

    def _changes(self, writers: Tensor, everywhere: bool) -> None:
        self._affected[writers] = True
        self._columns[False] += writers.tolist()
        if everywhere:
            self._columns[True] += writers.tolist()

    def _bytes(self) -> int:
        """What one hypothesis holds at its peak: all changes, the largest step's inputs, and what is made of them."""
        batch, width = len(self.state.scene.batch), self.model.family.width
        wide, narrow = self._positions.count(True), self._positions.count(False)
        changes = len(self._columns[True]) * wide + len(self._columns[False]) * narrow
        largest = 0
        vocabulary = self.model.family.unembedding()[0].shape[0]
        for step in self._steps:
            if isinstance(step, _MLP):
                largest = max(largest, 8 * (wide if step.everywhere else narrow))
            else:
                keyed = [readers for readers in (step.keys, step.values) if readers is not None]
                vectors = sum(3 * len(readers.index) * wide for readers in keyed)
                vectors += sum(6 * len(part.heads) * (wide if part.everywhere else narrow) for part in step.heads)
                largest = max(largest, vectors)
        numbers = (changes + largest) * width + 3 * narrow * vocabulary
        return numbers * batch * self.state.differences.element_size()

    def _cost(self) -> float:
        width, narrow = self.model.family.head_width * self.model.family.width, self._positions.count(False)
        length, graph = self.state.scene.batch.length, self.graph
        mlp = self.model.mlp_size
        attending = 2 * length * self.model.family.head_width
        whole = length * graph.layers * (2 * width * (graph.heads + graph.kv_heads) + attending * graph.heads + mlp)
        used = float(self._logits.edges * narrow * self.model.family.width)
        for step in self._steps:
            readers: list[tuple[_Readers | None, bool]]
            if isinstance(step, _MLP):
                readers, each = [(step.readers, step.everywhere)], 0
                times = mlp * self._positions.count(step.everywhere)
            else:
                parts = step.heads
                readers = [(step.keys, True), (step.values, True), *((part.queries, part.everywhere) for part in parts)]
                each = width
                times = sum(
                    len(part.heads) * self._positions.count(part.everywhere) * (width + attending) for part in parts
                )
            used += times
            for one, everywhere in readers:
                if one is not None:
                    summed = one.reads.edges * self.model.family.width
                    used += self._positions.count(everywhere) * (len(one.index) * each + summed)
        return used / whole

    # Running

    def values(self, removed: Tensor) -> Tensor:
        """The objective for hypotheses that remove `removed` `[J, P]` (0 to 1) of the open reader's edges, `[J, B]`."""
        return self.state.scene.values(self._run(removed, keep=False))

    @torch.no_grad()
    def update(self, removed: Tensor) -> None:
        """Bring the live state up to date: edges `[P]` of the open reader are gone."""
        self.state.final = self._run(removed[None], keep=True)[0]

    def _run(self, removed: Tensor, keep: bool) -> Tensor:
        changes = self._no_changes(removed)
        changes.add(self._at_the_reader(removed)[None], None, self._everywhere)
        for step in self._steps:
            if isinstance(step, _MLP):
                self._run_mlp(step, changes, keep)
            else:
                self._run_attention(step, changes, keep)
        return self.state.final + changes.summed(self._logits, everywhere=False)[0]

    def _no_changes(self, removed: Tensor) -> Changes:
        if removed.requires_grad:
            return DifferentiableChanges(self._positions)
        return TableOfChanges(self._positions, {which: len(columns) for which, columns in self._columns.items()})

    def _at_the_reader(self, removed: Tensor) -> Tensor:
        """What the hypotheses change of the open reader's input, `[J, B, P, D]`: minus the sources that they remove."""
        sources, shares = self._sources.flatten(1), removed.to(self._sources)
        if removed.requires_grad:
            change = -shares @ sources
        else:  # what all of them remove is one product for all
            common = shares.amin(0, keepdim=True)
            change = _product(-common, sources).expand(len(removed), -1)
            change = change + _product(common - shares, sources)
        return change.view(len(removed), *self._sources.shape[1:])[:, :, self._skipped :]

    def _run_mlp(self, step: _MLP, changes: Changes, keep: bool) -> None:
        x = self._input(step.readers, changes, step.everywhere)
        outputs = self._mlp(step.layer, x)
        self._wrote(step.writer, step.written, outputs, changes, step.everywhere, keep)
        if keep:
            target = self.state.layers[step.layer].mlp_input[None]
            self._positions.put(target, step.readers.index, x[:, 0], step.everywhere)

    def _input(self, readers: _Readers, changes: Changes, everywhere: bool) -> Tensor:
        """The readers' inputs under every hypothesis, `[n, J, B, P, D]`."""
        total = changes.summed(readers.reads, everywhere)
        live = readers.inputs.unsqueeze(1)
        return total + live if total.requires_grad else total.add_(live)

    def _wrote(
        self, writers: Tensor, written: Tensor, outputs: Tensor, changes: Changes, everywhere: bool, keep: bool
    ) -> None:
        """Outputs `[n, J, B, P, D]` become changes; with `keep`, also live."""
        change = changes.add(outputs, written, everywhere)
        if keep:
            old = self._positions.take(self.state.differences[writers], everywhere)
            self._positions.put(self.state.differences, writers, old + change[:, 0], everywhere)

    def _run_attention(self, step: _Attention, changes: Changes, keep: bool) -> None:
        model, graph, state = self.model, self.graph, self.state.layers[step.layer]
        weights, norm = model.weights.attention(step.layer), model.attention_norm(step.layer)
        ratio = graph.kv_readers // graph.kv_heads
        keys = values = None
        if step.keys is not None:
            x = self._input(step.keys, changes, True)
            keys = project(norm(x), weights.k, weights.k_bias, step.keys.index // ratio)
            keys = model.turn(step.layer, "k", keys, self._positions.rotary(True))
            self._keep(state.inputs, step.keys.rows, x, True, keep)
        if step.values is not None:
            x = self._input(step.values, changes, True)
            values = project(norm(x), weights.v, weights.v_bias, step.values.index // ratio)
            self._keep(state.inputs, step.values.rows, x, True, keep)
        pending = []
        for part in step.heads:
            queries = None
            if part.queries is not None:
                x = self._input(part.queries, changes, part.everywhere)
                queries = project(norm(x), weights.q, weights.q_bias, part.queries.index)
                queries = model.turn(step.layer, "q", queries, self._positions.rotary(part.everywhere))
                self._keep(state.inputs, part.queries.rows, x, part.everywhere, keep)
            gathered = self._gathered(step, part, queries, keys, values)
            pending.append((part, write(gathered, weights.o, part.heads)))
            if part.queries is not None and queries is not None:
                self._keep(state.q, part.queries.index, queries, part.everywhere, keep)
        if step.keys is not None and keys is not None:
            self._keep(state.k, step.keys.index, keys, True, keep)
        if step.values is not None and values is not None:
            self._keep(state.v, step.values.index, values, True, keep)
        for part, outputs in pending:
            self._wrote(part.writers, part.written, outputs, changes, part.everywhere, keep)

    def _keep(self, target: Tensor, index: Tensor, x: Tensor, everywhere: bool, keep: bool) -> None:
        if keep:
            self._positions.put(target, index, x[:, 0], everywhere)

    def _gathered(
        self, step: _Attention, part: _Heads, queries: Tensor | None, keys: Tensor | None, values: Tensor | None
    ) -> Tensor:
        """What a part's heads gather, `[n, J, B, P, E]`; what did not change is taken from the live state."""
        graph, state, positions = self.graph, self.state.layers[step.layer], self._positions
        groups = part.heads // (graph.heads // graph.kv_readers)
        q = positions.take(state.q[part.heads], part.everywhere).unsqueeze(1)
        if queries is not None and part.queries is not None:
            q = _replace(q, part.heads, queries, part.queries.index)
        k = self._with_past(state.k, groups, keys, step.keys)
        v = self._with_past(state.v, groups, values, step.values)
        hypotheses = max(q.shape[1], k.shape[1], v.shape[1])
        if q.shape[1] != hypotheses:
            q = q.expand(-1, hypotheses, -1, -1, -1)
        return self.model.gather(step.layer, q, k, v, positions.visible(step.layer, part.everywhere))

    def _with_past(self, live: Tensor, groups: Tensor, new: Tensor | None, readers: _Readers | None) -> Tensor:
        """Keys or values of a part's heads over all positions, `[n, J or 1, B, T, E]`."""
        old = live[groups].unsqueeze(1)
        if new is None or readers is None:
            return old
        present = _replace(self._positions.take(old, True), groups, new, readers.index)
        if not self._positions.start:
            return present
        past = old[..., : self._positions.start, :].expand(-1, present.shape[1], -1, -1, -1)
        return torch.cat([past, present], dim=-2)


def _product(shares: Tensor, sources: Tensor) -> Tensor:
    """`shares @ sources` over the range of columns of `shares` that are not all zero."""
    used = shares.any(0).nonzero()[:, 0]
    if not len(used):
        return sources.new_zeros(len(shares), sources.shape[1])
    columns = slice(int(used[0]), int(used[-1]) + 1)
    return shares[:, columns] @ sources[columns]


def _replace(old: Tensor, numbers: Tensor, new: Tensor, replaced: Tensor) -> Tensor:
    """`old` `[n, 1, ...]` of `numbers`, with `new` `[m, J, ...]` in the places of those in `replaced` (rising)."""
    place = torch.searchsorted(replaced, numbers).clamp(max=len(replaced) - 1)  # where each number would be
    hit = replaced[place] == numbers
    if bool(hit.all()):
        return new if len(new) == len(numbers) and bool((replaced == numbers).all()) else new[place]
    result = old.expand(-1, new.shape[1], *old.shape[2:])
    return torch.where(hit.view(-1, *[1] * (result.ndim - 1)), new[place], result)
