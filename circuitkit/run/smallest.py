"""The smallest circuit with a given faithfulness on the validation split, for any strategy.

A strategy sees the prompts of the train split only. The size of its circuit is chosen here, on other prompts: of a
ranking, by its first edges; of a strategy with an operating point (such as ACDC's threshold), by searches at several
values. `bisection` says which sizes and values are tried. The result is the smallest circuit among them that reaches
the faithfulness, which is not proven to be the smallest of all.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.report.figures import format_interval
from circuitkit.run.bisection import MOST_SEARCHES, bisect_places, find_size
from circuitkit.run.searching import SeveralSearches
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.starting_circuit import proposal_metrics, single_circuit

REACHED = "validation_faithfulness"
"""The metric with the faithfulness of the chosen circuit."""
_SUMS = ("edges_tested", "joint_tests", "forward_equivalents", "search_s", "wall_s")


def check_faithfulness(value: Any, strategy: DiscoveryStrategy) -> float:
    """Check the faithfulness to reach, and that the strategy's operating point can be varied.

    Raises:
        UsageError: it is not a positive number, or the strategy starts at a value that has no sparser or denser one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"faithfulness={value!r} is not a positive number.", "Give one such as 0.9.")
    if strategy.operating_point is not None and not 0 < _start(strategy) < math.inf:
        name = strategy.operating_point.argument
        raise UsageError(
            f"{name} starts at {_start(strategy):g}: to find faithfulness {value:g}, it is multiplied and divided.",
            f"Give {name} a positive value to start from.",
        )
    return float(value)


def search_notes(strategy: DiscoveryStrategy) -> list[str]:
    """Say in a dry run that there may be several searches."""
    if strategy.operating_point is None:
        return []
    name = strategy.operating_point.argument
    return [
        f"The time is that of {name} as given; up to {MOST_SEARCHES} searches at other values of it follow one another."
    ]


def reached_notes(
    evaluations: Mapping[str, Sequence[Evaluation]], wanted: float, metrics: Mapping[str, Any]
) -> list[str]:
    """Note that the circuit does not reach on test, not even at the upper end of its interval, what it was chosen for.

    Args:
        evaluations: by split.
        wanted: the faithfulness to reach on validation.
        metrics: of the run.
    """
    found, reached = evaluations.get("test", ()), metrics.get(REACHED)
    own = next((point for one in found for point in one.curve("own")), None)
    figure = None if own is None else own.searched.faithfulness
    if figure is None or figure.value is None or reached is None or reached < wanted:
        return []
    if (figure.value if figure.high is None else figure.high) >= wanted:
        return []
    return [
        f"Faithfulness {wanted:g} was asked for: the circuit has {reached:z.2f} on validation, on which it was chosen, "
        f"and {format_interval(figure)} on test. Report the second figure; more prompts (examples) narrow the gap."
    ]


def find_smallest(
    strategy: DiscoveryStrategy, run: Discovery, validation: PromptBatch, wanted: float, memory_budget: int | None
) -> Circuit:
    """Find the smallest circuit that reaches a faithfulness on the validation split.

    The run's metrics get what was tried (`operating_points`), the circuit's faithfulness (`validation_faithfulness`)
    and the time that measuring took (`validation_s`, seconds). `wall_s` and the counts of work that a summary shows are
    those of all searches, `peak_mb` the largest; other figures and notes are those of the chosen circuit's search.

    Args:
        strategy: at the operating point to start from; of several values, the first.
        run: prepared, with the prompts of the train split.
        validation: the prompts to choose on.
        wanted: the faithfulness to reach, in the run's objective.
        memory_budget: as given by the user.

    Returns:
        The smallest circuit that reaches it or, with a note, the most faithful one.

    Raises:
        UsageError: faithfulness is undefined on these prompts, or the strategy returns circuits of its own size and has
            no operating point.
    """
    measure = _Validation(run, validation, memory_budget)
    searches = SeveralSearches(run)
    trials: list[_Trial] = []
    parts: list[Discovery] = []
    proposed: Circuit | None = None
    if strategy.proposal is not None:  # once for all searches
        measure.free()
        found, part = searches.propose(strategy.proposal)
        proposed = single_circuit(strategy.proposal, found)
        parts.append(part)
        run.metrics.update(proposal_metrics(part))
        run.notes.extend(part.notes)

    def search(value: float | None) -> Sequence[_Trial]:
        measure.free()
        chosen = strategy if value is None else strategy.at(value)
        if proposed is not None:
            chosen = chosen.starting_from(proposed)
        circuits, part = searches.search(chosen, value)
        parts.append(part)
        if all(circuit.is_ranking for circuit in circuits):
            found = [trial for circuit in circuits for trial in _try_sizes(circuit, measure, wanted, part)]
        elif value is None or strategy.operating_point is None:
            raise _no_sizes(strategy, circuits)
        else:
            shown = {strategy.operating_point.argument: value, "wall_s": part.metrics.get("wall_s")}
            found = [_Trial(circuit, measure.of(circuit), part, shown) for circuit in circuits]
        trials.extend(found)
        return found

    point = strategy.operating_point
    if point is None:
        search(None)
    else:

        def find(place: float) -> tuple[bool, int]:
            best = _choose(search(point.from_scale(place)), wanted)
            return best.faithfulness >= wanted, len(best.circuit)

        bisect_places(point.to_scale(_start(strategy)), len(run.model.graph), find)
    chosen = _choose(trials, wanted)
    run.metrics.update(
        _total(chosen.part, parts),
        operating_points=[trial.row() for trial in trials],
        validation_s=measure.seconds,
        **{REACHED: chosen.faithfulness},
    )
    run.score_intervals = chosen.part.score_intervals
    run.notes.extend(note for note in chosen.part.notes if note not in run.notes)
    return _say(strategy, chosen, trials, wanted, run)


