"""Running a reader's cone: the objective of many hypotheses, from what each changes downstream of the reader.

Steps, along the plan (`cone_plan.py`):

1. The open reader's delta is minus the sum of the differences o - õ of the writers whose edges a hypothesis removes.
2. At each step, a reader's input is its live input (that of the current circuit) plus the sum of the deltas along its
   kept edges.
3. The step's nodes compute their outputs. The next deltas are these minus their outputs in the current circuit.
4. The logits' live input plus its sum of deltas gives the objective.

Each step computes all its readers and heads, for all hypotheses, in batched products.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from circuitkit.engine.editors.cone_plan import AttentionStep, ConePlan, MLPStep, PlannedHeads, PlannedReaders
from circuitkit.engine.editors.deltas import Deltas, DeltaTable, DifferentiableDeltas
from circuitkit.engine.editors.live_state import LiveState
from circuitkit.engine.editors.positions import PositionSet
from circuitkit.models.attention import Kind


class NewValue(NamedTuple):
    """New values of some rows of one tensor of the live state.

    Attributes:
        target: the tensor, `[n, B, T, *]`.
        rows: their numbers.
        x: their values at the positions, `[n, J, B, P, *]`.
        at: the positions.
        is_delta: add `x` to the old values instead of replacing them.
    """

    target: Tensor
    rows: Tensor
    x: Tensor
    at: PositionSet
    is_delta: bool = False


Record = Callable[[NewValue], None]


class Cone:
    """The cone of one reader of a live state.

    Args:
        state: the live state, after `look_downstream`.
        reader: the open reader.
        kept: the circuit, bool `[edges]`.

    Attributes:
        plan: of this cone.
    """

    def __init__(self, state: LiveState, reader: int, kept: Tensor) -> None:
        self.state, self.model, self.graph = state, state.model, state.graph
        self.plan = ConePlan(state, reader, kept)
        self._positions = state.positions
        under_policy = state.prepared.policy.low_precision_writers() is not None
        self._mlp = self.model.checkpoint_mlp if under_policy else self.model.mlp
        self._sources = state.differences[: self.graph.prefix(reader)]
        self._skipped = self._positions.changed.start
        at = self.plan.reader_at
        # Copy the needed positions, if they are so few that the copy saves more than it costs
        if at is self._positions.answers or 4 * self._skipped > state.prepared.batch.length:
            self._sources, self._skipped = at.take(self._sources).contiguous(), 0

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copies that the cone made: of differences, and of what its plan holds."""
        is_view = self._sources.untyped_storage().data_ptr() == self.state.differences.untyped_storage().data_ptr()
        return self.plan.copied_bytes + (0 if is_view else self._sources.nbytes)

    def values(self, removed: Tensor) -> Tensor:
        """Compute the objective of hypotheses.

        Args:
            removed: how much of each edge of the open reader each hypothesis removes, `[J, U]` from 0 to 1.

        Returns:
            `[J, B]`.
        """
        return self.state.prepared.values(self._run(self._reader_delta(removed), record=lambda _: None))

    def slopes(self, removed: Tensor) -> Tensor:
        """Differentiate the objective with respect to how much of each edge a hypothesis removes, prompt by prompt.

        Args:
            removed: of the hypothesis, `[U]`.

        Returns:
            `[U, B]`.
        """
        with torch.no_grad():
            delta = self._reader_delta(removed[None])
        with torch.enable_grad():
            delta.requires_grad_()
            values = self.state.prepared.values(self._run(delta, record=lambda _: None))
            (gradient,) = torch.autograd.grad(values.sum(), delta)  # [1, B, P, D]
        sources = self._sources[:, :, self._skipped :].flatten(2).transpose(0, 1)  # [B, U, P * D]
        return -(sources @ gradient.flatten(2).movedim(0, -1))[..., 0].T

    @torch.no_grad()
    def update(self, removed: Tensor) -> None:
        """Bring the live state up to date after the edges `[U]` of the open reader are removed."""

        def store(new: NewValue) -> None:  # at once, so that no second copy of the live state is held
            x = new.x[:, 0]
            new.at.put(new.target, new.rows, new.at.take(new.target[new.rows]) + x if new.is_delta else x)

        self.state.final = self._run(self._reader_delta(removed[None]), store)[0]

    def _run(self, delta: Tensor, record: Record) -> Tensor:
        """Run the plan.

        Args:
            delta: of the open reader's input, `[J, B, P, D]`.
            record: is given each new value of the live state.

        Returns:
            The logits' input at the answers, `[J, B, A, D]`.
        """
        differentiable = delta.requires_grad
        deltas = (
            DifferentiableDeltas(self._positions) if differentiable else DeltaTable(self._positions, self.plan.room)
        )
        deltas.add(delta[None], None, self.plan.reader_at)
        for step in self.plan.steps:
            if isinstance(step, MLPStep):
                self._run_mlp(step, deltas, record)
            else:
                self._run_attention(step, deltas, record)
        return self.state.final + deltas.sums(self.plan.logits, self._positions.answers)[0]

    def _reader_delta(self, removed: Tensor) -> Tensor:
        """Compute by how much the hypotheses change the open reader's input, `[J, B, P, D]`."""
        sources, parts = self._sources.flatten(1), removed.to(self._sources)
        # One product for what all hypotheses remove, another for the rest
        common = parts.amin(0, keepdim=True)
        delta = _multiply_used(-common, sources).expand(len(removed), -1)
        delta = delta + _multiply_used(common - parts, sources)
        return delta.view(len(removed), *self._sources.shape[1:])[:, :, self._skipped :]

    def _run_mlp(self, step: MLPStep, deltas: Deltas, record: Record) -> None:
        readers = step.input
        x = self._inputs(readers, deltas)
        record(NewValue(self.state.layers[step.layer].mlp_input[None], readers.index, x, readers.at))
        outputs = self._mlp(step.layer, x)
        self._add(step.writers, outputs, step.outputs_before, readers.at, deltas, record)

    def _run_attention(self, step: AttentionStep, deltas: Deltas, record: Record) -> None:
        attention, layer = self.model.attention(step.layer), self.state.layers[step.layer]

        def read(kind: Kind, readers: PlannedReaders, target: Tensor) -> Tensor:
            x = self._inputs(readers, deltas)
            record(NewValue(layer.inputs, readers.rows, x, readers.at))
            new = attention.read(kind, attention.norm(x), readers.at.rotary(step.layer), readers.index)
            record(NewValue(target, readers.index, new, readers.at))
            return new

        keys = None if step.keys is None else read("k", step.keys, layer.k)
        values = None if step.values is None else read("v", step.values, layer.v)
        outputs = []
        for part in step.parts:
            queries = None if part.queries is None else read("q", part.queries, layer.q)
            q, k, v = self._queries_keys_values(step, part, queries, keys, values)
            new = attention.output(q, k, v, part.at.attention_mask(step.layer), part.heads)
            if part.projected_before is None or layer.projected is None:
                outputs.append(new)
                continue
            before = part.projected_before.unsqueeze(1)
            total = before.sum(0) + (new - before[part.heads]).sum(0)
            some = part.writers - self.graph.head(step.layer, 0)
            outputs.append(attention.normalize(_replace(before[some], some, new, part.heads), total))
            record(NewValue(layer.projected, part.heads, new, part.at))
        for part, output in zip(step.parts, outputs, strict=True):
            self._add(part.writers, output, part.outputs_before, part.at, deltas, record)

    def _inputs(self, readers: PlannedReaders, deltas: Deltas) -> Tensor:
        """Compute the readers' inputs under every hypothesis, `[n, J, B, P, D]`."""
        total = deltas.sums(readers.edges, readers.at)
        live = readers.live_inputs.unsqueeze(1)
        return total + live if total.requires_grad else total.add_(live)

    def _add(
        self, writers: Tensor, outputs: Tensor, before: Tensor, at: PositionSet, deltas: Deltas, record: Record
    ) -> None:
        """Add and record the deltas of writers, from their outputs `[n, J, B, P, D]` and those before."""
        delta = deltas.add(outputs, before, at)
        record(NewValue(self.state.differences, writers, delta, at, is_delta=True))

    def _queries_keys_values(
        self,
        step: AttentionStep,
        part: PlannedHeads,
        queries: Tensor | None,
        keys: Tensor | None,
        values: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Combine a part's new queries, keys and values with live ones where nothing changed.

        Returns:
            For each head of the part, its query at the part's positions `[n, J, B, P, E]`, and its keys and its
            values at all positions `[n, J or 1, B, T, E]`.
        """
        graph, layer = self.graph, self.state.layers[step.layer]
        groups = part.heads // (graph.heads // graph.kv_readers)
        q = part.at.take(layer.q[part.heads]).unsqueeze(1)
        if queries is not None and part.queries is not None:
            q = _replace(q, part.heads, queries, part.queries.index)
        k = self._with_past(layer.k, groups, keys, step.keys)
        v = self._with_past(layer.v, groups, values, step.values)
        hypotheses = max(q.shape[1], k.shape[1], v.shape[1])
        return q.expand(-1, hypotheses, -1, -1, -1), k, v

    def _with_past(self, live: Tensor, groups: Tensor, new: Tensor | None, readers: PlannedReaders | None) -> Tensor:
        """Return keys or values of a part's heads over all positions, `[n, J or 1, B, T, E]`."""
        old = live[groups].unsqueeze(1)
        if new is None or readers is None:
            return old
        present, start = _replace(readers.at.take(old), groups, new, readers.index), self._positions.changed.start
        if not start:
            return present
        past = old[..., :start, :].expand(-1, present.shape[1], -1, -1, -1)
        return torch.cat([past, present], dim=-2)


def _multiply_used(parts: Tensor, sources: Tensor) -> Tensor:
    """Compute `parts @ sources` without the zero columns at both ends of `parts`."""
    used = parts.any(0).nonzero()[:, 0]
    if not len(used):
        return sources.new_zeros(len(parts), sources.shape[1])
    columns = slice(int(used[0]), int(used[-1]) + 1)
    return parts[:, columns] @ sources[columns]


def _replace(old: Tensor, numbers: Tensor, new: Tensor, replaced: Tensor) -> Tensor:
    """Replace rows of `old` by those of `new` where there are new ones.

    Args:
        old: `[n, 1, ...]`.
        numbers: the numbers of the heads or readers in `old`, `[n]`, on the CPU; they may repeat.
        new: `[m, J, ...]`.
        replaced: the numbers of those in `new`, `[m]`, on the CPU, ascending.
    """
    place = torch.searchsorted(replaced, numbers).clamp(max=len(replaced) - 1)  # where each number would be
    hit = replaced[place] == numbers
    if bool(hit.all()):
        return new if len(new) == len(numbers) and bool((replaced == numbers).all()) else new[place]
    result = old.expand(-1, new.shape[1], *old.shape[2:])
    return torch.where(hit.to(new.device).view(-1, *[1] * (result.ndim - 1)), new[place], result)
