"""What a dry run says, as a table for the terminal."""

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from circuitkit.preflight import Preflight
from circuitkit.summary import seconds

_PARTS = {
    "weights": "model weights",
    "high": "weights in full precision",
    "low": "weights in low precision",
    "masters": "full-precision masters, off the device",
    "captures": "captures: clean and ablated outputs",
    "live": "live state",
    "cone": "cone of one hypothesis, at its largest",
}


def preflight_table(preflight: Preflight) -> Group:
    """Edges, bytes by part and times; below them what to know of these figures."""
    estimate = preflight.estimate
    table = Table(box=SIMPLE, padding=(0, 1), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("edges", f"{preflight.edges:,}")
    table.add_row("prompts x tokens", f"{preflight.prompts:,} x {preflight.tokens:,}")
    for part, size in (*preflight.weights.items(), *estimate.bytes.items()):
        table.add_row(_PARTS.get(part, escape(part)), _size(size))
    table.add_row("memory budget of the hypotheses", _size(preflight.memory_budget))
    if preflight.at_once is not None:
        table.add_row("hypotheses at once", f"{preflight.at_once:,}")
    if estimate.forward_s is not None:
        table.add_row("a plain forward", _duration(estimate.forward_s))
    for name, times in (("an edge test", estimate.value_s), ("the whole search", estimate.search_s)):
        if times is not None:
            table.add_row(name, " to ".join(dict.fromkeys(map(_duration, times))))
    title = f"[bold]{escape(preflight.strategy)} in {escape(preflight.model)}: a dry run, nothing is written[/]"
    notes = [*estimate.notes, *preflight.notes]
    if estimate.search_s is None:
        notes.append(f"There is no time estimate for {preflight.strategy} here.")
    return Group(title, table, *map(escape, notes))


def _size(size: int) -> str:
    """Bytes for people to read."""
    for unit, factor in (("GB", 2**30), ("MB", 2**20)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 2**10:,.1f} kB"


def _duration(value: float) -> str:
    return f"{1000 * value:.3g} ms" if value < 1 else seconds(value)
