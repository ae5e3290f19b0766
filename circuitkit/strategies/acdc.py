"""ACDC: greedily remove every edge whose removal hardly worsens the objective."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.search.cost_estimate import CostEstimate, estimate_search
from circuitkit.engine.search.greedy import GreedySearch, Order
from circuitkit.errors import UsageError
from circuitkit.strategies.base import EDITORS, Discovery, DiscoveryStrategy, EditorKind, as_list


class ACDC(DiscoveryStrategy):
    """Automatic circuit discovery (Conmy et al. 2023, arXiv 2304.14997).

    Greedy, from the logits to the input: an edge stays removed if its removal makes the objective worse by less than
    the threshold. The scores are the effects measured during the search.

    Args:
        threshold: in the units of the objective; several values give one circuit each.
        absolute: compare the absolute value of the change with the threshold.
        try_whole_reader: before testing the edges into a query, key or value one by one, try to remove all of them
            together, like a direct-computation edge of the authors' code.
        screen: None tests every edge. A number such as 0.25 tests edges with |first-order effect| below this fraction
            of the threshold in groups, by each group's exact joint effect: far fewer tests, but the circuit may differ.
        order: of the heads within a layer; `"reverse"` as published.
        editor: evaluates the removals: `"incremental"`, or the slow reference, `"replay"`. The decisions are the same.

    Raises:
        UsageError: an argument is out of its range.
    """

    def __init__(
        self,
        threshold: float | Sequence[float] = 0.1,
        absolute: bool = False,
        try_whole_reader: bool = False,
        screen: float | None = None,
        order: Order = "reverse",
        editor: EditorKind = "incremental",
    ) -> None:
        self._thresholds = as_list("threshold", threshold, lambda _: True, "Give a finite number such as 0.1.")
        if order not in ("reverse", "normal", "shuffle"):
            raise UsageError(f"order={order!r} is unknown.", "Choose 'reverse', 'normal' or 'shuffle'.")
        if editor not in EDITORS:
            raise UsageError(f"There is no editor {editor!r}.", f"Choose {' or '.join(map(repr, EDITORS))}.")
        if screen is not None and not 0 < screen < 1:
            raise UsageError(
                f"screen={screen!r} is not between 0 and 1.", "Give a fraction of the threshold such as 0.25."
            )
        self.threshold = threshold
        self.absolute = absolute
        self.screen = screen
        self.try_whole_reader = try_whole_reader
        self.order = order
        self.editor = editor
        self._found: list[Circuit] = []
        self._search: GreedySearch | None = None
        self._largest: dict[str, int] = {}
        self._resumed: dict[str, Any] = {}

    def discover(self, run: Discovery) -> list[Circuit]:
        """Run one search per threshold, each from the full model."""
        self._largest = dict(self._resumed.get("largest", {}))
        self._found = [Circuit(run.model.graph, **one) for one in self._resumed.get("found", [])]
        for threshold in self._thresholds[len(self._found) :]:
            self._found.append(self._discover(run, float(threshold)))
        return self._found

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few edge tests, in the full model and in a sparse circuit."""
        found = estimate_search(lambda: run.editor(kind=self.editor), len(self._thresholds))
        note = (
            ()
            if self.screen is None
            else ("Both times are for a search that tests every edge; screening tests fewer.",)
        )
        return replace(found, notes=(*found.notes, *note))

    def state_dict(self) -> dict[str, Any]:
        """Return the circuits found, and the state of the search in progress."""
        fields = ("scores", "kept", "score_sources", "selection")
        search = self._search
        return {
            "found": [{field: getattr(circuit, field) for field in fields} for circuit in self._found],
            "search": None if search is None else search.state_dict(),
            "forward_equivalents": 0.0 if search is None else search.editor.forward_equivalents,
            "largest": self._largest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state for `discover`, which continues the search that was in progress."""
        self._resumed = state

    def _discover(self, run: Discovery, threshold: float) -> Circuit:
        def on_reader_end(search: GreedySearch) -> None:
            for part, size in search.editor.footprint().items():
                self._largest[part] = max(size, self._largest.get(part, 0))
            done, kept = int(search.decided.sum()), int(search.kept[search.decided].sum())
            run.report(done, len(run.model.graph), "edges", tested=search.tests, kept=kept)
            run.fabric.call("on_reader_end", run, search)
            run.checkpoint(self)

        search = GreedySearch(
            editor=run.editor(kind=self.editor),
            threshold=threshold,
            absolute=self.absolute,
            try_whole_reader=self.try_whole_reader,
            screen=self.screen,
            order=self.order,
            generator=run.generator,
            on_reader_end=on_reader_end,
        )
        if in_progress := self._resumed.pop("search", None):
            search.load_state_dict(in_progress)
            search.editor.forward_equivalents = self._resumed["forward_equivalents"]
        self._search = search
        search.run()
        self._search = None
        before = run.metrics
        rechecks = {}
        if search.rechecks is not None:
            rechecks = search.rechecks.report()
            for caveat in search.rechecks.caveats(run.policy.advice()):
                run.note(caveat)
        run.log(
            **{name: before.get(name, 0) + count for name, count in _counts(search).items()},
            **{name: max(before.get(name, 0.0), value) for name, value in rechecks.items()},
            **{f"{part}_mb": size / 2**20 for part, size in self._largest.items()},
            smallest_gap=min(before.get("smallest_gap", math.inf), search.smallest_gap),
        )
        rule = f"threshold {threshold:g}, {'absolute' if self.absolute else 'signed'}"
        return Circuit(run.model.graph, search.scores, search.kept, search.score_sources, selection=rule)


def _counts(search: GreedySearch) -> dict[str, float]:
    """Return the counts of a search; over several thresholds they add up."""
    counts: dict[str, float] = {
        "edges_tested": search.tests,
        "readers_tested": search.whole_tests,
        "joint_tests": search.joint_tests,
        "hypotheses": search.hypotheses,
        "hypotheses_wasted": search.wasted,
        "gradients": search.gradients,
        "forward_equivalents": search.editor.forward_equivalents,
    }
    if search.rechecks is not None:
        counts |= search.rechecks.counts()
    return counts
