"""ACDC: remove every edge whose removal the objective does not notice."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from circuitkit.circuit import Circuit
from circuitkit.engine.greedy import Order, Search
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.errors import UsageError
from circuitkit.preflight import Estimate, estimate_search
from circuitkit.strategies.base import EDITORS, Discovery, DiscoveryStrategy, EditorKind


class ACDC(DiscoveryStrategy):
    """Automatic circuit discovery (Conmy et al. 2023, arXiv 2304.14997).

    Greedy, from the logits to the input: an edge whose removal makes the objective worse by less than the threshold
    stays removed. Its circuit is its own; the scores are the effects met on the way.

    Args:
        threshold: in the units of the objective; 0.1 unless given.
        thresholds: several, one circuit each, instead of `threshold`.
        absolute: compare the size of the change instead of the change.
        try_whole_reader: before the edges into a query, key or value, try to remove all of them together, as the
            authors' direct edges do.
        screen: None tests every edge. A number such as 0.25 removes edges whose first-order effect is below that part
            of the threshold in runs, each checked exactly by its joint effect: far fewer tests, but no promise of the
            same circuit.
        order: of the heads within a layer, `"reverse"` as published.
        editor: what evaluates the removals: `"incremental"`, or the slow reference, `"replay"`; the decisions are the
            same.
    """

    def __init__(
        self,
        threshold: float | None = None,
        thresholds: Sequence[float] | None = None,
        absolute: bool = False,
        try_whole_reader: bool = False,
        screen: float | None = None,
        order: Order = "reverse",
        editor: EditorKind = "incremental",
    ) -> None:
        if threshold is not None and thresholds is not None:
            raise UsageError("Both threshold and thresholds are given.", "Give one of them.")
        if thresholds is not None and not thresholds:
            raise UsageError("thresholds is empty.", "Give at least one, or leave it out.")
        self.thresholds = list(thresholds) if thresholds is not None else [0.1 if threshold is None else threshold]
        for value in self.thresholds:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"The threshold {value!r} is not a finite number.", "Give one such as 0.1.")
        if order not in ("reverse", "normal", "shuffle"):
            raise UsageError(f"order={order!r} is unknown.", "Choose 'reverse', 'normal' or 'shuffle'.")
        if editor not in EDITORS:
            raise UsageError(f"There is no editor {editor!r}.", f"Choose {' or '.join(map(repr, EDITORS))}.")
        if screen is not None and not 0 < screen < 1:
            raise UsageError(f"screen={screen!r} is not between 0 and 1.", "Give a part of the threshold such as 0.25.")
        self.absolute = absolute
        self.screen = screen
        self.try_whole_reader = try_whole_reader
        self.order = order
        self.editor = editor
        self._found: list[Circuit] = []
        self._search: Search | None = None
        self._largest: dict[str, int] = {}
        self._resumed: dict[str, Any] = {}

    def discover(self, run: Discovery) -> list[Circuit]:
        """One search a threshold, each from the full model."""
        self._largest = dict(self._resumed.get("largest", {}))
        self._found = [Circuit(run.model.graph, **one) for one in self._resumed.get("found", [])]
        for threshold in self.thresholds[len(self._found) :]:
            self._found.append(self._discover(run, float(threshold)))
        return self._found

    def preflight(self, run: Discovery) -> Estimate:
        """Time a few edge tests, in the full model and in a sparse circuit."""
        found = estimate_search(lambda: run.editor(kind=self.editor), len(self.thresholds))
        said = () if self.screen is None else ("Both are for a search that tests every edge; screening tests fewer.",)
        return replace(found, notes=(*found.notes, *said))

    def state_dict(self) -> dict[str, Any]:
        """The circuits found, and the search under way."""
        fields = ("scores", "kept", "origin", "selection")
        search = self._search
        return {
            "found": [{field: getattr(circuit, field) for field in fields} for circuit in self._found],
            "search": None if search is None else search.state_dict(),
            "forward_equivalents": 0.0 if search is None else _counted(search).get("forward_equivalents", 0.0),
            "largest": self._largest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the search that was under way."""
        self._resumed = state

    def _discover(self, run: Discovery, threshold: float) -> Circuit:
        def reader_done(search: Search) -> None:
            if isinstance(search.editor, IncrementalEditor):
                for part, size in search.editor.footprint().items():
                    self._largest[part] = max(size, self._largest.get(part, 0))
            done, kept = int(search.decided.sum()), int(search.kept[search.decided].sum())
            run.report(done, len(run.model.graph), "edges", tested=search.tests, kept=kept)
            run.fabric.call("on_reader_end", run, search)
            run.checkpoint(self)

        search = Search(
            editor=run.editor(kind=self.editor),
            threshold=threshold,
            absolute=self.absolute,
            try_whole_reader=self.try_whole_reader,
            screen=self.screen,
            order=self.order,
            generator=run.generator,
            on_reader_end=reader_done,
        )
        if under_way := self._resumed.pop("search", None):
            search.load_state_dict(under_way)
            if isinstance(search.editor, IncrementalEditor):
                search.editor.forward_equivalents = self._resumed["forward_equivalents"]
        self._search = search
        search.run()
        self._search = None
        before = run.metrics
        settled = {} if search.doubts is None else search.doubts.report(run.policy.advice())
        run.log(
            **{name: before.get(name, 0) + count for name, count in _counted(search).items()},
            **{name: max(before.get(name, 0.0), value) for name, value in settled.items()},
            **{f"{part}_mb": size / 2**20 for part, size in self._largest.items()},
            smallest_gap=min(before.get("smallest_gap", math.inf), search.smallest_gap),
        )
        rule = f"threshold {threshold:g}, {'absolute' if self.absolute else 'signed'}"
        return Circuit(run.model.graph, search.scores, search.kept, search.origin, selection=rule)


def _counted(search: Search) -> dict[str, float]:
    """What a search counts, which adds up over thresholds."""
    counted: dict[str, float] = {
        "edges_tested": search.tests,
        "readers_tested": search.whole_tests,
        "joint_tests": search.joint_tests,
        "hypotheses": search.hypotheses,
        "hypotheses_wasted": search.wasted,
        "gradients": search.gradients,
    }
    if search.doubts is not None:
        counted |= search.doubts.counted()
    if isinstance(search.editor, IncrementalEditor):
        counted["forward_equivalents"] = search.editor.forward_equivalents
    return counted
