"""Numbers as text: figures with their intervals, times, and a circuit's faithfulness in words."""

import math

from circuitkit.circuit.circuit import Circuit
from circuitkit.evaluation.evaluation import Evaluation, Measured, Point
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.measures import GOOD as GOOD
from circuitkit.evaluation.reference import Agreement
from circuitkit.evaluation.sizes import SIZES

_BANDS = (
    (0.0, "worse than with every edge removed", ""),
    (0.5, "poor", ": most of the behavior is missing"),
    (GOOD, "partial", ": a good part of the behavior is missing"),
    (2 - GOOD, "faithful", ""),
    (float("inf"), "overshooting", ": better than the full model, as harmful edges are missing"),
)
"""Upper ends of faithfulness, what it is called, and what that means."""
_FEW_TEMPLATES, _WORST = 4, 3
"""With more templates, only this many of the worst and the best are shown."""


def format_figure(value: float | None) -> str:
    """Format with two decimals and no negative zero; empty for None."""
    return "" if value is None else f"{value:z.2f}"


def format_interval(figure: Figure | None, percent: bool = False, negate: bool = False) -> str:
    """Format a figure with its interval, such as `0.85 [0.80, 0.90]`; `undefined` if it has no value.

    Args:
        figure: the figure.
        percent: as percentages.
        negate: change the sign, as of a logit difference, whose objective is negated.
    """
    if figure is None or figure.value is None:
        return "undefined"
    ends = (figure.high, figure.low) if negate else (figure.low, figure.high)
    sign, style = -1 if negate else 1, "z.0%" if percent else "z.2f"
    shown, low, high = ("" if one is None else format(sign * one, style) for one in (figure.value, *ends))
    return f"{shown} [{low}, {high}]" if low else shown


def format_measure(name: str, measured: Measured) -> str:
    """Format what matters of a measure: faithfulness with its interval or, of an accuracy, its value."""
    if measured.faithfulness is None:
        return format_interval(measured.value, percent=True)
    return format_interval(measured.faithfulness)


def format_seconds(value: float) -> str:
    """Format a time with a fitting unit."""
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def verdict(evaluation: Evaluation, point: Point, random: Point | None) -> str:
    """Judge a point in words, as far as its interval allows.

    Args:
        evaluation: the evaluation.
        point: one of its points.
        random: that of a random circuit of the same size, if there is one.
    """
    value, low, high = point.searched.faithfulness or Figure(None, None, None)
    full, ablated = (getattr(evaluation, end)[evaluation.objective].value for end in ("full", "ablated"))
    if value is None or full is None or ablated is None:
        return "not defined, since the full and the ablated model do equally well"
    if full > ablated:
        return "not meaningful, since the full model does worse than the ablated one"
    if low is None or high is None:
        return f"undecided: {evaluation.prompts} prompts are too few, or too different from each other"
    chance = None if random is None else random.faithfulness
    if chance is not None and value < GOOD and chance >= low:
        return "no better than chance" if chance >= value else "perhaps no better than chance"
    lowest, highest = _band(low), _band(high)
    if lowest == highest:
        return "".join(_BANDS[lowest][1:])
    return f"between {_BANDS[lowest][1]} and {_BANDS[highest][1]}: {evaluation.prompts} prompts do not settle it"


def _band(value: float) -> int:
    inside = [value < end or (value == end and word == "faithful") for end, word, _ in _BANDS]
    return inside.index(True) if True in inside else len(_BANDS) - 1


def describe_completeness(evaluation: Evaluation) -> str:
    """Say what the circuit's complement does and what that means; empty if there is none."""
    if not (found := evaluation.curve("complement")):
        return ""
    figure = found[0].searched.faithfulness or Figure(None, None, None)
    text = f"All edges except the circuit's: {format_interval(figure)}"
    full, ablated = (getattr(evaluation, end)[evaluation.objective].value for end in ("full", "ablated"))
    if figure.low is None or figure.high is None or full is None or ablated is None or full > ablated:
        return f"{text}."
    near = 1 - GOOD
    if figure.high < -near:
        return f"{text}: below 0, so without the circuit's edges the others work against the task."
    if figure.low > near:
        return f"{text}: far above 0, so the circuit is not complete. The other edges do part of the task without it."
    if figure.low >= -near and figure.high <= near:
        return f"{text}: near 0, so the circuit is complete. The other edges do nothing without it."
    return f"{text}: {evaluation.prompts} prompts do not settle whether the circuit is complete (near 0)."


