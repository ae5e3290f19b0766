"""ACDC's search (Conmy et al. 2023, arXiv 2304.14997) over any editor.

Readers are visited from the logits to the first layer. For each edge into a reader, from the latest writer to the
earliest: if removing it makes the objective worse by less than the threshold, it stays removed. The edges into a reader
that has no path to the logits any more are removed without a test.

*Guessing ahead.* Most decisions can be guessed from a first-order estimate of every edge's effect (one gradient per
reader). So the next n edges are tested in one batch, each in the circuit that results if all guesses before it are
right. The tests after a wrong guess are wasted, and repeated. Decisions and effects are those of testing one edge after
another.

*Screening* (`screen`) tests groups of edges with small estimated effects together, by the group's exact joint effect.
Errors do not add up, since the objective is exact after every group. Optional: the circuit may differ from that of the
search that tests every edge.

*Rechecks* (`rechecks.py`), if the precision policy asks for them, repeat decisions close to the threshold in full
precision.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from circuitkit.circuit.score_source import ScoreSource
from circuitkit.engine.editors.base import Editor
from circuitkit.engine.search.rechecks import Rechecks
from circuitkit.engine.search.saved_search import check_decided, read_edges, read_heads, read_removals
from circuitkit.engine.search.visits import Order, head_orders, visits, writers_in_order
from circuitkit.storage.state import SavedState

ReaderDone = Callable[["GreedySearch"], None]

DEEPEST = 256
"""The largest number of items in one batch."""
MOST_CLOSE = 2
"""The number of close guesses that ends a batch."""
CLOSE_FACTOR = 2.0
"""A guess is close if the estimate is between threshold / CLOSE_FACTOR and threshold * CLOSE_FACTOR.

