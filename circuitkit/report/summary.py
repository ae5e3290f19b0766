"""The text that a result prints: its circuits, their faithfulness and their cost."""

from collections.abc import Sequence
from typing import Any

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.evaluation.measures import Evaluation, Point

GOOD = 0.8
"""A circuit with at least this faithfulness is called faithful."""
_SHOWN_EDGES = 5
SHOWN = ("edges_tested", "joint_tests", "forward_equivalents", "wall_s", "peak_mb")
"""The metrics that a summary shows."""


def summarize(
    circuits: Sequence[Circuit],
    evaluations: Sequence[Evaluation],
    metrics: dict[str, Any],
    config: dict[str, Any],
    notes: Sequence[str],
) -> str:
    """Summarize a `Result`, given by its parts, in several lines of text."""
    lines = [f"{_name(config, 'strategy', 'strategies')} on {_name(config, 'task', 'tasks')}, in {config.get('model')}"]
    for number, circuit in enumerate(circuits):
        lines.append(_found(circuit))
        if number < len(evaluations):
            lines += _faithful(circuit, evaluations[number])
    lines.append(_cost(metrics))
    said = [*notes, *(note for evaluation in evaluations for note in evaluation.notes)]
    lines += [f"Note: {note}" for note in dict.fromkeys(said)]
    return "\n".join(lines)


def verdict(evaluation: Evaluation, point: Point, random: Point) -> str:
    """Judge a point in words, compared with a random circuit of the same size."""
    faithfulness, chance = point.faithfulness, random.faithfulness
    if faithfulness is None:
        return "not defined, since the full and the ablated model do equally well"
    if evaluation.full > evaluation.ablated:
        return "not meaningful, since the full model does worse than the ablated one"
    if chance is not None and chance >= faithfulness and faithfulness < GOOD:
        return "no better than chance"
    if faithfulness < 0:
        return "worse than with every edge removed"
    if faithfulness < 0.5:
        return "poor: most of the behavior is missing"
    if faithfulness < GOOD:
        return "partial: a good part of the behavior is missing"
    if faithfulness <= 2 - GOOD:
        return "faithful"
    return "overshooting: better than the full model, as harmful edges are missing"


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


def _faithful(circuit: Circuit, evaluation: Evaluation) -> list[str]:
    on = f"{evaluation.prompts} {evaluation.split} prompts"
    if evaluation.split == "the prompts themselves":
        on = "the same prompts it was found on"
    scale = f"Faithfulness on {on} (1: full model, 0: all edges removed)"
    if own := evaluation.curve("own"):
        said = f"{scale}: {_value(own[0])}"
        for control in evaluation.curve("random"):
            if control.edges_asked == len(circuit):
                said += (
                    f", {verdict(evaluation, own[0], control)}. A random circuit of the same size: {_value(control)}"
                )
        return [f"{said}."]
    points, controls = evaluation.curve("absolute"), evaluation.curve("random")
    words = [verdict(evaluation, point, control) for point, control in zip(points, controls, strict=True)]
    sizes = [
        f"  top {point.edges_asked:,} by |score| ({100 * point.fraction:.3g}%): {_value(point)}, {word}; "
        f"random circuit: {_value(control)}"
        for point, control, word in zip(points, controls, words, strict=True)
        if point.edges_asked
    ]
    return [f"{scale}:", *sizes]


def _value(point: Point) -> str:
    return format_figure(point.faithfulness) or "undefined"


def _cost(metrics: dict[str, Any]) -> str:
    parts = []
    if metrics.get("edges_tested"):
        parts.append(f"{metrics['edges_tested']:,} edges tested")
    if metrics.get("joint_tests"):
        parts.append(f"{metrics['joint_tests']:,} groups of edges tested together")
    if metrics.get("forward_equivalents"):
        parts.append(f"compute equal to {metrics['forward_equivalents']:,.0f} forward passes")
    if metrics.get("wall_s") is not None:
        parts.append(f"{format_seconds(metrics['wall_s'])}")
    if metrics.get("peak_mb") is not None:
        parts.append(f"{metrics['peak_mb']:,.0f} MB at peak ({metrics.get('memory')})")
    return f"Cost: {', '.join(parts) or 'not measured'}."


def format_figure(value: float | None) -> str:
    """Format with two decimals and no negative zero; empty for None."""
    return "" if value is None else f"{value:z.2f}"


def format_seconds(value: float) -> str:
    """Format a time with a fitting unit."""
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"
