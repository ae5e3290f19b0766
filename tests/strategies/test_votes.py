"""Votes on edges: how many decide, and what they decide."""

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest
import torch
from scipy import stats
from support.graphs import TINY, random_circuit

from circuitkit import Circuit
from circuitkit.errors import UsageError
from circuitkit.strategies.votes import Votes, find_confidence, votes_needed


def chance(votes: int, samples: int, share: Fraction) -> Fraction:
    """Compute exactly how likely at least so many votes are, if this share of all possible searches votes for it."""
    return sum(
        (comb(samples, k) * share**k * (1 - share) ** (samples - k) for k in range(votes, samples + 1)), Fraction(0)
    )


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("samples", [1, 2, 5, 7, 8, 16, 33])
def test_the_fewest_votes_that_an_edge_without_a_majority_rarely_gets(samples: int, confidence: float) -> None:
    wrong = 1 - Fraction(confidence)
    enough = [k for k in range(samples + 1) if chance(k, samples, Fraction(1, 2)) < wrong]
    if not enough:
        with pytest.raises(UsageError, match=rf"{samples} samples cannot reach.*at least") as caught:
            votes_needed(samples, confidence)
        least = int(str(caught.value).split("at least ")[1].rstrip("."))
        assert votes_needed(least, confidence) == least
        with pytest.raises(UsageError):
            votes_needed(least - 1, confidence)
        return
    needed = votes_needed(samples, confidence)
    assert needed == enough[0] > samples / 2
    assert find_confidence(needed, samples) > confidence >= find_confidence(needed - 1, samples)
    assert find_confidence(samples - needed, samples) == find_confidence(needed, samples)
    # A smaller share gets them even more rarely
    assert all(chance(needed, samples, Fraction(n, 20)) <= wrong for n in range(11))
    # The same in terms of the interval of Clopper and Pearson
    low = stats.binomtest(needed, samples, alternative="greater").proportion_ci(confidence, method="exact").low
    assert low > 0.5
    low = stats.binomtest(needed - 1, samples, alternative="greater").proportion_ci(confidence, method="exact").low
    assert low <= 0.5 + 1e-9


def circuits(samples: int, seed: int) -> list[Circuit]:
    """Circuits drawn from edges of all shares of votes."""
    shares = torch.rand(len(TINY), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.where(shares < 0.3, 0, torch.where(shares > 0.7, 1, shares))
    base = random_circuit(TINY)
    drawn = torch.rand(samples, len(TINY), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < shares
    return [Circuit(TINY, base.scores, kept, base.score_sources, "drawn") for kept in drawn]


@pytest.mark.parametrize("varied", [["prompts"], ["prompts", "order", "seed"]])
def test_decisions_by_counting_edge_by_edge(varied: list[str]) -> None:
    of = {one: circuits(6, seed) for seed, one in enumerate(varied, 1)}
    votes = Votes(of, needed=5)
    kept, removed, scores, contested = [], [], [], {}
    per = {one: {"kept": 0, "removed": 0, "contested": 0} for one in varied}
    for edge, name in enumerate(TINY.names):
        counts = {one: sum(name in circuit for circuit in found) for one, found in of.items()}
        for one, count in counts.items():
            per[one]["kept" if count >= 5 else "removed" if count <= 1 else "contested"] += 1
        kept.append(all(count >= 5 for count in counts.values()))
        removed.append(all(count <= 1 for count in counts.values()))
        scores.append(min(counts.values()) / 6)
        if not kept[edge] and not removed[edge]:
            contested[name] = counts
    circuit = votes.circuit()
    assert circuit.kept.tolist() == votes.kept.tolist() == kept
    assert votes.removed.tolist() == removed
    assert circuit.scores.tolist() == scores
    assert votes.contested_edges() == contested
    assert contested
    assert any(kept)
    assert any(removed)
    for row in votes.rows():
        found = of[row["varied"]]
        assert {name: row[name] for name in ("kept", "removed", "contested")} == per[row["varied"]]
        pairs = [
            len(set(one) & set(other)) / len(set(one) | set(other)) for one, other in combinations(map(list, found), 2)
        ]
        assert row["jaccard"] == pytest.approx(sum(pairs) / 15)
    assert circuit.selection == f"drawn; 5 of 6 votes over {' and '.join(varied)}"
    assert circuit.scores[circuit.kept].min() >= 5 / 6


def test_ties_of_the_searches_are_ties_of_the_votes() -> None:
    ranking = Circuit.from_scores(TINY, torch.ones(75, dtype=torch.float64))
    assert Votes({"seed": [ranking.top(9)] * 5}, needed=5).circuit().tie
    assert not Votes({"seed": circuits(5, 1)}, needed=5).circuit().tie
