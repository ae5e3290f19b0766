"""Agreement of circuits equals scipy, scikit-learn and counts from the definitions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from support.graphs import GROUPED, TINY, eap, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.evaluation.agreement import (
    compute_jaccard,
    compute_node_roc_auc,
    compute_rank_correlation,
    compute_roc_auc,
    compute_roc_curve,
)

NAMES = TINY.names
seeds = st.integers(0, 1000)


def ranking(seed: int, tied: bool = False) -> Circuit:
    scores = torch.randn(len(TINY), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Circuit.from_scores(TINY, (2 * scores).round() if tied else scores)


def precedes(circuit: Circuit, edge: int, other: int, absolute: bool) -> float:
    """1 if an edge ranks before another, 0.5 if they are tied."""
    ranks = [(bool(circuit.kept[e]), abs(float(circuit.scores[e])) if absolute else float(circuit.scores[e]))
             for e in (edge, other)]  # fmt: skip
    return 0.5 if ranks[0] == ranks[1] else float(ranks[0] > ranks[1])


def test_jaccard_of_each_pair_by_hand() -> None:
    sets = [NAMES[:4], NAMES[2:6], [], NAMES[10:11]]
    found = compute_jaccard([Circuit.from_names(TINY, names) for names in sets])
    wanted = np.eye(4)
    wanted[0, 1] = wanted[1, 0] = 2 / 6
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_rank_correlation_of_rankings_is_scipys_of_their_scores(tied: bool, absolute: bool) -> None:
    circuits = [ranking(seed, tied) for seed in range(3)]
    found = compute_rank_correlation(circuits, absolute)
    for one, other in itertools.product(range(3), repeat=2):
        scores = [circuits[index].scores.abs() if absolute else circuits[index].scores for index in (one, other)]
        assert found[one, other] == pytest.approx(stats.spearmanr(*scores).statistic, abs=1e-12)


def test_rank_correlation_by_hand() -> None:
    """Without ties: 1 - 6 sum(d^2) / (n (n^2 - 1))."""
    n = len(TINY)
    places = torch.arange(n, dtype=torch.float64)
    swapped = places.clone()
    swapped[[3, 8]] = places[[8, 3]]
    found = compute_rank_correlation(
        [Circuit.from_scores(TINY, scores) for scores in (places, swapped, -places)], False
    )
    assert found[0] == pytest.approx([1, 1 - 6 * 50 / (n * (n * n - 1)), -1])
    assert compute_rank_correlation([eap()]).tolist() == [[pytest.approx(1)]]


@given(seeds, st.booleans())
def test_kept_edges_rank_before_all_others(seed: int, absolute: bool) -> None:
    """Then a search agrees with itself as a ranking where its places are the scores."""
    circuit = random_circuit(TINY, seed)
    places = torch.empty(len(TINY), dtype=torch.float64)
    places[circuit.ranking(absolute)] = torch.arange(len(TINY), 0, -1, dtype=torch.float64)
    found = compute_rank_correlation([circuit, Circuit.from_scores(TINY, places)], absolute)
    assert found[0, 1] == pytest.approx(1)


def test_a_constant_has_no_rank_correlation() -> None:
    constant = Circuit.from_scores(TINY, torch.ones(len(TINY), dtype=torch.float64))
    found = compute_rank_correlation([eap(), constant])
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan([found[0, 1], found[1, 0], found[1, 1]]).all()


@given(seeds, st.booleans(), st.booleans(), st.booleans())
def test_roc_auc_counts_the_pairs_in_the_right_order(seed: int, tied: bool, chosen: bool, absolute: bool) -> None:
    circuit = random_circuit(TINY, seed) if chosen else ranking(seed, tied)
    reference = random_circuit(TINY, seed + 1, density=0.3)
    right, wrong = reference.kept.nonzero()[:, 0].tolist(), (~reference.kept).nonzero()[:, 0].tolist()
    pairs = [precedes(circuit, edge, other, absolute) for edge in right for other in wrong]
    assert compute_roc_auc(circuit, reference, absolute) == pytest.approx(sum(pairs) / len(pairs))


@given(seeds, st.booleans(), st.booleans())
def test_the_roc_curve_counts_the_edges_that_were_taken(seed: int, tied: bool, absolute: bool) -> None:
    circuit, reference = ranking(seed, tied), random_circuit(TINY, seed + 1, density=0.3)
    false, true = compute_roc_curve(circuit, reference, absolute)
    assert np.trapezoid(true, false) == pytest.approx(compute_roc_auc(circuit, reference, absolute))
    scores = circuit.scores.abs() if absolute else circuit.scores
    points = {(0.0, 0.0)}
    for least in scores.unique():
        taken = scores >= least
        points.add(tuple(float((taken & of).sum() / of.sum()) for of in (~reference.kept, reference.kept)))
    for x, y in zip(false, true, strict=True):
        assert any((x, y) == pytest.approx(point, abs=1e-6) for point in points)


@given(seeds, st.booleans(), st.booleans(), st.booleans())
def test_node_roc_auc_counts_the_pairs_of_writers_by_their_best_edges(
    seed: int, tied: bool, chosen: bool, absolute: bool
) -> None:
    circuit = random_circuit(TINY, seed) if chosen else ranking(seed, tied)
    reference = random_circuit(TINY, seed + 1, density=0.05)
    by_writer = {name: [edge for edge in range(len(NAMES)) if NAMES[edge].startswith(f"{name}->")]
                 for name in TINY.writer_names}  # fmt: skip
    # An edge that no other edge out of the same writer precedes
    best = {name: next(e for e in edges if all(precedes(circuit, e, other, absolute) > 0 for other in edges))
            for name, edges in by_writer.items()}  # fmt: skip
    right = {name for name, edges in by_writer.items() if reference.kept[edges].any()}
    pairs = [precedes(circuit, best[one], best[other], absolute) for one in right for other in by_writer.keys() - right]
    if not right:
        with pytest.raises(UsageError, match="keeps no edge"):
            compute_node_roc_auc(circuit, reference, absolute)
    elif pairs:
        assert compute_node_roc_auc(circuit, reference, absolute) == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert np.isnan(compute_node_roc_auc(circuit, reference, absolute))


def test_node_roc_auc_is_undefined_if_every_writer_is_right() -> None:
    assert np.isnan(compute_node_roc_auc(eap(), Circuit.from_names(TINY, [n for n in NAMES if "->logits" in n])))
    heads = Circuit.from_names(TINY, ["a0.h1->m1", "a0.h1->logits", "a1.h0->logits"])
    assert compute_node_roc_auc(heads, heads) == 1


@pytest.mark.parametrize("absolute", [True, False])
def test_roc_auc_of_a_ranking_is_that_of_its_scores(absolute: bool) -> None:
    circuit, reference = eap(), random_circuit(TINY)
    scores = circuit.scores.abs() if absolute else circuit.scores
    found = compute_roc_auc(circuit, reference, absolute)
    assert found == pytest.approx(roc_auc_score(reference.kept, scores))
    u = stats.mannwhitneyu(scores[reference.kept], scores[~reference.kept]).statistic
    assert found == pytest.approx(u / (len(reference) * (len(TINY) - len(reference))))


def test_roc_auc_by_hand() -> None:
    reference = Circuit.from_names(TINY, NAMES[:2])
    assert compute_roc_auc(reference, reference) == 1
    assert compute_roc_auc(Circuit.from_scores(TINY, reference.scores * 0), reference) == 0.5
    assert compute_roc_auc(Circuit.from_scores(TINY, -reference.scores), reference, absolute=False) == 0
    infinite = reference.scores.masked_fill(reference.kept, float("inf"))
    assert compute_roc_auc(Circuit.from_scores(TINY, infinite), reference) == 1


@pytest.mark.parametrize(("n", "word"), [(0, "no edge"), (75, "every edge")])
def test_roc_auc_needs_edges_inside_and_outside_of_the_reference(n: int, word: str) -> None:
    with pytest.raises(UsageError, match=f"keeps {word}"):
        compute_roc_auc(eap(), eap().top(n))


def test_circuits_of_different_graphs_are_refused() -> None:
    one, other = eap(), random_circuit(GROUPED)
    for compute in (
        lambda: compute_roc_auc(one, other),
        lambda: compute_rank_correlation([one, other]),
        lambda: compute_jaccard([one.top(3), other]),
    ):
        with pytest.raises(UsageError, match="different graphs"):
            compute()


def test_rankings_have_no_jaccard_index() -> None:
    with pytest.raises(UsageError, match="no edges are chosen"):
        compute_jaccard([eap(), eap()])
