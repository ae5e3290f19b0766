"""What a page says first: which method to use for which purpose, with the evidence, and no more than that supports."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from circuitkit.evaluation.evaluation import Evaluation, Point
from circuitkit.evaluation.intervals import Figure, PerPrompt, difference_figure
from circuitkit.page.content import Content
from circuitkit.page.leaderboard import Entry, Size
from circuitkit.report.figures import GOOD, format_figure, format_interval, format_seconds
from circuitkit.run.content import CONTENT
from circuitkit.run.result import Result

_SMALLEST = "The smallest circuit that holds on held-out prompts"
_NAMED = 3
"""So many methods that are not told apart are named; of the others there is the number."""


@dataclass(frozen=True)
class Purpose:
    """What somebody may want, which method is best for it, and how one knows."""

    purpose: str
    method: str
    evidence: str


@dataclass(frozen=True)
class Finding:
    """What was found out on one task in one model.

    Attributes:
        where: the task, the model and the objective.
        sentence: the main result, with its evidence.
        purposes: the method to use for each purpose.
        winners: the methods with the smallest circuit that holds; empty if there is none.
    """

    where: str
    sentence: str
    purposes: tuple[Purpose, ...]
    winners: tuple[str, ...] = ()


@dataclass(frozen=True)
class Headline:
    """The sentence on top of the page, and the findings behind it, one for each model, task and objective."""

    sentence: str
    evidence: tuple[Finding, ...] = ()


def headline(content: Content, entries: Sequence[Entry]) -> Headline:
    """Say what was found out.

    Args:
        content: for the values of single prompts, which a paired comparison takes.
        entries: the leaderboard.
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.group, []).append(entry)
    several = len({objective for _, _, objective in groups}) > 1
    findings = tuple(_find(content, found, several) for found in groups.values())
    if not findings:
        return Headline(_say_nothing(content))
    if len(findings) == 1:
        return Headline(findings[0].sentence, findings)
    return Headline(_overall(findings), findings)


def _say_nothing(content: Content) -> str:
    states = [cell.state for cell in content.cells]
    if not states:
        return "This comparison has no cells."
    if content.kind == "run":
        return "There are no figures of this run: it was not evaluated, or is not finished."
    if states.count("failed") == len(states):
        return f"All {len(states)} cells failed: there is nothing to compare. Their errors are below."
    return (
        f"No cell is finished yet: {states.count('unfinished')} of {len(states)} are to be run, and "
        f"{states.count('failed')} failed."
    )


def _overall(findings: Sequence[Finding]) -> str:
    alone: dict[str, int] = {}
    tied = none = 0
    for finding in findings:
        if len(finding.winners) == 1:
            alone[finding.winners[0]] = alone.get(finding.winners[0], 0) + 1
        tied, none = tied + (len(finding.winners) > 1), none + (not finding.winners)
    order = sorted(alone, key=lambda name: -alone[name])
    parts = [f"{name} in {alone[name]}" for name in order]
    if order and alone[order[0]] == len(findings):
        return f"{order[0]} finds the smallest circuit that holds on held-out prompts in all {len(findings)} settings."
    if order:
        parts[0] = f"{order[0]} alone finds the smallest circuit that holds on held-out prompts in {alone[order[0]]}"
    parts += [f"in {tied} several methods find one that small, or are not told apart"] * bool(tied)
    parts += [f"in {none} no measured circuit holds"] * bool(none)
    return f"Of {len(findings)} settings (model, task and objective): {'; '.join(parts)}."


def _find(content: Content, entries: Sequence[Entry], several_objectives: bool) -> Finding:
    first = entries[0]
    where = f"{first.task} in {first.model}" + (f" ({first.objective})" if several_objectives else "")
    purposes = tuple(_rank_purpose(entries)) + tuple(_cost_purposes(entries))
    methods = [entry for entry in entries if not entry.is_control]
    holding = sorted((entry for entry in methods if entry.smallest), key=_smallness)
    several = len({entry.method for entry in methods}) > 1
    missing = _count_missing(content, first)
    if holding and several:
        return _find_smallest(content, where, entries, holding[0], purposes, missing)
    found = [_describe_own(entry) for entry in methods if not several and entry.own]
    if holding:
        best = holding[0]
        size = _smallest(best)
        chance = _of_chance(content, entries, best, size)
        found.append(f"its smallest measured circuit that holds on held-out prompts: {_with_edges(size)}{chance}")
        purposes = (Purpose(_SMALLEST, best.method, f"{_with_edges(size)}{chance}"), *purposes)
    else:
        found.append(_nothing_holds(methods))
    return Finding(
        where,
        f"On {where}, {'; '.join(found)}.{missing}",
        purposes if several else (),
        tuple(entry.method for entry in holding[:1]),
    )


