"""Which method to use for which purpose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from circuitkit.evaluation.intervals import Figure
from circuitkit.page.content import Content
from circuitkit.page.evidence import join_names, name_entry, say_size, smallest_of
from circuitkit.page.leaderboard import Entry
from circuitkit.report.figures import format_interval, format_seconds

_CLOSE = 1.1
"""Costs up to this times the least are not told apart: they vary from run to run."""


@dataclass(frozen=True)
class Purpose:
    """What somebody may want, which method is best for it, and how one knows."""

    purpose: str
    method: str
    evidence: str


def rank_purpose(entries: Sequence[Entry]) -> Iterator[Purpose]:
    """Yield the methods that rank all edges best, if all have the area by which one knows.

    Args:
        entries: of one group, ranked.
    """
    first = [entry for entry in entries if entry.rank == 1 and entry.cmd.value is not None]
    if first and all(entry.cmd.value is not None for entry in entries):
        names = [name_entry(entry, entries) for entry in first]
        apart = f"; the intervals do not tell these {len(names)} apart" if len(names) > 1 else ""
        cmd = format_interval(Figure(*first[0].cmd[:3]))
        purpose = "A ranking of all edges, to choose any size from"
        yield Purpose(purpose, join_names(names), f"CMD {cmd} (0 is best){apart}")


def cost_purposes(content: Content, entries: Sequence[Entry]) -> Iterator[Purpose]:
    """Yield the cheapest methods whose circuit holds.

    Args:
        content: for the number of cells that ran at once, which shared the cores.
        entries: of one group.
    """
    workers = content.environment.get("workers")
    for purpose, name in (
        ("The least time to a circuit that holds", "wall_s"),
        ("The least memory to one that holds", "peak_mb"),
    ):
        holding = [entry for entry in entries if entry.smallest and not entry.is_control]
        known = [entry for entry in holding if getattr(entry, name) is not None]
        if not known:
            continue
        if name == "wall_s" and isinstance(workers, int) and workers > 1:
            why = f"{workers} cells ran at once and shared the machine, so that their times cannot be compared"
            yield Purpose(purpose, "Not compared", why)
            continue
        known.sort(key=lambda entry: float(getattr(entry, name)))
        least = float(getattr(known[0], name))
        close = [entry for entry in known if getattr(entry, name) <= _CLOSE * least]
        cost = format_seconds(least) if name == "wall_s" else f"{least:,.0f} MB"
        within = "; the others within 10% of it" if len(close) > 1 else ""
        of_first = f"; {say_size(smallest_of(close[0]))}"
        yield Purpose(purpose, join_names([name_entry(one, entries) for one in close]), f"{cost}{of_first}{within}")
