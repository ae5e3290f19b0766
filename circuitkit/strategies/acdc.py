"""ACDC: greedily remove every edge whose removal hardly worsens the objective."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config.checks import check_flags, is_number
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate, estimate_search
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.engine.search.visits import Order
from circuitkit.errors import UsageError
from circuitkit.storage.state import SavedState, misfit
from circuitkit.strategies.base import OperatingPoint, as_list, check_distinct_prompts
from circuitkit.strategies.discovery import EDITORS, Discovery, EditorKind
from circuitkit.strategies.parts import read_circuit, save_circuit
from circuitkit.strategies.search_prompts import SearchPrompts, check_count, count_prompts
from circuitkit.strategies.starting_circuit import Start, StartsFromCircuit, join_scores


class ACDC(StartsFromCircuit):
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
        start: the circuit to start from, of which unconnected edges are dropped: another strategy, by name, spec or
            object, which runs first; the folder of a run; or a `Circuit`. Other edges are not tested, and score 0. None
            starts from the full model.
        start_size: start from this fraction of the edges, the best of `start`; by default its own edges, or 0.05 of a
            ranking.
        rising: start the search at each threshold from the circuit at the one before, without unconnected edges,
            instead of from `start`; the thresholds must rise. Edges outside it keep their scores.
        prompts_per_layer: None: all decisions are taken on the run's prompts. A number: every layer of the search (the
            logits count as one) has this many prompts of its own, drawn from all that the task can make, so that a
            circuit of many decisions does not fit a few prompts. It takes the time and memory of a search on that many.
        race: None: every decision is taken on all prompts. A number: a decision is taken on the first `race_start`
            prompts where the effect's distance from the threshold is more than this many standard errors; otherwise on
            at least twice as many, up to all (see `engine/search/racing.py`).
        race_start: the number of prompts of the first stage of a race.

    Raises:
        UsageError: an argument is out of its range.
    """

    operating_point = OperatingPoint("threshold")

    def __init__(
        self,
        threshold: float | Sequence[float] = 0.1,
        absolute: bool = False,
        try_whole_reader: bool = False,
        screen: float | None = None,
        order: Order = "reverse",
        editor: EditorKind = "incremental",
        start: Start = None,
        start_size: float | None = None,
        rising: bool = False,
        prompts_per_layer: int | None = None,
        race: float | None = None,
        race_start: int = 16,
    ) -> None:
        self._thresholds = as_list("threshold", threshold, lambda _: True, "Give a finite number such as 0.1.")
        if order not in ("reverse", "normal", "shuffle"):
            raise UsageError(f"order={order!r} is unknown.", "Choose 'reverse', 'normal' or 'shuffle'.")
        if not isinstance(editor, str) or editor not in EDITORS:
            raise UsageError(f"There is no editor {editor!r}.", f"Choose {' or '.join(map(repr, EDITORS))}.")
        check_flags(absolute=absolute, try_whole_reader=try_whole_reader, rising=rising)
        if screen is not None and not (is_number(screen) and 0 < screen < 1):
            raise UsageError(
                f"screen={screen!r} is not between 0 and 1.", "Give a fraction of the threshold such as 0.25."
            )
        if rising and any(low >= high for low, high in itertools.pairwise(self._thresholds)):
            raise UsageError(f"threshold={threshold!r} does not rise.", "Give the thresholds in ascending order.")
        self._set_start(start, start_size)
        self.rising = rising
        check_count("prompts_per_layer", prompts_per_layer, 16, optional=True)
        check_count("race_start", race_start, 16)
        if race is not None and (isinstance(race, bool) or not isinstance(race, int | float) or not race > 0):
            raise UsageError(f"race={race!r} is not a positive number.", "Give a number of standard errors such as 3.")
        self.threshold = threshold
        self.absolute = absolute
        self.screen = screen
        self.try_whole_reader = try_whole_reader
        self.order = order
        self.editor = editor
        self.prompts_per_layer = prompts_per_layer
        self.race = race
        self.race_start = race_start

    def footprint(self, run: Discovery) -> Need:
        """Count a search in the full model, an upper bound of every circuit's."""
        need = run.footprints.replay() if self.editor == "replay" else run.footprints.editor()
        return replace(need, prompts=self.prompts_per_layer)

    def setup(self, run: Discovery) -> None:
        """Check the circuit to start from, and the prompts of the layers, before any work."""
        super().setup(run)
        if self.prompts_per_layer is not None:
            check_distinct_prompts(run, count_prompts(run, self.prompts_per_layer))

    def discover(self, run: Discovery) -> list[Circuit]:
        """Run one search per threshold."""
        start = self._find_start(run)
        prompts = SearchPrompts(run, self.prompts_per_layer, self.race, self.race_start)
        progress = self._resume(run, prompts.content)
        for threshold in self._thresholds[len(progress.found) :]:
            before = progress.found[-1].prune() if self.rising and progress.found else None
            found = self._discover(run, prompts, float(threshold), progress, before or start)
            progress.found.append(found if before is None else join_scores(found, before))
        self._log_search(run)
        return progress.found

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few edge tests, in the full model and in a sparse circuit."""
        kept, note = (None, "") if self._starting is None else self._starting.assume(run.model.graph)
        found = estimate_search(
            lambda: run.editor(kept, self.editor), (1 if self.rising else len(self._thresholds), len(self._thresholds))
        )
        notes = [*found.notes, note] if note else list(found.notes)
        if self.screen is not None:
            notes.append("Both times are for a search that tests every edge; screening tests fewer.")
        if self.race is not None:
            notes.append("Both times are for decisions on all prompts; racing takes most of them on fewer.")
        if self.rising and len(self._thresholds) > 1:
            notes.append("The shorter time is for the first threshold alone, the longer one for no edge removed there.")
        return replace(found, notes=tuple(notes))

    def _resume(self, run: Discovery, prompts: str) -> "_Progress":
        """Return how far the run is: at the start, or where an interrupted one was saved."""
        if run.resumed is None:
            return _Progress(prompts)
        graph, saved = run.model.graph, SavedState(run.resumed, "the strategy", _Progress(prompts).state_dict().keys())
        saved.expect("prompts", saved["prompts"] == prompts, "that of this run's prompts")
        found = saved.items("found")
        saved.expect("found", len(found) < len(self._thresholds), "the circuits of the thresholds before this one")
        for name in ("totals", "largest"):
            figures = SavedState(saved.mapping(name), f"the {name}", saved[name])
            for figure in saved[name]:
                figures.number(figure)
        rules = map(self._rule, self._thresholds)
        return _Progress(
            prompts,
            found=[_read_circuit(graph, one, rule) for one, rule in zip(found, rules, strict=False)],
            totals=saved["totals"],
            largest=saved["largest"],
            search_state=saved.mapping("search"),
            forward_equivalents=saved.number("forward_equivalents"),
        )

    def _discover(
        self, run: Discovery, prompts: SearchPrompts, threshold: float, progress: "_Progress", start: Circuit | None
    ) -> Circuit:
        def on_reader_end(search: GreedySearch) -> None:
            for part, size in search.footprint().items():
                progress.largest[part] = max(size, progress.largest.get(part, 0))
            kept = int(search.kept[search.decided].sum())
            run.report(search.done, search.edges, "edges", tested=search.tests, kept=kept)
            run.fabric.call("on_reader_end", run, search)
            run.checkpoint(lambda: progress.state_dict(search))

        make = partial(prompts.editor, kind=self.editor, start=None if start is None else start.kept)
        search = GreedySearch(
            editor=make(run.model.graph.layers),
            threshold=threshold,
            absolute=self.absolute,
            try_whole_reader=self.try_whole_reader,
            screen=self.screen,
            order=self.order,
            generator=run.generator,
            on_reader_end=on_reader_end,
            fresh=make if prompts.fresh else None,
            measurement=prompts.measurement(make),
        )
        if progress.search_state is not None:
            search.load_state_dict(progress.search_state)
            search.editor.forward_equivalents = progress.forward_equivalents
            progress.search_state = None
        search.run()
        rechecks = {}
        if search.rechecks is not None:
            rechecks = search.rechecks.report()
            for caveat in search.rechecks.caveats(run.policy.advice()):
                run.note(caveat)
        before = progress.totals
        progress.totals = {
            **{name: before.get(name, 0) + count for name, count in _counts(search).items()},
            **{name: max(before.get(name, 0.0), value) for name, value in rechecks.items()},
            "smallest_gap": min(before.get("smallest_gap", math.inf), search.smallest_gap),
        }
        figures = progress.totals | search.measurement.summarize(progress.totals)
        run.log(**{f"{part}_mb": size / 2**20 for part, size in progress.largest.items()}, **figures)
        return Circuit(run.model.graph, search.scores, search.kept, search.score_sources, self._rule(threshold))

    def _rule(self, threshold: float) -> str:
        ways = ("absolute" if self.absolute else "signed", *(["from a proposal"] if self._starting else []))
        return ", ".join((f"threshold {threshold:g}", *ways, *(["rising"] if self.rising else [])))


@dataclass
class _Progress:
    """How far a run is.

    Attributes:
        prompts: a hash of the search's prompts.
        found: the circuits of the thresholds before the present one.
        totals: the figures of these circuits' searches together.
        largest: the most bytes held so far, by part.
        search_state, forward_equivalents: in a resumed run, of the search to continue.
    """

    prompts: str
    found: list[Circuit] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    search_state: dict[str, Any] | None = None
    forward_equivalents: float = 0.0

    def state_dict(self, search: GreedySearch | None = None) -> dict[str, Any]:
        """Return the state needed to resume, with that of the search in progress."""
        return {
            "prompts": self.prompts,
            "found": list(map(save_circuit, self.found)),
            "search": None if search is None else search.state_dict(),
            "forward_equivalents": 0.0 if search is None else search.editor.forward_equivalents,
            "totals": self.totals,
            "largest": self.largest,
        }


def _read_circuit(graph: EdgeGraph, found: Any, rule: str) -> Circuit:
    circuit = read_circuit(graph, found)
    if circuit.selection != rule:
        raise misfit(f"A circuit is selected by {circuit.selection!r}, not {rule!r}")
    return circuit


def _counts(search: GreedySearch) -> dict[str, float]:
    """Return the counts of a search; over several thresholds they add up."""
    counts: dict[str, float] = {
        "edges_tested": search.tests,
        "readers_tested": search.whole_tests,
        "joint_tests": search.joint_tests,
        "hypotheses": search.hypotheses,
        "hypotheses_wasted": search.wasted,
        "gradients": search.gradients,
        "forward_equivalents": search.forward_equivalents,
    }
    counts |= search.measurement.counts()
    if search.rechecks is not None:
        counts |= search.rechecks.counts()
    return counts
