"""What speaks for a method, in words: circuits with their figures, chance, and differences between two circuits."""

from collections.abc import Mapping, Sequence

from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.intervals import Figure, PerPrompt, difference_figure
from circuitkit.page.content import Content
from circuitkit.page.flags import flag_size
from circuitkit.page.leaderboard import Entry, Size
from circuitkit.report.figures import format_figure, format_interval
from circuitkit.run.content import CONTENT
from circuitkit.run.result import Result

NAMED = 3
"""So many methods that are not told apart are named; of the others there is the number."""


def name_entry(entry: Entry, entries: Sequence[Entry]) -> str:
    """Return the method and, if it has several operating points, what tells this one from them.

    Args:
        entry: one of the entries.
        entries: of one group.
    """
    points = {one.operating_point for one in entries if one.method == entry.method}
    if len(points) < 2:
        return entry.method
    shared = set.intersection(*(set(point.split(", ")) for point in points))
    own = [part for part in entry.operating_point.split(", ") if part not in shared]
    point = ", ".join(own) or entry.operating_point
    named = entry.method != entry.strategy  # it ends with the precision in parentheses
    return f"{entry.method[:-1]}, {point})" if named else f"{entry.method} ({point})"


def join_names(names: Sequence[str], most: int = NAMED) -> str:
    """Join names with commas and `and`; beyond `most`, with the number of the others."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def smallest_of(entry: Entry) -> Size:
    """Return the smallest circuit that holds of an entry that has one."""
    assert entry.smallest is not None
    return entry.smallest


def off_one(size: Size) -> float:
    """Return how far held-out faithfulness is from the full model's."""
    return abs(1 - (size.test.value or 0))


def say_figure(size: Size) -> str:
    """Format held-out faithfulness: its interval over prompts and, after +-, its standard deviation over seeds."""
    spread = "" if size.test.spread is None else f" ±{size.test.spread:.2f}"
    return f"{format_interval(Figure(*size.test[:3]))}{spread}"


def say_size(size: Size) -> str:
    """Format held-out faithfulness with the number of edges."""
    which = f"the {size.edges:,.0f} edges it chose" if size.ranking == "own" else f"{size.edges:,.0f} edges"
    return f"{say_figure(size)} with {which}"


def say_marks(size: Size, entries: Sequence[Entry]) -> str:
    """Say what to beware of in a circuit, as far as it has a flag.

    Args:
        size: the circuit.
        entries: of its group.
    """
    said = {"overshoots": "it overshoots the full model", "chance?": "it may be no better than chance"}
    if size.train.value is not None and size.test.value is not None:
        gap = f"a gap of {size.train.value - size.test.value:.2f}"
        said["gap"] = f"found-on {format_figure(size.train.value)}: {gap}, part of it fits those prompts alone"
    control = next((entry for entry in entries if entry.is_control), None)
    return "".join(f"; {said[flag.name]}" for flag in flag_size(size, control) if flag.name in said)


def say_chance(content: Content, entries: Sequence[Entry], best: Entry, size: Size) -> str:
    """Say what random edges reach, of the next measured number that is not smaller than the circuit's."""
    for entry in entries:
        if entry.is_control and (other := entry.drawn(size.edges)) and other.test.value is not None:
            return f"; {other.edges_asked:,.0f} random edges {format_figure(other.test.value)}"
    result = content.results.get(best.folders[0])
    curve = evaluation_of(result, best).curve("random") if result else []
    larger = [point for point in curve if point.edges_asked >= size.edges and point.fraction < 1]
    if larger and larger[0].faithfulness is not None:
        return f"; {larger[0].edges_asked:,} random edges {format_figure(larger[0].faithfulness)}"
    return ""


def difference_of(content: Content, one: tuple[Entry, Size], other: tuple[Entry, Size]) -> Figure:
    """Return the difference of two circuits' faithfulness: paired where both have values of the same prompts."""
    paired = [_per_prompt(content, *each) for each in (one, other)]
    if paired[0] and paired[1] and paired[0][0] == paired[1][0]:
        return difference_figure(paired[0][1], paired[1][1])
    a, b = one[1].test, other[1].test
    if None in (a.value, a.low, a.high, b.value, b.low, b.high):
        return Figure(None, None, None)
    return Figure(a.value - b.value, a.low - b.high, a.high - b.low)  # type: ignore[operator]  # none is None


def _per_prompt(content: Content, entry: Entry, size: Size) -> tuple[str, PerPrompt] | None:
    """Return the hash of the test prompts and the values of a circuit; None for several seeds, or if not loaded."""
    result = content.results.get(entry.folders[0])
    if entry.seeds != 1 or result is None:
        return None
    evaluation = evaluation_of(result, entry)
    point = next((point for point in evaluation.points if _is(point, size)), None)
    if point is None:
        return None
    values = (evaluation.per_prompt(point), evaluation.per_prompt("full"), evaluation.per_prompt("ablated"))
    prompts = result.config.get(CONTENT)
    return (str(prompts.get("test", "")) if isinstance(prompts, Mapping) else ""), PerPrompt(*values)


def _is(point: Point, size: Size) -> bool:
    return point.ranking == size.ranking and (size.ranking == "own" or point.fraction == size.fraction)


def evaluation_of(result: Result, entry: Entry) -> Evaluation:
    """Return the evaluation on test of the entry's operating point."""
    selections = [circuit.selection for circuit in result.circuits]
    number = selections.index(entry.operating_point) if entry.operating_point in selections else 0
    return result.evaluations["test"][number]
