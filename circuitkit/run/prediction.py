"""What a dry run says: the memory and time of a run, predicted from what its strategy needs and from timed steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from circuitkit.config import specs
from circuitkit.engine import memory
from circuitkit.engine.editors.incremental import hypotheses_at_once
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import PROMPTS, CostEstimate
from circuitkit.evaluation.intervals import Figure
from circuitkit.report.dry_run import DryRun
from circuitkit.report.figures import format_seconds
from circuitkit.run.resources import MB, ResourceMonitor, bytes_of
from circuitkit.run.under_policy import under_policy
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery


def predict(
    run: Discovery,
    strategy: DiscoveryStrategy,
    monitor: ResourceMonitor,
    config: Mapping[str, Any],
    accuracy: Figure | None,
    notes: Sequence[str],
) -> DryRun:
    """Predict a run, without a search.

    Args:
        run: with all prompts.
        strategy: of the run.
        monitor: among the run's callbacks; it has measured the loading.
        config: the run's configuration, for the names.
        accuracy: of the full model on the prompts.
        notes: to show with the prediction.
    """
    budget = run.memory_budget or memory.budget(run.model.device)
    few = replace(run, batches=[run.batches[0][:PROMPTS]])

    def count(one: DiscoveryStrategy, often: float = 1.0) -> _Count:
        parts = [(specs.to_call(inner), count(inner, often * times)) for inner, times in one.searches]
        found = _add_up(parts) if parts else count_alone(one, often)
        if one.proposal is not None:
            found = _with_proposal(found, count(one.proposal, often), specs.to_call(one.proposal))
        return found

    def count_alone(one: DiscoveryStrategy, often: float) -> _Count:
        need = one.footprint(run)
        prompts = run.prompts if need is None else _prompts_of(need, run, config)
        parts = {} if need is None else need.predict(prompts, budget)
        estimate = one.estimate_cost(few).times(prompts / few.prompts)
        peak = predict_peak(run, prompts, need, parts, estimate, budget)
        if estimate.search_s is not None:
            estimate = replace(estimate, search_s=(often * estimate.search_s[0], often * estimate.search_s[1]))
        return _Count(need, parts, estimate, peak)

    def count_all() -> tuple[_Count, Mapping[str, int]]:
        return count(strategy), run.policy.footprint() or {"weights": bytes_of(run.model, run.model.device)}

    (need, parts, estimate, peak), weights = under_policy(strategy, few, count_all)
    load_peak = round((few.metrics["load_peak_mb"] or 0) * MB)
    least, most = (max(monitor.held + engine, load_peak) for engine in (peak.least, peak.most))
    return DryRun(
        strategy=specs.label("strategies", config["strategy"]),
        model=str(config["model"]),
        edges=len(run.model.graph),
        prompts=run.prompts,
        tokens=max(batch.length for batch in run.batches),
        weights=weights,
        memory_budget=budget,
        at_once=peak.at_once,
        parts=parts,
        peak=None if need is None else (least, most),
        estimate=estimate,
        accuracy=accuracy,
        notes=tuple(notes),
    )


def _prompts_of(need: Need, run: Discovery, config: Mapping[str, Any]) -> int:
    """Return how many prompts of one process are counted: the run's, which are already its part, or the need's own."""
    return run.prompts if need.prompts is None else -(-need.prompts // config["devices"])


class PredictedPeak(NamedTuple):
    """Bytes besides the weights.

    Attributes:
        least: of a search that keeps few edges; most: in the full model. Equal without a search.
        at_once: how many hypotheses of the largest cone run together; None if no cone is known.
    """

    least: int
    most: int
    at_once: int | None


class _Count(NamedTuple):
    """What a strategy needs: memory, by part and at the peak, and time."""

    need: Need | None
    parts: Mapping[str, int]
    estimate: CostEstimate
    peak: PredictedPeak


def _add_up(searches: Sequence[tuple[str, _Count]]) -> _Count:
    """Return what several searches, each with its name, need one after the other."""
    if len(searches) == 1:
        return searches[0][1]
    notes, times, total = [], [], None
    for name, (need, _, estimate, _) in searches:
        notes += [f"{name}: {note}" for note in estimate.notes]
        if need is None:
            notes.append(f"The memory of {name} is not known.")
        if estimate.search_s is None:
            notes.append(f"The time of {name} is not known.")
        else:
            times.append(estimate.search_s)
    if len(times) == len(searches):
        total = sum(least for least, _ in times), sum(most for _, most in times)
    largest = _largest([found for _, found in searches])
    return largest._replace(estimate=CostEstimate(search_s=total, notes=tuple(notes)))


def _largest(searches: Sequence[_Count]) -> _Count:
    """Return the one that needs most memory, with the largest of the lower ends of the peaks."""
    largest = max(searches, key=lambda one: one.peak.most)
    return largest._replace(peak=largest.peak._replace(least=max(one.peak.least for one in searches)))


def _with_proposal(search: _Count, proposal: _Count, name: str) -> _Count:
    """Return what a search and the proposal before it need together: the larger memory, the sum of times."""
    estimate, times = search.estimate, proposal.estimate.search_s
    if estimate.search_s is None or times is None:
        note = f"The time of the proposal, {name}, is not known, and comes on top of that of the search."
    else:
        shown = " to ".join(dict.fromkeys(map(format_seconds, times)))
        note = f"Of the time, {shown} are for the proposal, {name}."
        estimate = replace(estimate, search_s=(estimate.search_s[0] + times[0], estimate.search_s[1] + times[1]))
    notes = [*estimate.notes, note, *(f"Proposal: {one}" for one in proposal.estimate.notes)]
    if proposal.need is None:
        notes.append("The memory of the proposal is not known.")
    estimate = replace(estimate, notes=tuple(notes))
    return _largest([search, proposal])._replace(estimate=estimate)


def predict_peak(
    run: Discovery, prompts: int, need: Need | None, parts: dict[str, int], estimate: CostEstimate, budget: int
) -> PredictedPeak:
    """Predict the peak of a run.

    Args:
        run: with all prompts.
        prompts: how many are in memory at one time.
        need: of its strategy.
        parts: what `need` predicts for these prompts.
        estimate: for these prompts.
        budget: bytes.
    """
    most = sum(parts.values())
    if need is None or not estimate.bytes.get("cone"):
        return PredictedPeak(most, most, None)
    largest = need.largest_batch(prompts, budget)
    at_once, full = _hypotheses(run, prompts, estimate.bytes["cone"], largest, budget - most)
    if not estimate.start_bytes:
        held = estimate.bytes["captures"] + estimate.bytes["live"] + estimate.bytes.get("copies", 0)
        return PredictedPeak(held + full, most + full, at_once)
    start = dict(estimate.start_bytes)
    _, tested = _hypotheses(run, prompts, start.pop("cone"), largest, budget - most)
    return PredictedPeak(min(sum(start.values()) + tested, most + full), most + full, at_once)


def _hypotheses(run: Discovery, prompts: int, cone: int, largest: int, available: int) -> tuple[int, int]:
    """Return how many hypotheses run together, and their bytes, for a batch of `largest` prompts."""
    each = cone * largest // prompts
    at_once = hypotheses_at_once(each, largest * run.footprints.batch.length, available, run.model.device.type == "cpu")
    return at_once, at_once * max(each - largest * run.footprints.unused_logits, 0)
