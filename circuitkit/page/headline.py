"""What a page says first: which method to use for which purpose, with the evidence, and no more than that supports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from circuitkit.evaluation.intervals import Figure
from circuitkit.page.content import Content, say_unevaluated
from circuitkit.page.evidence import (
    difference_of,
    join_names,
    name_entry,
    off_one,
    say_chance,
    say_figure,
    say_marks,
    say_size,
    smallest_of,
)
from circuitkit.page.leaderboard import Entry, Size
from circuitkit.page.purposes import Purpose, cost_purposes, rank_purpose
from circuitkit.report.figures import GOOD, format_interval

_LISTED = 4
"""Methods that the sentence on several settings names."""
_SMALLEST = "The smallest measured circuit that holds on held-out prompts"


@dataclass(frozen=True)
class Finding:
    """What was found out on one task in one model.

    Attributes:
        where: the task, the model and the objective.
        sentence: the main result, with its evidence.
        purposes: the method to use for each purpose.
        winners: the methods with the smallest measured circuit that holds, or one that is not told apart from it; empty
            if there is none.
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
    methods = {entry.method for entry in entries if not entry.is_control}
    return Headline(_overall(findings) if len(methods) > 1 else _overall_of_one(findings, methods), findings)


def _say_nothing(content: Content) -> str:
    states = [cell.state for cell in content.cells]
    if not states:
        return "This comparison has no cells."
    if content.kind == "run":
        why = f"was {say_unevaluated(content.results['.'])}" if states == ["finished"] else "is not finished"
        return f"There are no figures of this run: it {why}."
    if states.count("failed") == len(states):
        return f"All {len(states)} cells failed: there is nothing to compare. Their errors are below."
    return (
        f"No cell is finished yet: {states.count('unfinished')} of {len(states)} are to be run, and "
        f"{states.count('failed')} failed."
    )


def _overall(findings: Sequence[Finding]) -> str:
    wins: dict[str, int] = {}
    alone: dict[str, int] = {}
    for finding in findings:
        for winner in finding.winners:
            wins[winner] = wins.get(winner, 0) + 1
            alone[winner] = alone.get(winner, 0) + (len(finding.winners) == 1)
    none = sum(not finding.winners for finding in findings)
    what = "the smallest measured circuit that holds on held-out prompts"
    settings = f"{len(findings)} settings (model, task and objective)"
    if not wins:
        return f"In none of {settings} a measured circuit holds on held-out prompts."
    order = sorted(wins, key=lambda name: (-wins[name], -alone[name]))
    if alone[order[0]] == len(findings):
        return f"{order[0]} has {what} in all {settings}."
    said = [f"{name} in {wins[name]}" + f" (alone in {alone[name]})" * (alone[name] > 0) for name in order]
    nothing = f"; in {none} no measured circuit holds" if none else ""
    return f"Of {settings}, {what}, or one not told apart from it, is of {join_names(said, _LISTED)}{nothing}."


def _overall_of_one(findings: Sequence[Finding], methods: Iterable[str]) -> str:
    holds = sum(bool(finding.winners) for finding in findings)
    settings = f"{len(findings)} settings (model, task and objective)"
    for method in methods:
        return f"{method} has a measured circuit that holds on held-out prompts in {holds} of {settings}."
    return f"In {settings}, only random edges were measured."


def _find(content: Content, entries: Sequence[Entry], several_objectives: bool) -> Finding:
    first = entries[0]
    where = f"{first.task} in {first.model}" + (f" ({first.objective})" if several_objectives else "")
    purposes = (*rank_purpose(entries), *cost_purposes(content, entries))
    methods = [entry for entry in entries if not entry.is_control]
    holding = sorted((entry for entry in methods if entry.smallest), key=_smallness)
    several = len({entry.method for entry in methods}) > 1
    missing = _count_missing(content, first)
    if holding and several:
        return _find_smallest(content, where, entries, holding[0], purposes, missing)
    found = [_describe_own(entry, entries) for entry in methods if not several and entry.own]
    if holding:
        size = smallest_of(holding[0])
        said = f"{say_size(size)}{say_marks(size, entries)}{say_chance(content, entries, holding[0], size)}"
        of = name_entry(holding[0], entries)
        found.append(f"the smallest measured circuit that holds on held-out prompts is that of {of}: {said}")
    else:
        found.append(_nothing_holds(entries))
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
    missing = sum(cell.state in ("failed", "unfinished") for cell in cells)
    have = "has" if missing == 1 else "have"
    return f" Of its {len(cells)} cells, {missing} {have} no result." if missing else ""


def _smallness(entry: Entry) -> tuple[float, float]:
    size = smallest_of(entry)
    return size.edges, off_one(size)


def _describe_own(entry: Entry, entries: Sequence[Entry]) -> str:
    assert entry.own is not None
    figure = "where faithfulness is undefined" if entry.own.test.value is None else say_figure(entry.own)
    return f"{name_entry(entry, entries)} chose {entry.own.edges:,.0f} edges, {figure} on held-out prompts"