def _count_missing(content: Content, entry: Entry) -> str:
    """Say how many cells of the entry's group have no result, which may be better."""
    names = ("model", "task", "objective")
    cells = [cell for cell in content.cells if tuple(cell.labels.get(name) for name in names) == entry.group]
    missing = sum(cell.state != "finished" for cell in cells)
    have = "has" if missing == 1 else "have"
    return f" Of its {len(cells)} cells, {missing} {have} no result." if missing else ""


def _smallness(entry: Entry) -> tuple[float, float]:
    size = _smallest(entry)
    return size.edges_asked, _off(size)


def _describe_own(entry: Entry) -> str:
    assert entry.own is not None
    return (
        f"{entry.method} chose {entry.own.edges:,.0f} edges, {format_interval(_figure(entry.own))} on held-out prompts"
    )


def _find_smallest(
    content: Content,
    where: str,
    entries: Sequence[Entry],
    best: Entry,
    purposes: tuple[Purpose, ...],
    missing: str,
) -> Finding:
    size = _smallest(best)
    equal: list[str] = []
    open_: list[str] = []
    worse: list[tuple[Entry, Size, Figure]] = []
    for entry, other in _rivals([entry for entry in entries if not entry.is_control], best, size):
        difference = Figure(None, None, None) if other.holds else _difference(content, (best, size), (entry, other))
        if other.holds:
            equal.append(entry.method)
        elif difference.low is not None and difference.low > 0 and _off(other) > _off(size):
            worse.append((entry, other, difference))
        elif not (other.test.low is not None and other.test.low > 2 - GOOD):
            open_.append(entry.method)
    found, chance = _with_edges(size), _of_chance(content, entries, best, size)
    evidence = found
    evidence += f"; {_join(equal, _NAMED)} hold{'s' * (len(equal) == 1)} at that size too" if equal else ""
    evidence += f"; the prompts do not tell whether {_join(open_, _NAMED)} would" if open_ else ""
    if worse and not equal and not open_:
        entry, other, difference = worse[0]
        better = f"difference {format_interval(difference)}"
        next_best = ", the next best," if len(worse) > 1 else ""
        evidence += f"; {entry.method}{next_best} at that size {format_interval(_figure(other))} ({better})"
    elif not equal and not open_:
        evidence += _say_next(entries, best)
    evidence += chance
    tied = [best.method, *equal, *open_]
    claim = "finds the smallest circuit" if len(tied) == 1 else "finds a circuit as small as any"
    sentence = f"On {where}, {best.method} {claim} that holds on held-out prompts: {evidence}.{missing}"
    who = best.method if len(tied) == 1 else f"{best.method}, or {_join(tied[1:], _NAMED)}"
    said = evidence if len(tied) == 1 else f"{found}{chance}; the others hold at that size too, or are not told apart"
    return Finding(where, sentence, (Purpose(_SMALLEST, who, said), *purposes), tuple(tied))


def _rivals(entries: Sequence[Entry], best: Entry, size: Size) -> Iterator[tuple[Entry, Size]]:
    """Yield the other methods' circuits of at least as many edges; of a method's several operating points, the best."""
    found: dict[str, tuple[Entry, Size]] = {}
    for entry in entries:
        other = entry.at_least(size.edges_asked)
        if entry.method == best.method or other is None or other.test.value is None:
            continue
        before = found.get(entry.method)
        if before is None or _off(other) < _off(before[1]):
            found[entry.method] = entry, other
    yield from sorted(found.values(), key=lambda pair: _off(pair[1]))


def _off(size: Size) -> float:
    return abs(1 - (size.test.value or 0))


def _say_next(entries: Sequence[Entry], best: Entry) -> str:
    others = [entry for entry in entries if entry.smallest and not entry.is_control and entry.method != best.method]
    if not others:
        return "; no other method has one"
    later = min(others, key=_smallness)
    return f"; the next, {later.method}, takes {_smallest(later).edges:,.0f} edges"


