"""The run of one circuit, equation (1) with every edge kept or removed, without what the circuit cannot change.

`MaskedRun` computes every node at every position, and is the reference. The results here are the same:

- *Only live nodes*: those with a path of kept edges to the logits. If the ablated outputs are those of one run of the
  model (`Ablation.is_run`), also only those with a path from `input`: all others have their ablated outputs.
- *Only the needed positions.* A node that no key or value depends on is needed at the answer positions alone. Nothing
  is computed on padding, after a prompt's last answer, or before the first position at which the prompt's clean and
  ablated outputs can differ: keys and values there are the ablated ones, computed once for all circuits.
- *Only changed positions*, of MLPs: if `is_run`, an MLP whose sources have their ablated outputs at a position has its
  own there. That is where clean and corrupted tokens are equal, as long as no head has moved the difference on.
- *Only the fewer edges.* A reader's input is the ablated stream plus the differences o - õ of the writers that it
  keeps, or the whole stream minus the differences of those that it lacks. Readers with the same edges are one.

Nested circuits are not evaluated together, since they share too little. Counted on SmolLM2-135M (IOI, rankings of EAP
and random ones, each of MIB's sizes and the next smaller one), the nodes whose upstream circuits are the same in both
make up at most 0.09 of a forward pass, mostly less than 0.03: the first layers of the two circuits differ already. The
incremental editor (`engine/editors/`) is never cheaper, since it computes downstream nodes once for every reader that
loses an edge. From 0.2% of EAP's edges to 0.1% it takes 0.14 forward passes, from 0.5% to 0.2% 1.8, from 1% to 0.5%
8.3 and from 2% to 1% 18.7; a run of the smaller circuit here takes 0.04, 0.17, 0.40 and 0.44.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from circuitkit.engine import memory
from circuitkit.engine.editors.cone_plan import forward_macs
from circuitkit.engine.editors.positions import needed_everywhere
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.attention import Attention, Kind, Rotary, kv_readers_of

_DENSE = 0.35
"""From this part of the edges on, a matrix product is faster than sums over the edges (measured on a CPU)."""


class CircuitRun:
    """Runs circuits on the prompts of one batch, in full precision.

    Args:
        prepared: model, batch, ablation.

    Attributes:
        forward_equivalents: multiply-adds of everything so far, divided by those of a plain forward pass of the
            prompts (without the unembedding).
    """

    @torch.no_grad()
    def __init__(self, prepared: PreparedBatch) -> None:
        assert prepared.policy.low_precision_writers() is None, "circuits are run in full precision"
        self.prepared, self.model, self.graph = prepared, prepared.model, prepared.model.graph
        self.rows = Rows(prepared)
        self.forward_equivalents = 0.0
        self._macs_of_forward = len(prepared.batch) * forward_macs(self.model, prepared.batch.length)
        self.streams: list[Tensor] = []
        """The ablated stream before each layer and after the last, `[B, T, D]` or what broadcasts to it."""
        self.past: list[dict[Kind, Tensor]] = []
        """Every layer's keys and values at the n positions before the rows, `[K, n, E]`."""
        stream = prepared.ablated[: self.graph.inputs].sum(0) + self.model.constant(prepared.context)
        for layer in range(self.graph.layers):
            self.streams.append(stream)
            self.past.append(self._compute_past(layer, stream))
            heads = prepared.ablated[self.graph.heads_of(layer)].sum(0)
            stream = stream + heads + self.model.attention_constant(layer)
            if self.graph.mlps:
                stream = stream + prepared.ablated[self.graph.mlp(layer)]
        self.streams.append(stream)

    def _compute_past(self, layer: int, stream: Tensor) -> dict[Kind, Tensor]:
        attention, numbers = self.model.attention(layer), self.rows.past
        x = attention.norm(self.rows.take(stream, numbers)[None])
        past: dict[Kind, Tensor] = {
            kind: attention.read(kind, x, self.rows.rotary(layer, numbers)) for kind in ("k", "v")
        }
        self.count(sum(some.numel() for some in past.values()) * self.model.family.width)
        return past

    @torch.no_grad()
    def final(self, kept: Tensor) -> Tensor:
        """Compute the logits' input at the answer positions, `[B, A, D]`, with the edges `kept`, bool `[edges]`."""
        one = _Pass(self, kept.cpu())
        for layer in range(self.graph.layers):
            one.run_layer(layer)
            memory.release(layer, self.prepared.inputs)
        return one.final()

    def values(self, kept: Tensor) -> Tensor:
        """Compute the objective with the edges `kept`, bool `[edges]`: `[B]`."""
        return self.prepared.values(self.final(kept))

    def count(self, macs: int) -> None:
        """Add multiply-adds to `forward_equivalents`."""
        self.forward_equivalents += macs / self._macs_of_forward