@dataclass(frozen=True)
class _Trial:
    """A circuit, its faithfulness on the validation split, the search that found it, and what was varied."""

    circuit: Circuit
    faithfulness: float
    part: Discovery
    varied: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        return {**self.varied, "edges": len(self.circuit), "faithfulness": self.faithfulness}


class _Validation:
    """Measures circuits on the validation split, in full precision, in process 0 for all processes."""

    def __init__(self, run: Discovery, batch: PromptBatch, memory_budget: int | None) -> None:
        self._run, self._batch, self._memory_budget = run, batch, memory_budget
        self._evaluator: Evaluator | None = None
        self.seconds = 0.0
        if run.processes.broadcast(run.processes.rank == 0 and self._measure(0.0) is None):
            raise UsageError(
                "The full and the ablated model do equally well on the validation prompts: faithfulness is undefined.",
                "Choose another task, objective or ablation, or more prompts.",
            )
        if run.processes.broadcast(run.processes.rank == 0 and self._is_reversed()):
            raise UsageError(
                "The full model does worse than the ablated one on the validation prompts: more faithfulness is worse.",
                "Choose another task, objective or ablation, or more prompts.",
            )

    def _is_reversed(self) -> bool:
        assert self._evaluator is not None, "it has measured"
        full, ablated = (getattr(self._evaluator, end)[self._evaluator.objective] for end in ("full", "ablated"))
        return bool(full.mean() > ablated.mean())

    def of(self, circuit: Circuit) -> float:
        """Return the faithfulness of a circuit."""
        processes = self._run.processes
        value = processes.broadcast(self._measure(circuit) if processes.rank == 0 else None)
        assert value is not None
        return value

    def free(self) -> None:
        """Free the captures, so that a search has the memory."""
        self._evaluator = None

    def _measure(self, circuit: Circuit | float) -> float | None:
        """Measure a circuit, or scale a value of the objective."""
        started = time.perf_counter()
        if self._evaluator is None:
            run = self._run
            self._evaluator = Evaluator.prepare(
                *(run.model, self._batch, run.objective, run.ablation, "validation"), memory_budget=self._memory_budget
            )
        value = self._evaluator.value(circuit.kept) if isinstance(circuit, Circuit) else circuit
        found = self._evaluator.faithfulness(value)
        self.seconds += time.perf_counter() - started
        return found


def _try_sizes(ranking: Circuit, measure: _Validation, wanted: float, part: Discovery) -> list[_Trial]:
    """Measure circuits of the first edges of a ranking by |score|, without unconnected ones."""
    found: list[_Trial] = []

    def reaches(size: int) -> bool:
        circuit = ranking.top(size).prune()
        found.append(_Trial(circuit, measure.of(circuit), part, {"edges_asked": size}))
        return found[-1].faithfulness >= wanted

    find_size(len(ranking.graph), reaches)
    return found


def _start(strategy: DiscoveryStrategy) -> float:
    """Return the first value of the operating point."""
    return float(strategy.operating_values()[0])


def _choose(trials: Sequence[_Trial], wanted: float) -> _Trial:
    """Return the smallest that reaches the faithfulness or, if none does, the most faithful one."""
    reached = [trial for trial in trials if trial.faithfulness >= wanted]
    if reached:
        return min(reached, key=lambda trial: (len(trial.circuit), -trial.faithfulness))
    return max(trials, key=lambda trial: trial.faithfulness)


def _say(
    strategy: DiscoveryStrategy, chosen: _Trial, trials: Sequence[_Trial], wanted: float, run: Discovery
) -> Circuit:
    """Return the circuit, whose selection says why it was chosen; note where it does not reach the faithfulness."""
    if chosen.faithfulness >= wanted:
        why = f"the smallest found with faithfulness {wanted:g} on validation"
    else:
        why = "the most faithful one found on validation"
        other = "" if strategy.operating_point is None else ", or start from another operating point"
        run.note(
            f"No circuit reaches faithfulness {wanted:g} on the validation prompts: of {len(trials)} tried, the best "
            f"has {chosen.faithfulness:z.2f} (`operating_points` of the metrics lists them). Ask for less{other}."
        )
    return replace(chosen.circuit, selection=f"{chosen.circuit.selection}; {why}")


def _total(chosen: Discovery, parts: Sequence[Discovery]) -> dict[str, Any]:
    """Return the metrics of a search, with the cost of all of them."""
    metrics = dict(chosen.metrics)
    metrics |= {name: value for name, value in parts[0].metrics.items() if name.startswith("load_")}
    metrics |= {name: sum(part.metrics.get(name, 0) for part in parts) for name in _SUMS if name in metrics}
    peaks = [part.metrics["peak_mb"] for part in parts if part.metrics.get("peak_mb") is not None]
    return {**metrics, "peak_mb": max(peaks)} if peaks else metrics


def _no_sizes(strategy: DiscoveryStrategy, circuits: Sequence[Circuit]) -> UsageError:
    name = type(strategy).__name__
    return UsageError(
        f"{name} found {circuits[0]!r}, and does not say how to find a smaller or a larger one.",
        f"Define `operating_point` in {name} (see OperatingPoint): the argument that sets the size. Or let it return "
        "a ranking (`Circuit.from_scores`).",
    )