This only ends batches early. Which *decisions* are close, and so rechecked, is measured: see `rechecks.py`.
"""
_COUNTS = ("tests", "whole_tests", "hypotheses", "wasted", "gradients", "joint_tests")
_STATE = ("scores", "score_sources", "decided", "kept", "smallest_gap", *_COUNTS)


@dataclass
class _Item:
    """The edges that one test removes: a single edge of the open reader, or a group that screening expects to remove.

    Attributes:
        writers: the edges' writers.
        expect_removal: the guess that they will be removed.
        joint: whether their joint effect is compared with the sum of their estimates instead of the threshold.
        close: whether the estimate is near the threshold, so that the guess may be wrong.
    """

    writers: list[int]
    expect_removal: bool
    joint: bool
    close: bool = False

    def halves(self) -> list["_Item"]:
        """Split a group into two of half the size; a single edge is tested against the threshold."""
        middle = len(self.writers) // 2
        parts = [part for part in (self.writers[:middle], self.writers[middle:]) if part]
        return [_Item(part, True, joint=len(part) > 1) for part in parts]


@dataclass
class GreedySearch:
    """A search in progress, and its result.

    Attributes:
        editor: its circuit is edited in place.
        threshold: an edge is removed if its removal increases the objective by strictly less than this.
        absolute: compare the absolute value of the change with the threshold.
        try_whole_reader: before testing the edges into a layer's queries, keys and values, try to remove all edges of
            each of these readers together.
        order: of the heads within a layer: `"reverse"`, from the last to the first (as published); `"normal"`, from the
            first to the last; or `"shuffle"`.
        generator: for `"shuffle"`.
        screen: None, or test edges with |estimated effect| below `screen * threshold` in groups. A group is removed if
            its exact joint effect differs from the sum of its estimates by at most `screen * threshold`; otherwise it
            is split in two. The circuit may differ from that of the search that tests every edge.
        on_reader_end: called when all edges of a reader are decided.
        scores: effect of each edge when it was tested, `[edges]`.
        score_sources: how each score came about, int8 `[edges]` of `ScoreSource`.
        decided: whether an edge is decided, bool `[edges]`; edges outside the starting circuit are.
        kept: the circuit found so far, bool `[edges]`; unlike `editor.kept`, without the edges of dead readers.
        tests: the number of single edges tested; whole_tests: the number of whole readers tested.
        hypotheses: the number of values of the objective; wasted: the number of tests after a wrong guess.
        gradients: the number of gradients, each of which estimates the effects of one reader's edges.
        joint_tests: the number of tests of groups.
        edges: the number of edges of the starting circuit.
        smallest_gap: the smallest |effect - threshold|: a smaller rounding error cannot flip a decision.
        rechecks: of close decisions in full precision; None if the policy does not ask for them.
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
    score_sources: Tensor = field(init=False)
    decided: Tensor = field(init=False)
    kept: Tensor = field(init=False)
    tests: int = 0
    whole_tests: int = 0
    hypotheses: int = 0
    wasted: int = 0
    gradients: int = 0
    joint_tests: int = 0
    smallest_gap: float = float("inf")
    edges: int = field(init=False)
    rechecks: Rechecks | None = field(init=False)

    def __post_init__(self) -> None:
        graph = self.editor.graph
        self.scores = torch.zeros(len(graph), dtype=torch.float64)
        self.score_sources = torch.full((len(graph),), ScoreSource.GIVEN, dtype=torch.int8)
        self.edges = int(self.editor.kept.sum())
        self.rechecks = Rechecks(self.threshold, self.edges) if self.editor.policy.rechecks_close else None
        self._depth = 1
        self._visited = 0
        self._heads: list[list[int]] = []
        # To resume within a layer: the circuit at its start, and what has been removed since, in order
        self._layer_start = self.editor.kept.clone()
        self._layer = graph.layers
        self._removals: list[tuple[int, Tensor]] = []
        self.decided = ~self.editor.kept
        self.kept = self.editor.kept.clone()

    @property
    def done(self) -> int:
        """Return how many edges of the starting circuit are decided."""
        return self.edges - int((~self.decided).sum())

    def run(self) -> None:
        """Search until every edge is decided, from the start or from a loaded state."""
        graph = self.editor.graph
        if not self._heads:  # not in a resumed search, which has drawn them before
            self._heads = list(head_orders(graph, self.order, self.generator))
        planned = list(visits(graph, self._heads, self.try_whole_reader))
        for reader, whole in planned[self._visited :]:
            if (layer := graph.block(reader).layer) != self._layer:
                self._layer, self._layer_start, self._removals = layer, self.editor.kept.clone(), []
            if whole:
                self._try_whole(reader)
            else:
                self._decide(reader, writers_in_order(graph, reader, self._heads))
            self._visited += 1
            if not whole and self.on_reader_end is not None:
                self.on_reader_end(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume from here to the same result, bit for bit."""
        return {
            **{name: getattr(self, name) for name in _STATE},
            "rechecks": None if self.rechecks is None else self.rechecks.state_dict(),
            "depth": self._depth,
            "visited": self._visited,
            "heads": self._heads,
            "layer": self._layer,
            "layer_start": self._layer_start,
            "removals": [[reader, removed] for reader, removed in self._removals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state; the editor must be a new one on the starting circuit.

        The editor's live state is not saved. Every search rebuilds it at the start of each layer: this one rebuilds it
        at its layer, and repeats the removals made there in the same order.

        Raises:
            CircuitKitError: it is not a state of this search.
        """
        graph = self.editor.graph
        saved = SavedState(state, "the search", self.state_dict().keys())
        self._heads = read_heads(
            saved, graph, None if self.order == "shuffle" else list(head_orders(graph, self.order, None))
        )
        planned = list(visits(graph, self._heads, self.try_whole_reader))
        self._visited, self._depth = saved.count("visited", most=len(planned)), saved.count("depth", 1, DEEPEST)
        done = planned[: self._visited]
        layer = graph.block(done[-1][0]).layer if done else graph.layers
        self._layer = saved.count("layer", least=layer, most=layer)
        edges = read_edges(saved, graph)
        check_decided(saved, edges, graph, self.editor.kept, done)
        for name in _COUNTS:
            setattr(self, name, saved.count(name))
        self.smallest_gap = saved.number("smallest_gap")
        for name in ("scores", "score_sources", "decided", "kept"):
            setattr(self, name, edges[name])
        self._layer_start = edges["layer_start"]
        saved.expect("rechecks", (self.rechecks is None) == (saved["rechecks"] is None), "that of this precision")
        if self.rechecks is not None:
            self.rechecks.load_state_dict(saved["rechecks"])
        here = {reader for reader, _ in done if graph.block(reader).layer == layer}
        self._repeat(read_removals(saved, graph, here))
        dead = self.score_sources == ScoreSource.DEAD
        saved.expect("kept", torch.equal(self.kept, self.editor.kept & ~dead), "what the removals leave")

    def _repeat(self, removals: list[tuple[int, Tensor]]) -> None:
        """Repeat the removals made in a layer."""
        self.editor.restart(self._layer_start)
        self._removals = []
        opened = None
        for reader, removed in removals:
            if reader != opened:  # opening it again would update the live state in other steps, and round differently
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
        if not kept.any() or not self.editor.is_live(reader):
            return
        self.editor.open(reader)
        effect = self._recheck(self._effect(kept), torch.zeros_like(kept), kept)
        self.whole_tests += 1
        if self._removes(effect):
            self._remove_whole(reader, kept, effect, ScoreSource.JOINT)

    def _decide(self, reader: int, writers: list[int]) -> None:
        edges = self.editor.graph.edges(reader)
        if not self.editor.is_live(reader):
            undecided = ~self.decided[edges]
            self.score_sources[edges][undecided] = ScoreSource.DEAD
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
            batch = self._next_batch(items)
            done, halves = self._test(reader, batch, estimates)
            self._depth = min(2 * self._depth, DEEPEST) if done == len(batch) and not halves else max(done, 1)
            items = halves + items[done:]

    def _next_batch(self, items: list["_Item"]) -> list["_Item"]:
        """Choose the next items to test: at most `_depth`, ending with the `MOST_CLOSE`-th close guess."""
        close = 0
        for count, item in enumerate(items[: self._depth], start=1):
            close += item.close
            if close == MOST_CLOSE:
                return items[:count]
        return items[: self._depth]

    def _items(self, candidates: list[int], estimates: Tensor) -> list["_Item"]:
        """List the items to test, in order: single edges and, with screening, groups with small estimated effects."""
        compared = estimates.abs() if self.absolute else estimates
        expected = (compared < self.threshold).tolist()
        small = (
            [False] * len(expected)
            if self.screen is None
            else (estimates.abs() < self.screen * self.threshold).tolist()
        )
        close = ((compared > self.threshold / CLOSE_FACTOR) & (compared < self.threshold * CLOSE_FACTOR)).tolist()
        items: list[_Item] = []
        for writer in candidates:
            if small[writer] and items and items[-1].joint:
                items[-1].writers.append(writer)
            else:
                items.append(_Item([writer], expected[writer], small[writer], close[writer]))
        for item in items:  # a group of one is compared with the threshold instead, at the same cost
            item.joint &= len(item.writers) > 1
        return items

    def _test(self, reader: int, items: list["_Item"], estimates: Tensor) -> tuple[int, list["_Item"]]:
        """Test items of the open reader in one batch, each as if all guesses before it were right.

        Row n of the batch removes the n-th item and all earlier items that are expected to be removed. Its effect is
        its value minus that of the row of the last of these. Up to the first wrong guess, these are the effects that
        testing one item after another would measure; the other rows are wasted.

        Returns:
            The number of items done, and the halves of the last one if it is a group that failed its joint test.
        """
        edges = self.editor.graph.edges(reader)
        rows = torch.zeros(len(items), edges.stop - edges.start, dtype=torch.bool)
        before, last = [], 0  # places in `values`: row n has place n + 1, the current circuit has place 0
        for row, item in enumerate(items):
            before.append(last)
            rows[row] = rows[last - 1] if last else False
            rows[row, item.writers] = True
            if item.expect_removal:
                last = row + 1
        values = self.editor.values(rows).tolist()
        self.hypotheses += len(values)
        gone = torch.zeros_like(rows[0])
        done, halves = 0, list[_Item]()
        for row, item in enumerate(items):
            effect = values[row + 1] - values[before[row]]
            done += 1
            if item.joint and not self._passes_joint_test(item, effect, estimates):
                halves = item.halves()
                break
            removed = item.joint or self._decide_edge(edges.start, item.writers[0], effect, gone)
            if item.joint:
                self._remove_group(edges, item, estimates)
            gone[item.writers] = removed
            if removed != item.expect_removal:
                break
        self._commit(gone)
        self.wasted += len(items) - done
        return done, halves

    def _passes_joint_test(self, item: "_Item", effect: float, estimates: Tensor) -> bool:
        """Tell whether a group's exact joint effect agrees with the sum of its estimates."""
        self.joint_tests += 1
        assert self.screen is not None, "only screening makes groups"
        return abs(effect - float(estimates[item.writers].sum())) <= self.screen * self.threshold

    def _remove_group(self, edges: slice, item: "_Item", estimates: Tensor) -> None:
        numbers = torch.tensor(item.writers, dtype=torch.int64) + edges.start
        self.scores[numbers], self.score_sources[numbers] = estimates[item.writers], ScoreSource.ESTIMATED
        self.decided[numbers], self.kept[numbers] = True, False

    def _decide_edge(self, start: int, writer: int, effect: float, gone: Tensor) -> bool:
        edge, removal = start + writer, torch.zeros_like(gone)
        removal[writer] = True
        effect = self._recheck(effect, gone, removal)
        removed = self._removes(effect)
        self.tests += 1
        self.scores[edge], self.score_sources[edge], self.decided[edge] = effect, ScoreSource.TESTED, True
        self.kept[edge] = not removed
        return removed

    def _effect(self, removal: Tensor) -> float:
        before, after = self.editor.values(removal[None]).tolist()
        self.hypotheses += 2
        return float(after - before)

    def _recheck(self, effect: float, gone: Tensor, removal: Tensor) -> float:
        """Return an effect, computed again in full precision if its decision is close or audited.

        Args:
            effect: as measured in the policy's precision.
            gone: edges of the open reader that are removed before, bool `[U]`.
            removal: the edges whose removal has this effect, bool `[U]`.
        """
        gap = abs(self._above(effect))
        if self.rechecks is None or not self.rechecks.is_due(gap, self.done):
            return effect
        _, before, after = self.editor.values(torch.stack([gone, gone | removal]), full=True).tolist()
        exact = after - before
        flipped = (self._above(exact) < 0) != (self._above(effect) < 0)
        self.rechecks.record(gap, abs(exact - effect), flipped)
        return float(exact)

    def _above(self, effect: float) -> float:
        """Return by how much the effect (or its absolute value) exceeds the threshold."""
        return (abs(effect) if self.absolute else effect) - self.threshold

    def _removes(self, effect: float) -> bool:
        above = self._above(effect)
        self.smallest_gap = min(self.smallest_gap, abs(above))
        return above < 0

    def _remove_whole(self, reader: int, removal: Tensor, effect: float, source: ScoreSource) -> None:
        self._commit(removal)
        edges = self.editor.graph.edges(reader)
        self.scores[edges][removal] = effect
        self.score_sources[edges][removal] = source
        self.decided[edges] |= removal
        self.kept[edges] &= ~removal
