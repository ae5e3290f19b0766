"""The text that a result prints: its circuits, their faithfulness and their cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.evaluation.evaluation import Evaluation
from circuitkit.evaluation.measures import ACCURACY
from circuitkit.report.figures import format_interval, format_measure, format_seconds, verdict

_SHOWN_EDGES = 5
SHOWN = (
    *("edges_tested", "joint_tests", "forward_equivalents", "proposal_s", "search_s", "wall_s", "peak_mb"),
    *("sign_certain", "halves_spearman", "halves_jaccard"),
)
"""The metrics that a summary shows."""


def summarize(
    circuits: Sequence[Circuit],
    evaluations: Mapping[str, Sequence[Evaluation]],
    metrics: dict[str, Any],
    config: dict[str, Any],
    notes: Sequence[str],
) -> str:
    """Summarize a `Result`, given by its parts, in several lines of text."""
    lines = [f"{_name(config, 'strategy', 'strategies')} on {_name(config, 'task', 'tasks')}, in {config.get('model')}"]
    for number, circuit in enumerate(circuits):
        lines.append(_found(circuit))
        lines += _stability(metrics, number + 1)
        lines += _measured({split: found[number] for split, found in evaluations.items()})
    lines += _scores(circuits[0], metrics)
    every = [evaluation for found in evaluations.values() for evaluation in found]
    lines.append(_cost(metrics, sum(evaluation.seconds for evaluation in every)))
    said = [*notes, *(note for evaluation in every for note in evaluation.notes)]
    lines += [f"Note: {note}" for note in dict.fromkeys(said)]
    return "\n".join(lines)


def _name(config: dict[str, Any], key: str, kind: str) -> str:
    return specs.label(kind, config.get(key, {}))


def _found(circuit: Circuit) -> str:
    edges = len(circuit.graph)
    ranked = circuit.ranking()[: min(_SHOWN_EDGES, len(circuit))].tolist()
    strongest = ", ".join(f"{circuit.graph.names[edge]} {float(circuit.scores[edge]):+.3g}" for edge in ranked)
    if circuit.is_ranking:
        found = f"Found: a score for each of {edges:,} edges; choose a size with `.top(n)`."
    else:
        found = f"Found: {len(circuit):,} of {edges:,} edges ({circuit.fraction:.2%}; {circuit.selection})."
    if circuit.tie:
        found += " The cut falls between edges of equal score: others would be as good."
    return f"{found} Strongest: {strongest}." if strongest else found


def _scores(circuit: Circuit, metrics: Mapping[str, Any]) -> list[str]:
    """Say what estimated scores are worth."""
    certain, jaccard = metrics.get("sign_certain"), metrics.get("halves_jaccard")
    if certain is None or jaccard is None:
        return []
    correlation = metrics.get("halves_spearman")
    order = "" if correlation is None else f"on the order of all edges {correlation:.2f} (Spearman), "
    return [
        f"Scores: {certain:,} of {len(circuit.graph):,} have a certain sign (95% intervals over prompts). Rankings "
        f"from two halves of the prompts agree {order}on the first 1% of the edges {jaccard:.2f} (Jaccard)."
    ]


def _stability(metrics: Mapping[str, Any], circuit: int) -> list[str]:
    """Show where the edges of a circuit of the strategy `stable` are contested."""
    found = [row for row in metrics.get("stability", ()) if row["circuit"] == circuit]
    if not found:
        return []
    counts = ("kept", "removed", "contested")
    rows: list[tuple[str, ...]] = [("  varied", *counts, "Jaccard of two searches")]
    rows += [(f"  {row['varied']}", *(f"{row[name]:,}" for name in counts), f"{row['jaccard']:.2f}") for row in found]
    return [f"Edges by the votes of {metrics['samples']} searches ({metrics['votes_needed']} decide):", *_align(rows)]


def _measured(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Show one circuit's figures: a line per measure, a column per split, and the random control of the last split."""
    if not evaluations:
        return []
    *_, last = evaluations.values()
    rows: list[tuple[str, ...]] = [
        (
            "",
            *(f"{split}, {found.prompts} prompts" for split, found in evaluations.items()),
            f"random, {last.split}" if last.curve("random") else "",
        ),
        ("  full model", *("" for _ in evaluations), ""),
        *_model_rows(list(evaluations.values())),
    ]
    own = {point.edges_asked for point in last.curve("own")}
    for number, point in enumerate(last.points):
        shown = point.ranking == "own" or (point.ranking == "absolute" and point.edges_asked not in {0, *own})
        if not shown:
            continue
        control = next((one for one in last.curve("random") if one.edges_asked == point.edges_asked), None)
        what = "these" if point.ranking == "own" else "top"
        size = f"  {what} {point.edges_asked:,} edges ({100 * point.fraction:.3g}%)"
        rows.append((f"{size}: in {last.objective}, {verdict(last, point, control)}",))
        for name in point.measures:
            of_splits = [format_measure(name, found.points[number].measures[name]) for found in evaluations.values()]
            of_random = "" if control is None else format_measure(name, control.measures[name])
            rows.append((f"    {name}", *of_splits, of_random))
    head = "Faithfulness (1: full model, 0: all edges removed), with 95% intervals over prompts; ranked by |score|:"
    return [head, *_align(rows)]


def _model_rows(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, ...]]:
    """Yield the full model's own accuracy and logit difference."""
    for name, percent in ((ACCURACY, True), ("logit_difference", False)):
        if name in evaluations[0].full:
            figures = (format_interval(found.full[name], percent, negate=not percent) for found in evaluations)
            yield (f"    {name}", *figures, "")


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align columns; a row of one cell may be as wide as it likes."""
    whole = [row for row in rows if len(row) > 1]
    widths = [max(len(row[column]) for row in whole) + 2 for column in range(len(whole[0]))]
    return ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _cost(metrics: dict[str, Any], evaluation_s: float) -> str:
    parts = []
    if metrics.get("edges_tested"):
        parts.append(f"{metrics['edges_tested']:,} edges tested")
    if metrics.get("joint_tests"):
        parts.append(f"{metrics['joint_tests']:,} groups of edges tested together")
    if metrics.get("forward_equivalents"):
        parts.append(f"compute equal to {metrics['forward_equivalents']:,.0f} forward passes")
    if metrics.get("wall_s") is not None:
        parts.append(f"{format_seconds(metrics['wall_s'])}{_apart(metrics)}")
    if metrics.get("peak_mb") is not None:
        parts.append(f"{metrics['peak_mb']:,.0f} MB at peak ({metrics.get('memory')})")
    apart = f" The evaluation took {format_seconds(evaluation_s)}." if evaluation_s else ""
    return f"Cost: {', '.join(parts) or 'not measured'}.{apart}"


def _apart(metrics: dict[str, Any]) -> str:
    """Say which part of the time the proposal took."""
    if "proposal_s" not in metrics or "search_s" not in metrics:
        return ""
    proposal, search = (format_seconds(metrics[name]) for name in ("proposal_s", "search_s"))
    return f" ({proposal} for the proposal, {search} for the search)"
