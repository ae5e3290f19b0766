"""Votes of repeated searches on every edge, and what can be concluded from them."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import torch
from scipy import stats

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import UsageError


def votes_needed(samples: int, confidence: float) -> int:
    """Return how many of `samples` independent votes show that more than half of all possible ones agree.

    It is the exact one-sided binomial test of a share of at most 1/2; equivalently, the lower end of the one-sided
    interval of Clopper and Pearson (1934) is above 1/2.

    Raises:
        UsageError: not even all of them would.
    """
    enough = (
        votes
        for votes in range(samples + 1)
        if stats.binomtest(votes, samples, 0.5, alternative="greater").pvalue < 1 - confidence
    )
    if (found := next(enough, None)) is not None:
        return found
    least = math.floor(-math.log2(1 - confidence)) + 1
    raise UsageError(
        f"{samples} samples cannot reach the confidence {confidence:g}, even if all of them agree.",
        f"Give at least {least}.",
    )


def find_confidence(votes: int, samples: int) -> float:
    """Return the confidence that more than half of all possible votes go the way of most of these; see `votes_needed`.

    With votes that are evenly split it is below 1/2.
    """
    most = max(votes, samples - votes)
    return 1 - float(stats.binomtest(most, samples, 0.5, alternative="greater").pvalue)


class Votes:
    """Votes of searches with one thing varied at a time.

    An edge has a vote from each circuit with it. Under one thing varied it is kept with at least `needed` votes,
    removed with as many against it, and contested otherwise. Under all of them it is kept where each keeps it, removed
    where each removes it, and contested otherwise.

    Args:
        circuits: of the searches, by what they vary; as many for each.
        needed: votes for a decision.

    Attributes:
        counts: votes by what is varied, int64 `[edges]` each.
        kept, removed, contested: under all things varied, bool `[edges]`; each edge is one of the three.
    """

    def __init__(self, circuits: Mapping[str, Sequence[Circuit]], needed: int) -> None:
        self._circuits, self._needed = circuits, needed
        (self._samples,) = {len(of_one) for of_one in circuits.values()}
        self.counts = {varied: torch.stack([one.kept for one in of_one]).sum(0) for varied, of_one in circuits.items()}
        votes = torch.stack(list(self.counts.values()))
        self._least = votes.amin(0)
        self.kept = self._least >= needed
        self.removed = votes.amax(0) <= self._samples - needed
        self.contested = ~self.kept & ~self.removed

    def circuit(self) -> Circuit:
        """Return the circuit of the kept edges; a score is the smallest share of votes under anything varied."""
        every = [one for of_one in self._circuits.values() for one in of_one]
        over = " and ".join(self.counts)
        return Circuit(
            every[0].graph,
            self._least.double() / self._samples,
            self.kept,
            torch.full_like(every[0].score_sources, int(ScoreSource.GIVEN)),
            f"{every[0].selection}; {self._needed} of {self._samples} votes over {over}",
            tie=any(one.tie for one in every),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Count by what is varied: edges kept, removed and contested, and the mean Jaccard index of two searches."""
        return [
            {
                "varied": varied,
                "kept": int((votes >= self._needed).sum()),
                "removed": int((votes <= self._samples - self._needed).sum()),
                "contested": int(((votes < self._needed) & (votes > self._samples - self._needed)).sum()),
                "jaccard": fmean(one.jaccard(other) for one, other in combinations(self._circuits[varied], 2)),
            }
            for varied, votes in self.counts.items()
        ]

    def contested_edges(self) -> dict[str, dict[str, int]]:
        """List the contested edges by name, with their votes by what is varied."""
        names = next(iter(self._circuits.values()))[0].graph.names
        return {
            names[edge]: {varied: int(votes[edge]) for varied, votes in self.counts.items()}
            for edge in self.contested.nonzero()[:, 0].tolist()
        }