def _find_smallest(
    content: Content,
    where: str,
    entries: Sequence[Entry],
    best: Entry,
    purposes: tuple[Purpose, ...],
    missing: str,
) -> Finding:
    size, name = smallest_of(best), name_entry(best, entries)
    rivals = _judge_rivals(content, entries, best)
    found = f"{say_size(size)}{say_marks(size, entries)}"
    chance = say_chance(content, entries, best, size)
    evidence = found + _say_rivals(rivals, entries, best) + chance
    tied = [one for one, _ in (*rivals.equal, *rivals.open)]
    claim = "finds a circuit as small as any measured" if tied else "finds the smallest measured circuit"
    sentence = f"On {where}, {name} {claim} that holds on held-out prompts: {evidence}.{missing}"
    names = [name_entry(one, entries) for one in tied]
    who = f"{name}, or {join_names(names)}" if tied else name
    said = f"{found}{chance}; the others hold at about that size too, or are not told apart" if tied else evidence
    winners = (best.method, *(one.method for one in tied))
    return Finding(where, sentence, (Purpose(_SMALLEST, who, said), *purposes), winners)


@dataclass(frozen=True)
class _Rivals:
    """The other methods' circuits of about the size of the smallest that holds.

    Attributes:
        equal: they hold too; open: it is not known; worse: they do not, beyond doubt, with the difference.
        unmeasured: methods without a circuit of about that size.
    """

    equal: list[tuple[Entry, Size]]
    open: list[tuple[Entry, Size]]
    worse: list[tuple[Entry, Size, Figure]]
    unmeasured: list[str]


def _judge_rivals(content: Content, entries: Sequence[Entry], best: Entry) -> _Rivals:
    size = smallest_of(best)
    judged = _Rivals([], [], [], [])
    near: dict[str, tuple[Entry, Size] | None] = {}
    for entry in entries:
        if entry.is_control or entry.method == best.method:
            continue
        other, before = entry.near(size.edges), near.setdefault(entry.method, None)
        if other is not None and (before is None or _preference(other) < _preference(before[1])):
            near[entry.method] = entry, other
    judged.unmeasured.extend(method for method, pair in near.items() if pair is None)
    for entry, other in sorted((pair for pair in near.values() if pair), key=lambda pair: off_one(pair[1])):
        difference = difference_of(content, (best, size), (entry, other))
        if other.holds:
            judged.equal.append((entry, other))
        elif difference.low is not None and difference.low > 0 and off_one(other) > off_one(size):
            judged.worse.append((entry, other, difference))
        elif not (other.test.low is not None and other.test.low > 2 - GOOD):
            judged.open.append((entry, other))
    return judged


def _preference(size: Size) -> tuple[bool, float]:
    """Return what sorts a method's operating points: those that hold first, then by the distance from 1."""
    return not size.holds, off_one(size)


def _say_rivals(rivals: _Rivals, entries: Sequence[Entry], best: Entry) -> str:
    said = ""
    if rivals.equal:
        names = join_names([name_entry(one, entries) for one, _ in rivals.equal])
        said += f"; {names} hold{'s' * (len(rivals.equal) == 1)} with {_range([one for _, one in rivals.equal])} too"
    if rivals.open:
        names = join_names([name_entry(one, entries) for one, _ in rivals.open])
        what = "the prompts do" if best.seeds == 1 else "prompts and seeds do"
        said += f"; {what} not tell whether {names} would"
    if rivals.worse and not said:
        entry, other, difference = rivals.worse[0]
        next_best = ", the next best," if len(rivals.worse) > 1 else ""
        said += f"; {name_entry(entry, entries)}{next_best} has {say_size(other)}"
        said += f" (difference {format_interval(difference)}){say_marks(other, entries)}"
    elif not said:
        said += _say_next(entries, best)
    if rivals.unmeasured:
        edges = f"{smallest_of(best).edges:,.0f} edges"
        said += f"; {join_names(rivals.unmeasured)}, not measured near {edges}, may have one as small"
    return said


def _range(sizes: Sequence[Size]) -> str:
    ends = sorted({f"{size.edges:,.0f}": size.edges for size in sizes}.items(), key=lambda pair: pair[1])
    return f"{ends[0][0]} to {ends[-1][0]} edges" if len(ends) > 1 else f"{ends[0][0]} edges"


def _say_next(entries: Sequence[Entry], best: Entry) -> str:
    others = [entry for entry in entries if entry.smallest and not entry.is_control and entry.method != best.method]
    if not others:
        return "; no other method's measured circuits hold"
    later = min(others, key=_smallness)
    return f"; the next, {name_entry(later, entries)}, takes {smallest_of(later).edges:,.0f} edges"


def _nothing_holds(entries: Sequence[Entry]) -> str:
    methods = [entry for entry in entries if not entry.is_control]
    if not methods:
        return "only random edges were measured"
    sizes = [(entry, size) for entry in methods for size in entry.sizes if size.fraction < 1]
    known = [pair for pair in sizes if pair[1].test.value is not None]
    if sizes and not known:
        return "faithfulness is undefined: the full and the ablated model do equally well"
    text = f"no measured circuit holds on held-out prompts (faithfulness at least {GOOD:g} with 95% confidence)"
    if not known:
        return text
    entry, size = min(known, key=lambda pair: off_one(pair[1]))
    return f"{text}; the nearest is {name_entry(entry, entries)}, {say_size(size)}{say_marks(size, entries)}"
