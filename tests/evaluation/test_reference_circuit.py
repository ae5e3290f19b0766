"""Agreement with a reference circuit equals scikit-learn's and sets of names, from every kind of file."""

from math import isnan
from pathlib import Path

import pytest
import torch
from sklearn.metrics import jaccard_score, roc_auc_score
from support.graphs import GROUPED, TINY, random_circuit

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.reference import compute_agreement, load_reference


def ranking(graph: EdgeGraph) -> Circuit:
    scores = torch.randn(len(graph), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Circuit.from_scores(graph, scores)


@pytest.mark.parametrize("graph", [TINY, GROUPED], ids=["tiny", "grouped"])
@pytest.mark.parametrize("kind", ["folder", ".json", ".pt"])
@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("reference_by_head", [True, False])
def test_a_reference_is_read_from_every_file(
    kind: str, graph: EdgeGraph, by_head: bool, reference_by_head: bool, tmp_path: Path
) -> None:
    """Every reader of a group is kept or not together, so that nothing is lost on the way."""
    reference = random_circuit(graph, 3, density=0.3)
    circuit = ranking(graph).expand_kv() if by_head else ranking(graph)
    written = reference.expand_kv() if reference_by_head else reference
    path = tmp_path / ("reference" if kind == "folder" else f"reference{kind}")
    if kind == "folder":
        written.save(path)
    else:
        written.to_eap_ig(path, d_model=8)
    found = load_reference(path, circuit.graph)
    wanted = reference.expand_kv() if by_head else reference
    assert found.graph == circuit.graph
    assert found.names() == wanted.names()
    agreement = compute_agreement(circuit, found)
    assert agreement.roc_auc == pytest.approx(roc_auc_score(wanted.kept, circuit.scores.abs()))
    top = circuit.top(len(wanted))
    assert agreement.jaccard == pytest.approx(jaccard_score(wanted.kept, top.kept))


def test_a_circuit_is_compared_with_its_own_edges() -> None:
    reference, circuit = random_circuit(TINY, 3, density=0.3), random_circuit(TINY, 4)
    found = compute_agreement(circuit, reference)
    assert found.jaccard == pytest.approx(jaccard_score(reference.kept, circuit.kept))
    ranks = circuit.scores.abs() + 1000 * circuit.kept  # kept edges come first
    assert found.roc_auc == pytest.approx(roc_auc_score(reference.kept, ranks))
    both = len(set(reference) & set(circuit))
    assert (found.precision, found.recall) == (both / len(circuit), both / len(reference))
    top = set(circuit.top(len(reference)))
    assert found.at_size == len(top & set(reference)) / len(reference)


def test_precision_and_recall_of_a_ranking_are_those_of_its_top_edges() -> None:
    reference, circuit = random_circuit(TINY, 3, density=0.3), ranking(TINY)
    found = compute_agreement(circuit, reference)
    wanted = len(set(circuit.top(len(reference))) & set(reference)) / len(reference)
    assert 0 < wanted < 1
    assert (found.precision, found.recall, found.at_size) == (wanted, wanted, wanted)


def test_a_circuit_agrees_with_itself_and_an_empty_one_with_none() -> None:
    reference = Circuit.from_names(TINY, ["input->a0.h1<q>", "a0.h1->m1", "m1->logits"])
    assert compute_agreement(reference, reference) == (1, 1, 1, 1, 1, 1)
    found = compute_agreement(reference.top(0), reference)
    assert isnan(found.precision)
    assert (found.recall, found.jaccard, found.at_size) == (0, 0, 1)


@pytest.mark.parametrize("kind", ["folder", ".json"])
@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (random_circuit(GROUPED, 0), "is of .*, not of"),
        (random_circuit(TINY, 0).top(0), "keeps no edge"),
        (random_circuit(TINY, 0).top(len(TINY)), "keeps every edge"),
    ],
    ids=["graph", "none", "all"],
)
def test_a_reference_that_says_nothing_is_refused(reference: Circuit, said: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"reference{kind}"
    if kind == "folder":
        reference.save(path)
    else:
        reference.to_eap_ig(path, d_model=8)
    with pytest.raises(UsageError, match=said):
        load_reference(path, TINY)


def test_what_is_no_reference_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a circuit")
    (tmp_path / "broken.json").write_text("{")
    for name, said in (("none", "There is no"), ("none.json", "There is no"), ("notes.txt", "is no reference circuit")):
        with pytest.raises(UsageError, match=f"{said}.*EAP-IG's .json or .pt file|{said}"):
            load_reference(tmp_path / name, TINY)
    for name in (".", "broken.json"):
        with pytest.raises(CircuitKitError, match=r"circuit\.json|broken\.json"):
            load_reference(tmp_path / name, TINY)
