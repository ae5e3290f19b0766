"""The predictions of a dry run, as data and as a table for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.evaluation.intervals import Figure
from circuitkit.report.figures import format_interval, format_seconds

_PARTS = {
    "weights": "model weights",
    "high": "weights in full precision",
    "low": "weights in low precision",
    "full": "full-precision weights, off the device",
    "captures": "captures: clean and ablated outputs",
    "offsets": "offsets of anchored quantization",
    "autograd": "kept for the backward pass",
    "differences": "clean minus ablated outputs",
    "inputs": "inputs of a layer's readers",
    "logits": "logits over the vocabulary",
    "live": "live state, at most",
    "cone": "gradients through the largest cone",
}


@dataclass(frozen=True)
class DryRun:
    """The predicted memory and time of a run.

    Attributes:
        strategy, model: their names.
        edges: number of edges in the graph.
        prompts: number of prompts of the train split; tokens: length of the longest.
        weights: bytes of the model's weights under the policy, by kind.
        memory_budget: bytes.
        at_once: how many hypotheses of the largest cone run together; None if no cone is known.
        parts: bytes of the engine's largest buffers at the peak, by part; of a search, in the full model.
        peak: bytes of the whole run beyond the interpreter, as `peak_mb` measures them: of a search that keeps few
            edges, and of one in the full model; otherwise equal. None: the strategy does not say.
        estimate: the strategy's estimate for all prompts.
        accuracy: of the full model on the train prompts; None if some prompt has no answer.
        notes: remarks, such as on the content of the run's folder.
    """

    strategy: str
    model: str
    edges: int
    prompts: int
    tokens: int
    weights: Mapping[str, int]
    memory_budget: int
    at_once: int | None
    parts: Mapping[str, int]
    peak: tuple[int, int] | None
    estimate: CostEstimate
    accuracy: Figure | None = None
    notes: tuple[str, ...] = ()


def dry_run_table(dry_run: DryRun) -> Group:
    """Make a table of edges, bytes by part and times, with notes below."""
    estimate = dry_run.estimate
    table = Table(box=SIMPLE, padding=(0, 1), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("edges", f"{dry_run.edges:,}")
    table.add_row("prompts x tokens", f"{dry_run.prompts:,} x {dry_run.tokens:,}")
    if dry_run.accuracy is not None:
        table.add_row("accuracy of the model", escape(format_interval(dry_run.accuracy, percent=True)))
    for part, size in (*dry_run.weights.items(), *dry_run.parts.items()):
        table.add_row(_PARTS.get(part, escape(part)), _size(size))
    if dry_run.peak is not None:
        table.add_row("memory at the peak", " to ".join(dict.fromkeys(map(_size, dry_run.peak))))
    table.add_row("memory budget, besides weights", _size(dry_run.memory_budget))
    if dry_run.at_once is not None:
        table.add_row("hypotheses at once", f"{dry_run.at_once:,}")
    if estimate.forward_s is not None:
        table.add_row("one forward pass", _duration(estimate.forward_s))
    for name, times in (("one edge test", estimate.value_s), ("the whole search", estimate.search_s)):
        if times is not None:
            table.add_row(name, " to ".join(dict.fromkeys(map(_duration, times))))
    title = f"[bold]{escape(dry_run.strategy)} in {escape(dry_run.model)}: a dry run, nothing is written[/]"
    notes = [*estimate.notes, *dry_run.notes]
    if estimate.search_s is None:
        notes.append(f"There is no time estimate for {dry_run.strategy} here.")
    return Group(title, table, *map(escape, notes))


def grid_dry_run_table(cells: Sequence[tuple[str, str, DryRun | None, str]]) -> Group:
    """Make a table of the cells of a comparison, with the time of all together below.

    Args:
        cells: of each cell its name, its task and model, what is predicted, and why it would be refused (empty: it
            would not).
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("cell")
    for head in ("edges", "prompts", "model's\naccuracy", "memory", "search"):
        table.add_column(head, justify="right", no_wrap=True)
    total = [0.0, 0.0]
    unknown: list[str] = []
    for name, _, found, error in cells:
        if found is None:
            table.add_row(escape(f"{name}: {error}"), "", "", "", "", "refused")
            continue
        times = found.estimate.search_s
        if times is None:
            unknown.append(name)
        else:
            total = [sofar + time for sofar, time in zip(total, times, strict=True)]
        memory = "" if found.peak is None else " to ".join(dict.fromkeys(map(_size, found.peak)))
        shown = "?" if times is None else " to ".join(dict.fromkeys(map(_duration, times)))
        right = "" if found.accuracy is None else f"{found.accuracy.value:.0%}"
        table.add_row(escape(name), f"{found.edges:,}", f"{found.prompts:,}", right, memory, shown)
    lines = [f"{len(cells)} cells; searches: {' to '.join(dict.fromkeys(map(_duration, total)))}, one after the other."]
    if unknown:
        lines.append(f"There is no time estimate for {len(unknown)} of them.")
    lines.append("Loading, making prompts and evaluating come on top of this.")
    return Group("[bold]A dry run, nothing is written[/]", table, *lines, *map(escape, _notes(cells)))


def _notes(cells: Sequence[tuple[str, str, DryRun | None, str]]) -> Iterator[str]:
    """Yield the notes of all cells, each once, with its tasks and models unless it is true of all."""
    places: dict[str, dict[str, None]] = {}
    for _, place, found, _ in cells:
        for note in found.notes if found is not None else ():
            places.setdefault(note, {})[place] = None
    everywhere = len({place for _, place, *_ in cells})
    for note, those in places.items():
        where = f" ({', '.join(those)})" if len(those) < everywhere else ""
        yield f"Note{where}: {note}"


def _size(size: int) -> str:
    """Format a number of bytes with a fitting unit."""
    for unit, factor in (("GB", 2**30), ("MB", 2**20)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 2**10:,.1f} kB"


def _duration(value: float) -> str:
    return f"{1000 * value:.3g} ms" if value < 1 else format_seconds(value)
