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

*Racing* (`racing.py`), if asked for, takes most decisions on a few of the prompts.

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
from circuitkit.engine.search.items import Item, list_items, next_batch
from circuitkit.engine.search.measurement import Measurement
from circuitkit.engine.search.rechecks import Rechecks
from circuitkit.engine.search.removals import Removal, repeat
from circuitkit.engine.search.saved_search import check_decided, read_edges, read_heads, read_removals
from circuitkit.engine.search.visits import Order, head_orders, visits, writers_in_order
from circuitkit.storage.state import SavedState

ReaderDone = Callable[["GreedySearch"], None]

DEEPEST = 256
"""The largest number of items in one batch."""
_COUNTS = ("tests", "whole_tests", "hypotheses", "wasted", "gradients", "joint_tests")
_STATE = ("scores", "score_sources", "decided", "kept", "smallest_gap", *_COUNTS)


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
        fresh: None, or makes the editor of a layer (its number; L stands for the logits) on the starting circuit, with
            prompts of its own; `editor` is the one of the logits.
        measurement: measures effects, by default on all prompts of the editor; a `Race` has other editors beside
            `editor` and `fresh`, which are those of its first stage.
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
    fresh: Callable[[int], Editor] | None = None
    measurement: Measurement = field(default_factory=Measurement)
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
        self._start_layer(graph.layers, self.editor.kept.clone())
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
                self._start_layer(layer, self.editor.kept.clone())
            if whole:
                self._try_whole(reader)
            else:
                self._decide(reader, writers_in_order(graph, reader, self._heads))
            self._visited += 1
            if not whole and self.on_reader_end is not None:
                self.on_reader_end(self)

    @property
    def forward_equivalents(self) -> float:
        """Return the multiply-adds of all values, divided by those of a forward pass of all prompts."""
        return self.measurement.forward_equivalents(self.editor)

    def footprint(self) -> dict[str, int]:
        """Count the bytes of all editors by part (see `Editor.footprint`)."""
        return self.measurement.footprint(self.editor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume from here to the same result, bit for bit."""
        return {
            **{name: getattr(self, name) for name in _STATE},
            "rechecks": None if self.rechecks is None else self.rechecks.state_dict(),
            "measurement": self.measurement.state_dict(),
            "depth": self._depth,
            "visited": self._visited,
            "heads": self._heads,
            "layer": self._layer,
            "layer_start": self._layer_start,
            "removals": [[reader, removed] for reader, removed in self._removals],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state; the editor must be a new one on the starting circuit.

        The editor's live state is not saved: it is rebuilt at the layer's start, as in every search, and the removals
        made there are repeated in the same order.

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
        self.measurement.load_state_dict(saved["measurement"])
        dead = self.score_sources == ScoreSource.DEAD
        saved.expect("kept", torch.equal(self.kept, self.editor.kept & ~dead), "what the removals leave")

    def _start_layer(self, layer: int, kept: Tensor) -> None:
        """Begin with a layer and a circuit, on the layer's own prompts if it has some."""
        # To resume within a layer: the circuit at its start, and what has been removed since, in order
        self._layer, self._layer_start = layer, kept
        self._removals: list[Removal] = []
        self.measurement.start_layer(layer, kept, self._removals)
        if self.fresh is None or layer == self.editor.graph.layers:
            return
        spent = self.editor.forward_equivalents
        del self.editor  # its captures are free before those of the next one are made
        self.editor = self.fresh(layer)
        self.editor.restart(kept)
        self.editor.forward_equivalents = spent

    def _repeat(self, removals: list[Removal]) -> None:
        """Repeat the removals made in a layer."""
        self._start_layer(self._layer, self._layer_start)
        self.editor.restart(self._layer_start)
        repeat(removals, self._open, self._commit)

    def _open(self, reader: int) -> None:
        self.measurement.open(self.editor, reader, screened=self.screen is not None)

    def _commit(self, removed: Tensor) -> None:
        self.measurement.commit(removed)
        if removed.any():
            self._removals.append((self.editor.reader, removed))

    def _try_whole(self, reader: int) -> None:
        edges = self.editor.graph.edges(reader)
        kept = self.editor.kept[edges].clone()
        if not kept.any() or not self.editor.is_live(reader):
            return
        self._open(reader)
        item = Item(kept.nonzero()[:, 0].tolist(), True, joint=False)
        self._measure(kept[None], [0], [item])
        effect = self._recheck(0, torch.zeros_like(kept), kept)
        self.whole_tests += 1
        if self._removes(effect):
            self._commit(kept)
            self.scores[edges][kept] = effect
            self.score_sources[edges][kept] = ScoreSource.JOINT
            self.decided[edges] |= kept
            self.kept[edges] &= ~kept

    def _decide(self, reader: int, writers: list[int]) -> None:
        edges = self.editor.graph.edges(reader)
        if not self.editor.is_live(reader):
            undecided = ~self.decided[edges]
            self.score_sources[edges][undecided] = ScoreSource.DEAD
            self.decided[edges] = True
            self.kept[edges] = False
            return
        if not (candidates := [writer for writer in writers if not self.decided[edges.start + writer]]):
            return
        self._open(reader)
        estimates = self.measurement.estimates()
        self.gradients += 1
        items = list_items(candidates, estimates, self.threshold, self.absolute, self.screen)
        while items:
            batch = next_batch(items, self._depth)
            done, halves = self._test(reader, batch, estimates)
            self._depth = min(2 * self._depth, DEEPEST) if done == len(batch) and not halves else max(done, 1)
            items = halves + items[done:]

    def _test(self, reader: int, items: list[Item], estimates: Tensor) -> tuple[int, list[Item]]:
        """Test items of the open reader in one batch, each as if all guesses before it were right.

        Row n of the batch removes the n-th item and all earlier items that are expected to be removed. Its effect is
        its value minus that of the row of the last of these. Up to the first wrong guess, these are the effects that
        testing one item after another would measure; the other rows are wasted.

        Returns:
            The number of items done, and the halves of the last one if it is a group that failed its joint test.
        """
        edges = self.editor.graph.edges(reader)
        rows = torch.zeros(len(items), edges.stop - edges.start, dtype=torch.bool)
        before, last = [], 0  # places of hypotheses: row n has place n + 1, the current circuit has place 0
        for row, item in enumerate(items):
            before.append(last)
            rows[row] = rows[last - 1] if last else False
            rows[row, item.writers] = True
            if item.expect_removal:
                last = row + 1
        self._measure(rows, before, items)
        gone = torch.zeros_like(rows[0])
        done, halves = 0, list[Item]()
        for row, item in enumerate(items):
            if done and not self.measurement.is_clear(row):
                break  # an audit or a recheck has changed the decision before: no more prompts were taken after it
            done += 1
            if item.joint and not self._passes_joint_test(row):
                halves = item.halves()
                break
            removed = item.joint or self._decide_edge(edges.start, item.writers[0], row, gone)
            if item.joint:
                self._remove_group(edges, item, estimates)
            gone[item.writers] = removed
            if removed != item.expect_removal:
                break
        self._commit(gone)
        self.wasted += len(items) - done
        return done, halves

    def _measure(self, rows: Tensor, before: list[int], items: list[Item]) -> None:
        margins = [self._above_screen if item.joint else self._above for item in items]
        self.hypotheses += self.measurement.run(rows, before, items, margins)

    def _settle(self, row: int) -> float:
        return self.measurement.settle(row, self.done / self.edges)

    def _passes_joint_test(self, row: int) -> bool:
        """Tell whether a group's exact joint effect agrees with the sum of its estimates."""
        self.joint_tests += 1
        return self._above_screen(self._settle(row)) <= 0

    def _remove_group(self, edges: slice, item: Item, estimates: Tensor) -> None:
        numbers = torch.tensor(item.writers, dtype=torch.int64) + edges.start
        self.scores[numbers], self.score_sources[numbers] = estimates[item.writers], ScoreSource.ESTIMATED
        self.decided[numbers], self.kept[numbers] = True, False

    def _decide_edge(self, start: int, writer: int, row: int, gone: Tensor) -> bool:
        edge, removal = start + writer, torch.zeros_like(gone)
        removal[writer] = True
        effect = self._recheck(row, gone, removal)
        removed = self._removes(effect)
        self.tests += 1
        self.scores[edge], self.score_sources[edge], self.decided[edge] = effect, ScoreSource.TESTED, True
        self.kept[edge] = not removed
        return removed

    def _recheck(self, row: int, gone: Tensor, removal: Tensor) -> float:
        """Return an item's effect, computed again in full precision if its decision is close or audited.

        Args:
            row: of the item in the batch.
            gone: edges of the open reader that are removed before, bool `[U]`.
            removal: the edges whose removal has this effect, bool `[U]`.
        """
        effect = self._settle(row)
        gap = abs(self._above(effect))
        if self.rechecks is None or not self.rechecks.is_due(gap, self.done):
            return effect
        exact = self.measurement.full_effect(row, torch.stack([gone, gone | removal]))
        flipped = (self._above(exact) < 0) != (self._above(effect) < 0)
        self.rechecks.record(gap, abs(exact - effect), flipped)
        return exact

    def _above_screen(self, difference: float) -> float:
        """Return by how much a group's effect differs more from its estimates than screening allows."""
        assert self.screen is not None, "only screening makes groups"
        return abs(difference) - self.screen * self.threshold

    def _above(self, effect: float) -> float:
        """Return by how much the effect (or its absolute value) exceeds the threshold."""
        return (abs(effect) if self.absolute else effect) - self.threshold

    def _removes(self, effect: float) -> bool:
        above = self._above(effect)
        self.smallest_gap = min(self.smallest_gap, abs(above))
        return above < 0
