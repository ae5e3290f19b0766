"""ACDC's search (Conmy et al. 2023, arXiv 2304.14997) over any editor.

Readers are visited from the logits to the first layer. For each edge into a reader, from the latest writer to the
earliest: if removing it makes the objective worse by less than the threshold, it stays removed. A reader that no
longer reaches the logits loses its edges untested.

*Guessing ahead.* Most decisions can be guessed from a first-order estimate of every edge's effect (one gradient a
reader). The next n edges are so tested in one batch, each as if those before it fell as guessed; what follows a wrong
guess is computed again. The decisions and effects are those of one test after another.

*Screening* (`screen`) removes edges of small estimated effect run by run, after one exact test of the run's joint
effect. Nothing drifts: the objective is exact after every run. It is an option since it promises no equality.

*Settling doubts* (`doubts.py`), under a precision policy that asks for it, repeats decisions near the threshold in full
precision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from circuitkit.circuit import Origin
from circuitkit.engine.doubts import Doubts
from circuitkit.engine.editor import Editor
from circuitkit.graph import EdgeGraph

Order = Literal["reverse", "normal", "shuffle"]
ReaderDone = Callable[["Search"], None]

DEEPEST = 256
"""Edges guessed ahead at most."""
MOST_DOUBTS = 2
"""Doubtful guesses in one batch."""
DOUBT = 2.0
"""An estimate between the threshold over this and the threshold times this is a doubtful guess."""
_STATE = (
    *("scores", "origin", "decided", "kept", "tests", "whole_tests", "hypotheses", "wasted", "gradients"),
    *("joint_tests", "smallest_gap"),
)


@dataclass
class _Item:
    """Edges of the open reader that are tested together: one, or a run that screening would remove.

    Attributes:
        writers: the edges' writers.
        goes: whether they are expected to go.
        joint: whether their joint effect is checked against their estimates, instead of against the threshold.
        doubtful: whether the estimate is so near the threshold that the guess may well be wrong.
    """

    writers: list[int]
    goes: bool
    joint: bool
    doubtful: bool = False

    def halves(self) -> list["_Item"]:
        """Two runs of half the length; single edges are tested."""
        middle = len(self.writers) // 2
        parts = [part for part in (self.writers[:middle], self.writers[middle:]) if part]
        return [_Item(part, True, joint=len(part) > 1) for part in parts]


@dataclass
class Search:
    """A search under way, and its result.

    Attributes:
        editor: its circuit is edited in place.
        threshold: an edge goes if removing it changes the objective by strictly less.
        absolute: compare the size of the change instead of the change.
        try_whole_reader: before the edges into a layer's queries, keys and values, try to remove all edges of each of
            these readers together.
        order: of the heads within a layer: from the last to the first (as published), from the first to the last,
            or shuffled.
        generator: for the shuffled order.
        screen: None, or remove edges of small estimated effect (below `screen * threshold` in size) run by run, each
            run checked: its exact joint effect may differ from the sum of its estimates by as much; a run that fails
            is split in two. This promises no equality with the search that tests every edge.
        scores: effect of each edge when it was tested, `[edges]`.
        origin: how each score came about, int8 `[edges]` of `Origin`.
        decided: which edges have been decided, bool `[edges]`.
        tests: how many single edges were tested; whole_tests: how many whole readers.
        hypotheses: how many values of the objective were computed; wasted: those among them behind a wrong guess.
        gradients: how many first-order estimates of a reader's edges were computed, to guess and to screen by.
        joint_tests: how many runs of edges were checked together.
        smallest_gap: the smallest distance of an effect from the threshold: what rounding would have to close to
            turn a decision.
        doubts: what was repeated in full precision; None where the policy does not ask for it.
    """

    editor: Editor
    threshold: float
    absolute: bool = False
    try_whole_reader: bool = False
    order: Order = "reverse"
    generator: torch.Generator | None = None
    screen: float | None = None
    on_reader_end: ReaderDone | None = None
    scores: Tensor = field(init=False)
    origin: Tensor = field(init=False)
    decided: Tensor = field(init=False)
    kept: Tensor = field(init=False)
    tests: int = 0
    whole_tests: int = 0
    hypotheses: int = 0
    wasted: int = 0
    gradients: int = 0
    joint_tests: int = 0
    smallest_gap: float = float("inf")
    doubts: Doubts | None = field(init=False)

    def __post_init__(self) -> None:
        graph = self.editor.graph
        self.scores = torch.zeros(len(graph), dtype=torch.float64)
        self.origin = torch.full((len(graph),), Origin.GIVEN, dtype=torch.int8)
        self.doubts = Doubts(self.threshold, len(graph)) if self.editor.policy.settles_doubts else None
        self._depth = 1
        self._visited = 0
        self._heads = list(_head_orders(graph, self.order, self.generator))
        # To resume within a layer: the circuit when the search came to it, and what has been removed since, in order
        self._layer_start = self.editor.kept.clone()
        self._layer = graph.layers
        self._removals: list[tuple[int, Tensor]] = []
        self.decided = ~self.editor.kept
        self.kept = self.editor.kept.clone()

    def run(self) -> None:
        """Search until every edge is decided, from the start or from where a loaded state left off."""
        graph = self.editor.graph
        planned = list(visits(graph, self._heads, self.try_whole_reader))
        for reader, whole in planned[self._visited :]:
            if (layer := graph.block(reader).layer) != self._layer:
                self._layer, self._layer_start, self._removals = layer, self.editor.kept.clone(), []
            if whole:
                self._try_whole(reader)
            else:
                self._decide(reader, _writers_in_order(graph, reader, self._heads))
            self._visited += 1
            if not whole and self.on_reader_end is not None:
                self.on_reader_end(self)

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on from here to the same result, bit for bit."""
        return {
            **{name: getattr(self, name) for name in _STATE},
            "doubts": None if self.doubts is None else self.doubts.state_dict(),
            "depth": self._depth,
            "visited": self._visited,
            "heads": self._heads,
            "layer": self._layer,
            "layer_start": self._layer_start,
            "removals": [[reader, removed] for reader, removed in self._removals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the editor must be a fresh one on the starting circuit.

        The editor's live state is rebuilt, not loaded: as every search rebuilds it at each layer, this one does so at
        its layer, and repeats what was removed there in the same order.
        """
        for name in _STATE:
            setattr(self, name, state[name])
        if self.doubts is not None:
            self.doubts.load_state_dict(state["doubts"])
        self._depth, self._visited, self._heads = state["depth"], state["visited"], state["heads"]
        self._layer, self._layer_start = state["layer"], state["layer_start"]
        self.editor.restart(self._layer_start)
        self._removals = []
        opened = None
        for reader, removed in state["removals"]:
            if reader != opened:  # opening a reader again would bring the live state up to date in other steps
                self.editor.open(reader)
            opened = reader
            self._commit(removed)

    def _commit(self, removed: Tensor) -> None:
        self.editor.commit(removed)
        if removed.any():
            self._removals.append((self.editor.reader, removed))

    def _try_whole(self, reader: int) -> None:
        edges = self.editor.graph.edges(reader)
        kept = self.editor.kept[edges].clone()
        if not kept.any() or not self.editor.live(reader):
            return
        self.editor.open(reader)
        effect = self._settled(self._effect(kept), torch.zeros_like(kept), kept)
        self.whole_tests += 1
        if self._goes(effect):
            self._removed(reader, kept, effect, Origin.JOINT)

    def _decide(self, reader: int, writers: list[int]) -> None:
        edges = self.editor.graph.edges(reader)
        if not self.editor.live(reader):
            undecided = ~self.decided[edges]
            self.origin[edges][undecided] = Origin.DEAD
            self.decided[edges] = True
            self.kept[edges] = False
            return
        candidates = [writer for writer in writers if not self.decided[edges.start + writer]]
        if not candidates:
            return
        self.editor.open(reader)
        estimates = self.editor.gradient()
        self.gradients += 1
        items = self._items(candidates, estimates)
        while items:
            batch = self._ahead(items)
            done, halves = self._test(reader, batch, estimates)
            self._depth = min(2 * self._depth, DEEPEST) if done == len(batch) and not halves else max(done, 1)
            items = halves + items[done:]

    def _ahead(self, items: list["_Item"]) -> list["_Item"]:
        """The next items to test in one batch: no further than the depth, nor beyond a few that may fall otherwise."""
        doubts = 0
        for count, item in enumerate(items[: self._depth], start=1):
            doubts += item.doubtful
            if doubts == MOST_DOUBTS:
                return items[:count]
        return items[: self._depth]

    def _items(self, candidates: list[int], estimates: Tensor) -> list["_Item"]:
        """What is to be tested, in order: single edges, and with screening runs of edges of small estimated effect."""
        compared = estimates.abs() if self.absolute else estimates
        goes = (compared < self.threshold).tolist()
        small = (
            [False] * len(goes) if self.screen is None else (estimates.abs() < self.screen * self.threshold).tolist()
        )
        doubtful = ((compared > self.threshold / DOUBT) & (compared < self.threshold * DOUBT)).tolist()
        items: list[_Item] = []
        for writer in candidates:
            if small[writer] and items and items[-1].joint:
                items[-1].writers.append(writer)
            else:
                items.append(_Item([writer], goes[writer], small[writer], doubtful[writer]))
        for item in items:  # a single edge is tested for what it does, at the same cost
            item.joint &= len(item.writers) > 1
        return items

    def _test(self, reader: int, items: list["_Item"], estimates: Tensor) -> tuple[int, list["_Item"]]:
        """Test items of the open reader in one batch, each as if those before it fell as expected.

        Row n of the batch removes the n-th item and those before it that are expected to go, so that its effect is the
        difference to the row of the last of these. All rows up to the first item that falls otherwise are what one
        test after another would have computed; the others are wasted.

        Returns:
            How many are decided now, and the halves of a run that failed its joint check.
        """
        edges = self.editor.graph.edges(reader)
        rows = torch.zeros(len(items), edges.stop - edges.start, dtype=torch.bool)
        before, last = [], 0
        for row, item in enumerate(items):
            before.append(last)
            rows[row] = rows[last - 1] if last else False
            rows[row, item.writers] = True
            if item.goes:
                last = row + 1
        values = self.editor.values(rows).tolist()
        self.hypotheses += len(values)
        gone = torch.zeros_like(rows[0])
        done, halves = 0, list[_Item]()
        for row, item in enumerate(items):
            effect = values[row + 1] - values[before[row]]
            done += 1
            if item.joint and not self._check(item, effect, estimates):
                halves = item.halves()
                break
            goes = item.joint or self._decided(edges.start, item.writers[0], effect, gone)
            if item.joint:
                self._screened(edges, item, estimates)
            gone[item.writers] = goes
            if goes != item.goes:
                break
        self._commit(gone)
        self.wasted += len(items) - done
        return done, halves

    def _check(self, item: "_Item", effect: float, estimates: Tensor) -> bool:
        """Whether the exact joint effect of a run is what its estimates add up to."""
        self.joint_tests += 1
        assert self.screen is not None, "only screening makes runs"
        return abs(effect - float(estimates[item.writers].sum())) <= self.screen * self.threshold

    def _screened(self, edges: slice, item: "_Item", estimates: Tensor) -> None:
        numbers = torch.tensor(item.writers) + edges.start
        self.scores[numbers], self.origin[numbers] = estimates[item.writers], Origin.ESTIMATED
        self.decided[numbers], self.kept[numbers] = True, False

    def _decided(self, start: int, writer: int, effect: float, gone: Tensor) -> bool:
        edge, removal = start + writer, torch.zeros_like(gone)
        removal[writer] = True
        effect = self._settled(effect, gone, removal)
        goes = self._goes(effect)
        self.tests += 1
        self.scores[edge], self.origin[edge], self.decided[edge] = effect, Origin.TESTED, True
        self.kept[edge] = not goes
        return goes

    def _effect(self, removal: Tensor) -> float:
        before, after = self.editor.values(removal[None]).tolist()
        self.hypotheses += 2
        return float(after - before)

    def _settled(self, effect: float, gone: Tensor, removal: Tensor) -> float:
        """The effect of a removal after others are gone, in full precision where it is in doubt."""
        gap = abs(self._above(effect))
        if self.doubts is None or not self.doubts.wants(gap, int(self.decided.sum())):
            return effect
        _, before, after = self.editor.values(torch.stack([gone, gone | removal]), full=True).tolist()
        repeated = after - before
        turned = (self._above(repeated) < 0) != (self._above(effect) < 0)
        self.doubts.settled(gap, abs(repeated - effect), turned)
        return float(repeated)

    def _above(self, effect: float) -> float:
        """How far what is compared lies above the threshold."""
        return (abs(effect) if self.absolute else effect) - self.threshold

    def _goes(self, effect: float) -> bool:
        above = self._above(effect)
        self.smallest_gap = min(self.smallest_gap, abs(above))
        return above < 0

    def _removed(self, reader: int, removal: Tensor, effect: float, origin: Origin) -> None:
        self._commit(removal)
        edges = self.editor.graph.edges(reader)
        self.scores[edges][removal] = effect
        self.origin[edges][removal] = origin
        self.decided[edges] |= removal
        self.kept[edges] &= ~removal


def _head_orders(graph: EdgeGraph, order: Order, generator: torch.Generator | None) -> Iterator[list[int]]:
    for _ in range(graph.layers):
        if order == "shuffle":
            yield torch.randperm(graph.heads, generator=generator).tolist()
        else:
            yield list(range(graph.heads) if order == "normal" else reversed(range(graph.heads)))


def visits(graph: EdgeGraph, heads: list[list[int]], try_whole_reader: bool) -> Iterator[tuple[int, bool]]:
    """Readers in the order of the search, and whether to try the whole reader at this visit.

    Args:
        graph: whose readers.
        heads: the heads of every layer, in the order they are visited in.
        try_whole_reader: whether that is tried at all.
    """
    yield graph.logits, False
    share = graph.heads // graph.kv_readers
    for layer in reversed(range(graph.layers)):
        if graph.mlps:
            yield graph.reader_index("mlp", layer), False
        groups = list(dict.fromkeys(head // share for head in heads[layer]))
        attention = [
            *(graph.reader_index("v", layer, group) for group in groups),
            *(graph.reader_index("k", layer, group) for group in groups),
            *(graph.reader_index("q", layer, head) for head in heads[layer]),
        ]
        if try_whole_reader:
            yield from ((reader, True) for reader in attention)
        yield from ((reader, False) for reader in attention)


def _writers_in_order(graph: EdgeGraph, reader: int, heads: list[list[int]]) -> list[int]:
    """Writers before a reader from the latest layer to `input`; in a layer the MLP, then the heads."""
    prefix = graph.prefix(reader)
    writers: list[int] = []
    for layer in reversed(range(graph.layers)):
        if graph.mlps:
            writers.append(graph.mlp(layer))
        writers += [graph.head(layer, head) for head in heads[layer]]
    return [writer for writer in writers if writer < prefix] + [0]