class Rows:
    """The N positions of all prompts that a circuit can change and its answers depend on.

    A position is a row of the batch, number b T + t.

    Args:
        prepared: the prompts.

    Attributes:
        numbers: of the rows, ascending, `[N]`.
        past: of the positions before them that their prompts can attend to.
        answers: the places of the answer positions among the rows, `[B A]`.
        shape: B, T.
        first: the first column t that has a row.
        window: the places of the rows among the columns from `first` on, of all prompts.
        causal: whether a position sees no later one.
    """

    def __init__(self, prepared: PreparedBatch) -> None:
        batch, device = prepared.batch, prepared.batch.mask.device
        self._prepared = prepared
        self.shape = batch.mask.shape
        self.causal = prepared.model.family.causal
        changed = [0] * len(batch)
        if self.causal:
            changed = [prepared.ablation.first_changed_position(batch[row : row + 1]) for row in range(len(batch))]
        start = torch.tensor(changed, dtype=torch.int64, device=device).minimum(batch.read_positions.amin(1))
        columns = torch.arange(batch.length, dtype=torch.int64, device=device)
        before = columns < start[:, None]
        seen = batch.mask
        if self.causal:
            seen = seen & (columns <= batch.read_positions.amax(1, keepdim=True))
        self.numbers = (seen & ~before).flatten().nonzero()[:, 0]
        self.past = (seen & before).flatten().nonzero()[:, 0]
        self._prompts = torch.arange(len(batch), dtype=torch.int64, device=device)[:, None]
        read = self._prompts * batch.length + batch.read_positions
        self.answers = torch.searchsorted(self.numbers, read.flatten())
        prompt, column = self.place(self.numbers)
        self.first = int(column.min())
        self.window = prompt * (batch.length - self.first) + column - self.first

    def place(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return prompt and position, b and t, of rows."""
        return numbers // self.shape[1], numbers % self.shape[1]

    def take(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Take rows of `[B, T, *]` or what broadcasts to it, `[n, *]`."""
        taken: Tensor = x.expand(*self.shape, -1)[self.place(numbers)]
        return taken

    def rotary(self, layer: int, numbers: Tensor) -> Rotary:
        """Return a layer's cosines and sines of rows, `[n, *]`."""
        rotary = self._prepared.model.rotary(layer, self._prepared.context)
        return None if rotary is None else (self.take(rotary[0], numbers), self.take(rotary[1], numbers))

    def queries(self, x: Tensor) -> Tensor:
        """Put queries of the rows, `[h, N, E]`, into the columns from `first` on: `[h, B, P, E]`."""
        columns = self.shape[1] - self.first
        found = x.new_zeros(len(x), self.shape[0] * columns, x.shape[-1])
        found[:, self.window] = x
        return found.view(len(x), -1, columns, x.shape[-1])

    def over_all(self, x: Tensor, past: Tensor) -> Tensor:
        """Put keys or values of the rows, `[g, N, E]`, and those before them into `[g, B, T, E]`."""
        found = x.new_zeros(len(x), self.shape[0] * self.shape[1], x.shape[-1])
        found[:, self.numbers], found[:, self.past] = x, past
        return found.view(len(x), *self.shape, x.shape[-1])

    def mask(self, layer: int, at_answers: bool) -> Tensor:
        """Return the attention mask of the queries in the columns from `first` on, or of those at the answers."""
        mask = self._prepared.model.attention_mask(layer, self._prepared.context)
        return mask[self._prompts, self._prepared.batch.read_positions] if at_answers else mask[:, self.first :]


class _Pass:
    """One pass through the layers.

    `at` is everywhere the places of P rows among the N, or None: all of them.

    Args:
        run: what all circuits share.
        kept: the circuit, bool `[edges]`.
    """

    def __init__(self, run: CircuitRun, kept: Tensor) -> None:
        self._run, self._rows, self._model, self._graph = run, run.rows, run.model, run.graph
        self._ablated, inputs = run.prepared.ablated, run.prepared.inputs
        self._is_run = run.prepared.ablation.is_run
        if self._is_run:
            kept = kept & self._graph.reached_writers(kept)[self._graph.writer_of]
        self._kept = kept
        self._live = self._graph.live_writers(kept)
        self._everywhere = needed_everywhere(self._graph, kept, self._live)
        # The differences o - õ of the live writers so far, in the order in which they were added, and their sum
        self._writers: list[int] = []
        self._table = inputs.new_empty(int(self._live.sum()), len(self._rows.numbers), inputs.shape[-1])
        self._total = inputs.new_zeros(self._table.shape[1:])
        # If `is_run`: at which positions every writer's difference can be other than 0
        self._changed = torch.zeros(self._graph.n_writers, *self._rows.shape, dtype=torch.bool)
        self._changed[: len(inputs)] = (inputs != self._ablated[: len(inputs)]).any(-1).cpu()
        for writer, output in enumerate(inputs):
            if self._live[writer]:
                self._add(writer, self._rows.take(output, self._rows.numbers)[None], None)

    def run_layer(self, layer: int) -> None:
        """Run the live nodes of a layer."""
        graph = self._graph
        heads = self._live[graph.heads_of(layer)].nonzero()[:, 0]
        parts = self._run_heads(layer, heads) if len(heads) else []
        mlp = graph.mlps and bool(self._live[graph.mlp(layer)])
        if graph.parallel and mlp:  # before the heads are added, which it does not read
            self._run_mlp(layer)
        for some, outputs, at in parts:
            self._add(some + graph.head(layer, 0), outputs, at)
        if not graph.parallel and mlp:
            self._run_mlp(layer)

    def final(self) -> Tensor:
        """Return the logits' input at the answers, `[B, A, D]`, after the last layer."""
        kept = self._graph.matrix(self._kept, self._graph.blocks[-1])[:, self._writers]
        x = self._inputs(self._run.streams[-1], kept, self._rows.answers)
        return x.view(self._rows.shape[0], -1, x.shape[-1])

    # Differences

    def _add(self, writers: int | Tensor, outputs: Tensor, at: Tensor | None) -> None:
        """Add writers' outputs `[n, P, D]`. Elsewhere, their differences are 0 or of no use."""
        numbers = torch.as_tensor(writers, dtype=torch.int64, device=outputs.device).reshape(-1)
        start = len(self._writers)
        differences = self._table[start : start + len(numbers)]
        places = self._rows.place(self._numbers(at))
        ablated = self._ablated.expand(-1, *self._rows.shape, -1)[numbers[:, None], *places]
        if at is None:
            torch.sub(outputs, ablated, out=differences)
        else:
            differences.zero_()[:, at] = outputs - ablated
        self._total += differences.sum(0)
        self._writers += numbers.tolist()

    def _numbers(self, at: Tensor | None) -> Tensor:
        return self._rows.numbers if at is None else self._rows.numbers[at]

    def _inputs(self, ablated: Tensor, kept: Tensor, at: Tensor | None) -> Tensor:
        """Compute the inputs `[n, P, D]` of readers.

        Args:
            ablated: the ablated stream, `[B, T, D]` or what broadcasts to it.
            kept: their edges from the writers so far, bool `[n, c]`.
            at: at which rows.
        """
        flipped = 2 * kept.sum(1) > kept.shape[1]  # fewer edges are removed than kept
        inputs = self._sums(kept ^ flipped[:, None], at)
        if flipped.any():  # in place, as these are the largest tensors of a layer
            part = flipped.to(inputs)[:, None, None]
            inputs.mul_(1 - 2 * part).addcmul_(part, self._total if at is None else self._total[at])
        return inputs.add_(self._rows.take(ablated, self._numbers(at)))

    def _sums(self, used: Tensor, at: Tensor | None) -> Tensor:
        """Sum the differences of the writers that are `used`, bool `[n, c]`: `[n, P, D]`."""
        table = self._table[: used.shape[1]]
        if at is not None:
            columns = used.any(0).nonzero()[:, 0]
            used, table = used[:, columns], table[columns.to(table.device)[:, None], at]
        readers, writers = used.nonzero(as_tuple=True)
        shape = len(used), *table.shape[1:]
        if not len(writers):
            return table.new_zeros(shape)
        table = table.flatten(1)
        if len(writers) > _DENSE * used.numel():
            self._run.count(used.numel() * table.shape[1])
            return (used.to(table) @ table).view(shape)
        self._run.count(len(writers) * table.shape[1])
        begins = torch.searchsorted(readers, torch.arange(len(used), dtype=torch.int64))
        return F.embedding_bag(writers.to(table.device), table, begins.to(table.device), mode="sum").view(shape)

    # Nodes

    def _run_mlp(self, layer: int) -> None:
        """Run an MLP, and add its output."""
        graph, rows, writer = self._graph, self._rows, self._graph.mlp(layer)
        kept = graph.matrix(self._kept, graph.mlp_block(layer))
        at = None if self._everywhere[writer] else rows.answers
        if self._is_run:
            self._changed[writer] = self._changed_by(kept)
            changed = self._changed[writer].flatten().to(rows.numbers.device)[rows.numbers]
            if at is None and not changed.all():
                at = changed.nonzero()[:, 0]
        ablated = self._run.streams[layer]
        if not graph.parallel:
            ablated = ablated + self._ablated[graph.heads_of(layer)].sum(0) + self._model.attention_constant(layer)
        x = self._inputs(ablated, kept[:, self._writers], at)
        self._run.count(x.shape[1] * self._model.mlp_size)
        self._add(writer, self._model.mlp(layer, x), at)

    def _run_heads(self, layer: int, heads: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Run heads, those needed at all rows and those needed at the answers alone.

        Returns:
            For each part its heads, their outputs `[n, P, D]`, and at which rows.
        """
        graph, rows, attention = self._graph, self._rows, self._model.attention(layer)
        if self._is_run:
            self._find_changed_heads(layer)
        groups = kv_readers_of(graph, heads)
        everywhere = self._everywhere[heads + graph.head(layer, 0)]
        wide, narrow = heads[everywhere], heads[~everywhere]
        read = self._read(layer, attention, {"k": groups, "v": groups, "q": wide}, None)
        of_groups = groups // (graph.kv_readers // graph.kv_heads)  # with kv="head", the readers of a group share them
        k, v = (rows.over_all(read[kind], past[of_groups]) for kind, past in self._run.past[layer].items())
        parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for some, at in ((wide, None), (narrow, rows.answers)):
            if not len(some):
                continue
            if at is None:
                q = rows.queries(read["q"])
            else:
                q = self._read(layer, attention, {"q": some}, at)["q"].unflatten(1, (rows.shape[0], -1))
            own = torch.searchsorted(groups, some // (graph.heads // graph.kv_readers))  # each head's row of `k`
            z = attention.attend_values(q, k[own], v[own], rows.mask(layer, at is not None)).flatten(1, 2)
            self._run.count(2 * z.numel() * rows.shape[1])
            if at is None:
                z = z[:, rows.window]
            self._run.count(z.numel() * self._model.family.width)
            parts.append((some, attention.normalize(attention.project_out(z, some)), at))
        return parts

    def _read(
        self, layer: int, attention: Attention, wanted: Mapping[Kind, Tensor], at: Tensor | None
    ) -> dict[Kind, Tensor]:
        """Compute queries, keys and values of the readers `wanted`, `[n, P, E]` of each kind."""
        graph = self._graph
        wanted = {kind: numbers for kind, numbers in wanted.items() if len(numbers)}
        first = {"q": 0, "k": graph.heads, "v": graph.heads + graph.kv_readers}
        readers = torch.cat([numbers + first[kind] for kind, numbers in wanted.items()])
        kept = graph.matrix(self._kept, graph.attention(layer))[readers]
        counts = [*map(len, wanted.values())]
        distinct, which = kept.unique(dim=0, return_inverse=True)  # often many have the same edges, or none
        own: Iterable[Tensor]
        if len(distinct) == len(kept):
            x = self._inputs(self._run.streams[layer], kept[:, self._writers], at)
            own = (attention.norm(some) for some in x.split(counts))
        else:
            normed = attention.norm(self._inputs(self._run.streams[layer], distinct[:, self._writers], at))
            own = (_pick(normed, some) for some in which.split(counts))
        rotary = self._rows.rotary(layer, self._numbers(at))
        found: dict[Kind, Tensor] = {}
        for (kind, numbers), x_of_kind in zip(wanted.items(), own, strict=True):
            found[kind] = attention.read(kind, x_of_kind, rotary, numbers)
            self._run.count(found[kind].numel() * self._model.family.width)
        return found

    # Changed positions, if the ablated outputs are those of one run

    def _find_changed_heads(self, layer: int) -> None:
        graph = self._graph
        readers = self._changed_by(graph.matrix(self._kept, graph.attention(layer)))
        q, k, v = readers.split([graph.heads, graph.kv_readers, graph.kv_readers])
        attended = k | v  # by all queries that see a changed key or value, the later ones if attention is causal
        attended = attended.cumsum(-1) > 0 if self._rows.causal else attended.any(-1, keepdim=True)
        self._changed[graph.heads_of(layer)] = q | attended.repeat_interleave(graph.heads // graph.kv_readers, 0)
        graph.couple(graph.attention(layer), self._changed)

    def _changed_by(self, kept: Tensor) -> Tensor:
        """Tell at which positions some kept writer of a reader is changed: from `[n, U]` to `[n, B, T]`."""
        changed = self._changed[: kept.shape[1]].flatten(1)
        found: Tensor = (kept.float() @ changed.float() > 0).unflatten(1, self._rows.shape)
        return found


def _pick(x: Tensor, which: Tensor) -> Tensor:
    """Return the elements `which` of `x`, or one for all if they are the same."""
    return x[which[:1]] if bool((which == which[0]).all()) else x[which]
