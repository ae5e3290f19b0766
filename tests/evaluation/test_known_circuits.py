"""Known circuits: the published ones have the published numbers of edges, and each is offered for its model only."""

from dataclasses import replace
from pathlib import Path

import pytest

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.errors import UsageError
from circuitkit.evaluation.known_circuits import describe_known, list_known, load_known
from circuitkit.evaluation.reference import load_reference

GPT2 = EdgeGraph(12, 12, 12)
ATTN_ONLY = EdgeGraph(4, 8, 8, mlps=False)
REVERSE, FRAC_PREVS = EdgeGraph(4, 1, 1, positions="writer"), EdgeGraph(2, 1, 1, positions="writer")
PUBLISHED = {"ioi-gpt2": (GPT2, "gpt2", 1041), "greater-than-gpt2": (GPT2, "gpt2", 262),
             "docstring-attn-only-4l": (ATTN_ONLY, "attn-only-4l", 37)}  # fmt: skip
OWN = {name: (graph, model) for name, (graph, model, _) in PUBLISHED.items()} | {
    f"tracr-{program}-{ablation}": (graph, f"tracr-{program}")
    for program, graph in (("reverse", REVERSE), ("frac-prevs", FRAC_PREVS))
    for ablation in ("zero", "resample")
}
"""Each known circuit's graph and model."""
SOURCES = {"ioi-gpt2": "arXiv 2211.00593", "greater-than-gpt2": "arXiv 2305.00586",
           "docstring-attn-only-4l": "Heimersheim and Janiak 2023", "tracr-reverse": "arXiv 2301.05062",
           "tracr-frac-prevs": "arXiv 2301.05062"}  # fmt: skip


def test_these_are_known() -> None:
    assert set(list_known()) == set(OWN)
    for name in OWN:
        assert SOURCES[name.removesuffix("-zero").removesuffix("-resample")] in describe_known(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_edges_is_the_published_one(name: str) -> None:
    """ACDC's authors also count an edge from every query, key and value that the circuit uses to its head."""
    graph, model, published = PUBLISHED[name]
    circuit = load_known(name, graph, model)
    inputs_of_heads = {edge.split("->")[1] for edge in circuit if "<" in edge}
    assert len(circuit) + len(inputs_of_heads) == published


@pytest.mark.parametrize("name", OWN)
def test_every_edge_is_on_a_path(name: str) -> None:
    circuit = load_known(name, *OWN[name])
    assert 0 < len(circuit) < len(circuit.graph)
    if not name.endswith("resample"):  # where not even the positions begin a path
        assert circuit.prune().names() == circuit.names()


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        (
            "ioi-gpt2",
            ["a8.h6->a9.h9<q>", "a5.h5->a8.h6<k>", "a3.h0->a7.h9<v>", "a4.h11->a5.h5<k>", "input->a9.h9<k>",
             "m0->a9.h9<q>", "a9.h9->m11", "a11.h10->logits"],
            ["input->a9.h9<q>", "a8.h6->a9.h9<k>", "a8.h6->logits", "a4.h11->a5.h5<q>", "a9.h9->a10.h0<q>",
             "input->a5.h5<q>", "a0.h0->logits"],
        ),
        (
            "greater-than-gpt2",
            ["input->a0.h3<q>", "a0.h1->m0", "a0.h5->a9.h1<v>", "m8->a9.h1<q>", "m3->a9.h1<k>", "a9.h1->m10",
             "m8->m11", "m4->m7", "m11->logits", "a5.h5->logits"],
            ["m4->a9.h1<k>", "a0.h3->m0", "m3->logits", "input->m4", "m3->m9", "a5.h5->m7"],
        ),
        (
            "docstring-attn-only-4l",
            ["a1.h4->a3.h0<q>", "a2.h0->a3.h6<k>", "a0.h5->a1.h4<v>", "input->a0.h5<v>"],
            ["a1.h2->a3.h0<q>", "a2.h0->logits", "input->a3.h0<q>"],
        ),
    ],
)  # fmt: skip
def test_edges_of_the_papers(name: str, inside: list[str], outside: list[str]) -> None:
    circuit = load_known(name, *OWN[name])
    assert [edge for edge in inside if edge not in circuit] == []
    assert [edge for edge in outside if edge in circuit] == []


def test_positions_are_a_writer_or_not() -> None:
    writer = replace(GPT2, positions="writer")
    both, one = load_known("ioi-gpt2", writer, "gpt2"), load_known("ioi-gpt2", GPT2, "gpt2")
    positions = {edge.replace("input->", "positions->") for edge in one if edge.startswith("input->")}
    assert set(both) == set(one) | positions
    without = load_known("tracr-reverse-zero", replace(REVERSE, positions="constant"), "tracr-reverse")
    every = load_known("tracr-reverse-zero", REVERSE, "tracr-reverse")
    assert set(without) == {edge for edge in every if not edge.startswith("positions->")}


@pytest.mark.parametrize(
    ("graph", "model", "said"),
    [
        (EdgeGraph(3, 4, 4), "gpt2", r"is of gpt2, EdgeGraph\(layers=12.*this model has EdgeGraph\(layers=3"),
        (GPT2, "distilled/gpt2-finetuned", r"is of gpt2, not of 'distilled/gpt2-finetuned'"),
        (GPT2, "gpt2/finetuned", "is of gpt2, not of 'gpt2/finetuned'"),
        (GPT2, None, "is of gpt2, not of None"),
    ],
)
def test_a_circuit_is_offered_for_its_model_only(graph: EdgeGraph, model: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_known("ioi-gpt2", graph, model)


@pytest.mark.parametrize(
    "model", ["gpt2", "openai-community/gpt2", "/models/GPT2", "/hub/models--openai-community--gpt2/snapshots/607a"]
)
def test_a_reference_can_be_given_by_name(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_reference("ioi-gpt2", GPT2, model) == load_known("ioi-gpt2", GPT2, model)
    monkeypatch.chdir(tmp_path)
    mine = Circuit.from_names(GPT2, ["m0->logits"])
    mine.save("ioi-gpt2")
    assert load_reference("ioi-gpt2", GPT2, model) == mine  # a folder of that name comes first
    with pytest.raises(UsageError, match=r"There is no known circuit 'ioi'.*ioi-gpt2"):
        load_known("ioi", GPT2, model)
    with pytest.raises(UsageError, match=r"There is no 'ioi'.*ioi-gpt2"):
        load_reference("ioi", GPT2, model)