def _of_chance(content: Content, entries: Sequence[Entry], best: Entry, size: Size) -> str:
    """Return what random edges of that number reach."""
    for entry in entries:
        if entry.is_control and (other := entry.at_least(size.edges_asked)) and other.test.value is not None:
            return f"; random edges {format_figure(other.test.value)}"
    result = content.results.get(best.folders[0])
    curve = _evaluation(result, best).curve("random") if result else []
    larger = [point for point in curve if point.edges_asked >= size.edges_asked and point.fraction < 1]
    if larger and larger[0].faithfulness is not None:
        return f"; random edges {format_figure(larger[0].faithfulness)}"
    return ""


def _nothing_holds(methods: Sequence[Entry]) -> str:
    text = f"no measured circuit holds on held-out prompts (faithfulness at least {GOOD:g} with 95% confidence)"
    sizes = [
        (entry, size) for entry in methods for size in entry.sizes if size.fraction < 1 and size.test.value is not None
    ]
    if not sizes:
        return text
    entry, size = min(sizes, key=lambda pair: _off(pair[1]))
    return f"{text}; the nearest is {entry.method}, {_with_edges(size)}"


def _rank_purpose(entries: Sequence[Entry]) -> Iterator[Purpose]:
    first = [entry for entry in entries if entry.rank == 1 and entry.cmd.value is not None]
    if first and all(entry.cmd.value is not None for entry in entries):
        names = list(dict.fromkeys(entry.method for entry in first))
        apart = f"; the intervals do not tell {len(names)} methods apart" if len(names) > 1 else ""
        cmd = format_interval(Figure(*first[0].cmd[:3]))
        yield Purpose(
            "A ranking of all edges, to choose any size from", _join(names, _NAMED), f"CMD {cmd} (0 is best){apart}"
        )


def _cost_purposes(entries: Sequence[Entry]) -> Iterator[Purpose]:
    holding = [entry for entry in entries if entry.smallest and not entry.is_control]
    for purpose, name, unit in (
        ("The least time to a circuit that holds", "wall_s", "s"),
        ("The least memory to one that holds", "peak_mb", "MB"),
    ):
        known = [entry for entry in holding if getattr(entry, name) is not None]
        if known:
            best = min(known, key=lambda entry: float(getattr(entry, name)))
            value = float(getattr(best, name))
            cost = format_seconds(value) if unit == "s" else f"{value:,.0f} MB"
            size = _smallest(best)
            evidence = f"{cost}; {_with_edges(size)}"
            yield Purpose(purpose, best.method, evidence)


def _difference(content: Content, one: tuple[Entry, Size], other: tuple[Entry, Size]) -> Figure:
    """Compare two circuits' faithfulness: paired where both have values of the same prompts."""
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
    evaluation = _evaluation(result, entry)
    point = next((point for point in evaluation.points if _is(point, size)), None)
    if point is None:
        return None
    values = (evaluation.per_prompt(point), evaluation.per_prompt("full"), evaluation.per_prompt("ablated"))
    prompts = result.config.get(CONTENT)
    return (str(prompts.get("test", "")) if isinstance(prompts, Mapping) else ""), PerPrompt(*values)


def _is(point: Point, size: Size) -> bool:
    return point.ranking == size.ranking and (size.ranking == "own" or point.fraction == size.fraction)


def _evaluation(result: Result, entry: Entry) -> Evaluation:
    """Return the evaluation on test of the entry's operating point."""
    selections = [circuit.selection for circuit in result.circuits]
    number = selections.index(entry.operating_point) if entry.operating_point in selections else 0
    return result.evaluations["test"][number]


def _smallest(entry: Entry) -> Size:
    assert entry.smallest is not None
    return entry.smallest


def _with_edges(size: Size) -> str:
    which = "the edges it chose," if size.ranking == "own" else "its top"
    return f"{format_interval(_figure(size))} with {which} {size.edges:,.0f}{' edges' * (size.ranking != 'own')}"


def _figure(size: Size) -> Figure:
    return Figure(*size.test[:3])


def _join(names: Sequence[str], most: int = 1_000) -> str:
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