def describe_minimality(evaluation: Evaluation) -> str:
    """Say how many of the sampled edges make a difference; empty if none were sampled."""
    sampled = evaluation.minimality
    if not sampled:
        return ""
    edges = f"{len(sampled)} sampled edge{'s' * (len(sampled) != 1)}"
    helpful: list[float] = []
    harmful: list[float] = []
    for value, low, high in (one.effect for one in sampled):
        if value is None or low is None or high is None:
            return f"Minimality: the effects of {edges} have no intervals, as prompts are too few or too different."
        helpful += [value] * (low > evaluation.identity_error)  # not by rounding alone
        harmful += [value] * (high < -evaluation.identity_error)
    useless = len(sampled) - len(helpful) - len(harmful)
    clear = sorted(abs(value) for value in helpful + harmful)
    text = (
        f"Minimality: of {edges}, {len(clear)} ({len(clear) / len(sampled):.0%}) change faithfulness when removed alone"
    )
    if clear:
        text += f", by {clear[0]:.2g} to {clear[-1]:.2g} ({len(helpful)} help, {len(harmful)} hurt)"
    return f"{text}; {useless} may be useless, as the interval contains 0." if useless else f"{text}."


def describe_agreement(agreement: Agreement, reference: Circuit, circuit: Circuit) -> str:
    """Say how far a circuit agrees with a reference circuit."""
    top = f"its top {len(reference):,} edges"
    nodes = "" if math.isnan(agreement.node_roc_auc) else f"; of heads and MLPs {agreement.node_roc_auc:.2f}"
    own = "" if circuit.is_ranking else f", precision {agreement.precision:.2f}, recall {agreement.recall:.2f}"
    which = top if circuit.is_ranking else f"its {len(circuit):,} edges"
    return (
        f"Agreement with the reference of {len(reference):,} edges: ROC AUC of |score| {agreement.roc_auc:.2f} (1: the "
        f"reference's edges rank first, 0.5: chance){nodes}. Of {top}, {agreement.at_size:.0%} are the reference's: "
        f"precision and recall at this size. Jaccard index of {which} {agreement.jaccard:.2f} (edges in both / edges "
        f"in either){own}."
    )


def describe_templates(evaluation: Evaluation) -> str:
    """Say on which templates the circuit, or a ranking's largest part, does worst and best; empty without several."""
    point = _main_point(evaluation)
    if point is None or len(set(evaluation.templates)) < 2:
        return ""
    figures = {name: one.faithfulness for name, one in evaluation.by_template(point).items()}
    known = {name: one for name, one in figures.items() if one is not None and one.value is not None}
    order = sorted(known, key=lambda name: known[name].value or 0.0)
    shown = [
        f"{name}: {format_interval(known[name])} ({evaluation.templates.count(name)} prompts)"
        for name in (order if len(order) <= _FEW_TEMPLATES else [*order[:_WORST], order[-1]])
    ]
    if not shown:
        return ""
    which = "its own edges" if point.ranking == "own" else f"the top {point.edges_asked:,} edges, {point.ranking}"
    how = "" if len(shown) == len(figures) else f", the {len(shown) - 1} worst and the best of {len(figures)}"
    return f"By template ({which}{how}): {'; '.join(shown)}."


def _main_point(evaluation: Evaluation) -> Point | None:
    """Return the circuit's own point or, for a mere ranking, that of its largest part."""
    rankings = ("own", "absolute", "signed", "greedy")
    found = [one for ranking in rankings for one in evaluation.points if one.ranking == ranking]
    own = [one for one in found if one.ranking == "own"]
    return max(own or [one for one in found if one.fraction < 1], key=lambda one: one.fraction, default=None)


def describe_control(evaluation: Evaluation) -> str:
    """Say why the random control's CPR is above a ranking's, and what to look at instead; empty if it is not."""
    cpr = {ranking: areas.cpr.value for ranking, areas in evaluation.areas.items() if areas.cpr.value is not None}
    control = cpr.pop("random", -math.inf)
    lower = [ranking for ranking, value in cpr.items() if round(value, 2) < round(control, 2)]
    if not lower:
        return ""
    ranking = lower[0]
    curves: dict[str, dict[float, float]] = {}
    for point in evaluation.points:
        curves.setdefault(point.ranking, {})[point.fraction] = point.faithfulness or 0.0
    gains = {  # of the trapezoidal rule; the last size, the full model, is the same for both
        size: (after - before) / 2 * (curves["random"][size] - curves[ranking][size])
        for before, size, after in zip(SIZES, SIZES[1:], SIZES[2:], strict=False)
    }
    size = max(gains, key=lambda one: gains[one])
    random, found = curves["random"][size], curves[ranking][size]
    absolute = curves.get("absolute", {}).get(size)
    text = (
        f"The random control's CPR ({control:z.2f}) is above that of {ranking} ({cpr[ranking]:z.2f}). CPR weighs by "
        "the number of edges: the sizes 20% and 50% have 60% of the weight, and every curve has 0.25 for its end, the "
        f"full model. The largest part of the difference is at {100 * size:.4g}%, where random edges have "
        f"{random:z.2f}, and {ranking} {found:z.2f}."
    )
    if random > 1:
        text += " There the random circuit is better than the full model, as it lacks harmful edges."
    elif ranking == "signed" and absolute is not None and absolute > random:
        text += (
            f" By |score| it is {absolute:z.2f}: edges of negative score, which come last by score, are needed, or the "
            "scores have the wrong sign."
        )
    return f"{text} Compare CMD, and faithfulness at the sizes up to 10%."
