"""Stable: the edges that a strategy keeps whatever prompts, templates, seed or order of heads it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.config.checks import is_number
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.strategies.base import DiscoveryStrategy, OperatingPoint
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import check_strategy, run_strategy, search_part
from circuitkit.strategies.votes import Votes, votes_needed

Varied = Literal["prompts", "templates", "seed", "order"]
_SUBSETS = ("prompts", "templates")
_SUMS = ("edges_tested", "joint_tests", "forward_equivalents")
"""The metrics that count the work of all searches."""


class Stable(DiscoveryStrategy):
    """Repeats a strategy with one thing varied at a time, and keeps the edges that win these votes.

    For each thing in `vary`, the strategy runs `samples` times, each time with an independent random choice of it and
    everything else as in the run. An edge has a vote from each circuit with it. With the given confidence (exact
    binomial, one-sided, for each edge by itself) it is *kept* if more than half of all possible choices keep it,
    *removed* if more than half remove it, and *contested* if the votes cannot tell. The circuit has the edges that are
    kept under each thing varied. An edge's score is its smallest share of votes.

    This is a statement about choices such as all halves of the run's prompts, not about prompts that the run does not
    have. docs/explanation/stable.md compares it with Certified Circuits (Anani et al. 2026, arXiv 2602.22968). The cost
    is that of all searches.

    Args:
        strategy: what to repeat: a name, a mapping of `class_path` and `init_args`, or a `DiscoveryStrategy`. With
            several thresholds or targets, there is a circuit for each.
        samples: searches per thing varied.
        fraction: the part of the prompts (or templates) that a search gets.
        confidence: of each decision. With 8 samples, 0.95 takes 7 votes.
        vary: one or several of `prompts` (a random part of the run's prompts), `templates` (the prompts of a random
            part of the templates), `seed` (the strategy's), and `order` (of the heads, at random, for strategies with
            an argument `order`).
        size: for strategies that only score edges: their circuit is the first part of the ranking, this fraction of the
            edges.

    Raises:
        UsageError: an argument is out of its range, or the samples are too few for the confidence.
    """

    def __init__(
        self,
        strategy: DiscoveryStrategy | str | Mapping[str, Any],
        samples: int = 8,
        fraction: float = 0.5,
        confidence: float = 0.95,
        vary: Varied | Sequence[Varied] = "prompts",
        size: float | None = None,
    ) -> None:
        found = specs.make("strategies", strategy)
        if not isinstance(found, DiscoveryStrategy):
            raise UsageError(f"strategy={quote(strategy)} is no strategy.", "Give a name such as 'acdc'.")
        if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
            raise UsageError(f"samples={samples!r} is not a positive number.", "Give one such as 8.")
        if not (is_number(confidence) and 0.5 <= confidence < 1):
            raise UsageError(f"confidence={confidence!r} is not between 0.5 and 1.", "Give one such as 0.95.")
        for name, value in (("fraction", fraction), ("size", 0.5 if size is None else size)):
            if not (is_number(value) and 0 < value < 1):
                raise UsageError(f"{name}={value!r} is not between 0 and 1.", "Give a fraction such as 0.5.")
        self._varied = _check_vary(vary, found)
        self._needed = votes_needed(samples, confidence)
        self.strategy: DiscoveryStrategy = found
        self.samples = samples
        self.fraction = fraction
        self.confidence = confidence
        self.vary = vary
        self.size = size
        self.operating_point = found.operating_point if size is None else OperatingPoint("removed", fraction=True)

    def operating_values(self) -> Sequence[float]:
        """List those of the repeated strategy; with `size`, the fraction of the edges that is left out."""
        return self.strategy.operating_values() if self.size is None else [1 - self.size]

    def at(self, value: float) -> Self:
        """Make a copy with the repeated strategy at another value; with `size`, at another size."""
        changed = {"strategy": self.strategy.at(value)} if self.size is None else {"size": 1 - value}
        return self.with_arguments(**changed)

    def default_precision(self) -> PrecisionPolicy:
        """Return that of the repeated strategy."""
        return self.strategy.default_precision()

    def setup(self, run: Discovery) -> None:
        """Refuse what a search refuses, before the first begins."""
        only_parts = all(one in _SUBSETS for one in self._varied)
        check_strategy(self.strategy, replace(run, supply=None) if only_parts else run)

    @property
    def searches(self) -> Sequence[tuple[DiscoveryStrategy, float]]:
        """List the repeated strategy."""
        return [(self.strategy, self.samples * sum(self.fraction if one in _SUBSETS else 1.0 for one in self._varied))]

    def discover(self, run: Discovery) -> list[Circuit]:
        """Search again and again, and count the votes."""
        found: dict[str, list[list[Circuit]]] = {varied: [] for varied in self._varied}
        for sample in self._draw(run):  # all are drawn first: a resumed run draws the same
            found[sample.varied].append(self._search(run, sample))
        counts = sorted({len(circuits) for searches in found.values() for circuits in searches})
        if len(counts) > 1:
            raise CircuitKitError(
                f"{type(self.strategy).__name__} found {counts[0]} circuits in one search and {counts[-1]} in another.",
                "Only a strategy that always finds as many can be repeated.",
            )
        votes = []
        for point in range(counts[0]):
            of_point = {varied: [circuits[point] for circuits in searches] for varied, searches in found.items()}
            votes.append(Votes(of_point, self._needed))
        run.log(
            samples=self.samples,
            votes_needed=self._needed,
            stability=[{"circuit": number, **row} for number, one in enumerate(votes, 1) for row in one.rows()],
            contested_edges=[one.contested_edges() for one in votes],
        )
        return [one.circuit() for one in votes]

    def _draw(self, run: Discovery) -> list["_Sample"]:
        samples = [
            self._draw_one(run, varied, f"{varied}_{number}")
            for varied in self._varied
            for number in range(1, self.samples + 1)
        ]
        fewest = min(len(sample.rows) for sample in samples)
        if fewest < run.processes.count:
            raise UsageError(
                f"{run.processes.count} processes cannot share the {fewest} prompts of a search.",
                "Give more prompts, a larger fraction, or fewer devices.",
            )
        return samples

    def _draw_one(self, run: Discovery, varied: Varied, name: str) -> "_Sample":
        """Draw what is varied, independently of all other draws."""
        (batch,) = run.batches
        seed, rows = run.generator.initial_seed(), torch.arange(len(batch), dtype=torch.int64)
        if varied == "prompts":
            rows = _draw_part(len(batch), self.fraction, "prompts", run.generator)
        elif varied == "templates":
            labels = sorted(set(batch.templates))
            drawn = _draw_part(len(labels), self.fraction, "templates", run.generator)
            chosen = {labels[number] for number in drawn.tolist()}
            rows = rows[torch.tensor([label in chosen for label in batch.templates], dtype=torch.bool)]
        else:
            seed = int(torch.randint(2**32, (), generator=run.generator, dtype=torch.int64))
        return _Sample(varied, name, rows, seed)

    def _search(self, run: Discovery, sample: "_Sample") -> list[Circuit]:
        """Run the strategy on a sample, or read what an interrupted run has found."""
        strategy = self.strategy
        whole = replace(run, generator=torch.Generator().manual_seed(sample.seed))
        if sample.varied in _SUBSETS:
            whole.batches, whole.supply = [run.batches[0][sample.rows]], None
        if sample.varied == "order":
            strategy = strategy.with_arguments(order="shuffle")
        key = {"rows": sample.rows.tolist(), "seed": sample.seed}
        circuits, part = search_part(whole, sample.name, key, lambda part: run_strategy(strategy, part))
        run.memory_budget, run.resumptions = whole.memory_budget, whole.resumptions
        run.notes.extend(note for note in part.notes if note not in run.notes)
        run.log(**{name: run.metrics.get(name, 0) + part.metrics[name] for name in _SUMS if name in part.metrics})
        return [self._choose(circuit) for circuit in circuits]

    def _choose(self, circuit: Circuit) -> Circuit:
        """Return the first edges of a ranking, and a circuit that was chosen already as it is."""
        name = type(self.strategy).__name__
        if circuit.is_ranking and self.size is None:
            raise UsageError(
                f"{name} ranks edges without choosing any, so that there is nothing to vote on.",
                "Give size, the fraction of the edges to vote on, such as 0.01.",
            )
        if not circuit.is_ranking and self.size is not None:
            raise UsageError(f"size={self.size:g} is for rankings, and {name} chooses edges itself.", "Leave size out.")
        return circuit if self.size is None else circuit.top(max(1, round(self.size * len(circuit.graph))))


@dataclass(frozen=True)
class _Sample:
    """One search: what it varies, its name, the numbers of its prompts, and its seed."""

    varied: Varied
    name: str
    rows: Tensor
    seed: int


def _check_vary(vary: Any, strategy: DiscoveryStrategy) -> list[Varied]:
    known = get_args(Varied)
    found: list[Any] = list(vary) if isinstance(vary, list | tuple) else [vary]
    if not found or any(one not in known for one in found) or len(set(found)) < len(found):
        raise UsageError(f"vary={quote(vary)} is not a list of what to vary.", f"Choose among {', '.join(known)}.")
    if "order" in found and not hasattr(strategy, "order"):
        name = type(strategy).__name__
        raise UsageError(f"{name} has no argument 'order' to vary.", "Leave 'order' out, or choose acdc.")
    return found


def _draw_part(count: int, fraction: float, what: str, generator: torch.Generator) -> Tensor:
    """Draw a part of `count` things without replacement: their numbers, ascending."""
    drawn = round(fraction * count)
    if not 0 < drawn < count:
        raise UsageError(
            f"The fraction {fraction:g} of {count} {what} is {drawn}: that is no proper part of them.",
            f"Give more {what}, another fraction, or vary something else.",
        )
    return torch.randperm(count, generator=generator, dtype=torch.int64)[:drawn].sort().values
