"""Runs whose search starts from a proposal: interrupted and resumed, for a faithfulness, and predicted."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from circuitkit import CircuitModel, Discoverer
from circuitkit.engine.memory import Need
from circuitkit.engine.search import cost_estimate
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.run.result import Result
from circuitkit.strategies import ACDC, EAP, EAPIG, EdgePatching, EdgePruning, Ensemble, Stable

PROPOSAL = {"class_path": "edge_pruning", "init_args": {"target": 0.5, "trainer": {"max_steps": 6}}}
SPEC = {
    "class_path": "acdc",
    "init_args": {"threshold": [0.02, 0.3], "absolute": True, "start": PROPOSAL, "start_size": 0.4, "rising": True},
}
EXACT = ("edges_tested", "smallest_gap", "forward_equivalents", "proposal_edges", "captures_mb", "cone_mb")


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)


class Interrupt:
    """Counts reports of progress by unit, and interrupts at one of them, as Ctrl-C would."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.seen: list[str] = []

    def on_progress(self, run: Any, done: int, total: int, unit: str, shown: Any) -> None:
        self.seen.append(unit)
        if len(self.seen) == self.at:
            raise KeyboardInterrupt


def run(model: CircuitModel, strategy: Any, *callbacks: Any, budget: int | None = None, **options: Any) -> Result:
    discoverer = Discoverer("cpu", callbacks=list(callbacks), memory_budget=budget)
    return discoverer.run(model, "ioi", strategy, **{"examples": 6, "sizes": (), **options})


def assert_same(found: Result, whole: Result) -> None:
    assert len(found.circuits) == len(whole.circuits)
    for one, other in zip(found.circuits, whole.circuits, strict=True):
        for name in ("scores", "kept", "score_sources"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in EXACT:
        assert found.metrics[name] == whole.metrics[name], name
    assert found.metrics["proposal"].keys() == whole.metrics["proposal"].keys()


def rows(result: Result, name: str) -> list[Any]:
    return [row[name] for row in result.history if row.get(name) not in (None, "")]


def test_an_interrupted_run_resumes_in_the_proposal_and_in_the_search(
    model: CircuitModel, tmp_path: Path, save_always: None
) -> None:
    counter = Interrupt()
    whole = run(model, SPEC, counter)
    steps, edges = counter.seen.count("steps"), counter.seen.count("edges")
    assert steps == 6
    for at in (3, steps + 1, steps + edges // 2):
        folder, rest = tmp_path / str(at), Interrupt()
        with pytest.raises(KeyboardInterrupt):
            run(model, SPEC, Interrupt(at), out=folder)
        resumed = run(model, SPEC, rest, out=folder, resume=True)
        assert_same(resumed, whole)
        # A report comes before its state is saved
        assert len(rest.seen) == steps + edges - (at - 1)
        metrics = resumed.metrics
        assert metrics["wall_s"] >= metrics["proposal_s"] > 0
        assert metrics["wall_s"] >= metrics["proposal_s"] + metrics["search_s"] - 0.01
        assert [note for note in resumed.notes if "interrupted and resumed once" in note]
        assert not [note for note in resumed.notes if "memory budget" in note]
        for name in ("steps", "edges", "proposal_edges"):
            assert rows(resumed, name) == rows(whole, name) != []


def from_folder(folder: Path, wrap: str = "alone") -> Any:
    strategy = ACDC(0.05, start=str(folder), start_size=0.3)
    if wrap == "alone":
        return strategy
    return Stable(strategy, samples=5) if wrap == "stable" else Ensemble([strategy, "random_edges"])


@pytest.mark.parametrize("wrap", ["alone", "stable", "ensemble"])
def test_a_run_from_a_folder_is_identified_by_its_circuit(
    wrap: str, model: CircuitModel, tmp_path: Path, save_always: None
) -> None:
    """A resumed run refuses another circuit, and needs no folder that it has read."""
    run(model, "eap", out=tmp_path / "eap")
    strategy = from_folder(tmp_path / "eap", wrap)
    whole = run(model, strategy, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(model, strategy, Interrupt(5), out=tmp_path / "run")
    (tmp_path / "eap").rename(tmp_path / "kept")
    run(model, "random_edges", out=tmp_path / "eap")
    for folder in ("whole", "run"):
        options: dict[str, Any] = {"out": tmp_path / folder, "resume": True}
        with pytest.raises(UsageError, match=f"{folder}' was made with another circuit to start from"):
            run(model, strategy, **options)
        with pytest.raises(UsageError, match="was made with another circuit to start from"):
            Discoverer("cpu", callbacks=[]).dry_run(model, "ioi", strategy, examples=6, sizes=(), **options)
    shutil.rmtree(tmp_path / "eap")
    if wrap == "stable":  # every search reads it anew
        with pytest.raises(UsageError, match=r"eap' is no folder with a circuit \(circuit.json\)"):
            run(model, strategy, out=tmp_path / "run", resume=True)
        (tmp_path / "kept").rename(tmp_path / "eap")
    for folder in ("whole", "run"):
        resumed = run(model, strategy, out=tmp_path / folder, resume=True)
        assert torch.equal(resumed.circuit.scores, whole.circuit.scores)


def test_a_run_recorded_without_its_starting_circuit_can_be_resumed(
    model: CircuitModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, "eap", out=tmp_path / "eap")
    with monkeypatch.context() as patch:
        patch.setattr(ACDC, "starting_folders", [])
        run(model, from_folder(tmp_path / "eap"), out=tmp_path / "run")
    assert run(model, from_folder(tmp_path / "eap"), out=tmp_path / "run", resume=True).circuit


@pytest.mark.parametrize("given", [None, 400_000_000])
def test_another_memory_budget_holds_for_proposal_and_search(
    given: int | None, model: CircuitModel, tmp_path: Path, save_always: None
) -> None:
    """A machine with other free memory keeps the saved budget; one that the user gives replaces it."""
    budgets: list[int] = []

    class Watch:
        def on_progress(self, run: Any, *_: Any) -> None:
            budgets.append(run.memory_budget)

    with pytest.raises(KeyboardInterrupt):
        run(model, SPEC, Interrupt(3), budget=500_000_000, out=tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitkit.engine.memory.free_bytes", lambda *_: 10**9 * 3)
        resumed = run(model, SPEC, Watch(), budget=given, out=tmp_path / "run", resume=True)
    assert set(budgets) == {given or 500_000_000}
    assert any("another memory budget" in note for note in resumed.notes) == (given is not None)


def test_memory_that_is_too_small_for_the_search_is_refused_before_the_proposal(model: CircuitModel) -> None:
    counter = Interrupt()
    with pytest.raises(CircuitKitError, match="6 prompts need at least"):
        run(model, ACDC(0.1, start="random_edges"), counter, budget=50_000)
    assert not counter.seen


def test_the_summary_says_the_time_of_proposal_and_search(model: CircuitModel) -> None:
    found = str(run(model, ACDC(0.1, start="eap", start_size=0.3), examples=4))
    assert re.search(r"Cost: .* s \([\d.]+ s for the proposal, [\d.]+ s for the search\)", found)
    assert "for the search" not in str(run(model, ACDC(5.0), examples=4))


# For a faithfulness


@pytest.mark.filterwarnings("ignore:No circuit reaches")
@pytest.mark.parametrize("at", [None, 2, 40])
def test_all_searches_for_a_faithfulness_start_from_one_proposal(
    at: int | None, model: CircuitModel, tmp_path: Path, save_always: None
) -> None:
    """Also of a run that is interrupted in the proposal or in a later search."""
    strategy = ACDC(0.1, start=EdgePruning(0.5, trainer={"max_steps": 6}))
    counter, options = Interrupt(), {"faithfulness": 0.6, "examples": 4}
    if at is not None:
        with pytest.raises(KeyboardInterrupt):
            run(model, strategy, Interrupt(at), out=tmp_path / "run", **options)
    found = run(model, strategy, counter, out=tmp_path / "run", resume=at is not None, **options)
    tried, metrics = found.metrics["operating_points"], found.metrics
    assert len(tried) > 1
    assert counter.seen.count("steps") == {None: 6, 2: 5, 40: 0}[at]
    assert metrics["wall_s"] == pytest.approx(metrics["proposal_s"] + sum(row["wall_s"] for row in tried))
    assert metrics["search_s"] < metrics["wall_s"]
    chosen = next(row for row in tried if row["edges"] == len(found.circuit))
    alone = run(model, strategy.at(chosen["threshold"]), examples=4)
    assert torch.equal(alone.circuit.kept, found.circuit.kept)
    assert torch.equal(alone.circuit.scores, found.circuit.scores)
    assert alone.metrics["proposal_edges"] == metrics["proposal_edges"]
    assert not [note for note in found.notes if "given in Python" in note]


def test_a_ranking_for_a_faithfulness_starts_from_a_proposal_too(model: CircuitModel) -> None:
    strategy = EdgePatching(start=EAPIG(steps=2), start_size=0.5)
    found = run(model, strategy, faithfulness=0.5, examples=4)
    alone = run(model, strategy, examples=4)
    assert torch.equal(found.circuit.scores, alone.circuit.scores)
    assert found.metrics["proposal_s"] > 0


def test_a_proposal_of_several_circuits_is_refused(model: CircuitModel, monkeypatch: pytest.MonkeyPatch) -> None:
    proposal = EdgePruning(0.5, trainer={"max_steps": 2})
    found = run(model, "eap", examples=4).circuit.top(9)
    monkeypatch.setattr(EdgePruning, "discover", lambda self, run: [found, found])
    options: dict[str, Any]
    for options in ({}, {"faithfulness": 0.6}):
        with pytest.raises(UsageError, match="EdgePruning finds 2 circuits"):
            run(model, ACDC(0.1, start=proposal), examples=4, **options)


# Predicted


def predict(model: CircuitModel, strategy: Any) -> Any:
    return Discoverer("cpu", callbacks=[]).dry_run(model, "ioi", strategy, examples=4)


def test_a_dry_run_counts_the_tests_of_the_starting_circuit(model: CircuitModel) -> None:
    ranking = run(model, "eap", examples=4).circuit
    start = ranking.top(40).prune()
    notes = " ".join(predict(model, ACDC(0.1, start=start)).estimate.notes)
    assert f"starts from {len(start):,} edges" in notes
    assert f"upper bound: {len(start):,} tests that take as long as in the starting circuit" in notes
    tiny = predict(model, ACDC(0.1, start=ranking.top(12).prune())).estimate
    few = int(re.search(r"for a circuit of (\d+) edges", " ".join(tiny.notes))[1])
    assert 0 < few <= len(ranking.top(12).prune()) // 4 + 1
    assumed = " ".join(predict(model, ACDC(0.1, start="eap", start_size=0.2)).estimate.notes)
    assert f"assumed to start from {round(0.2 * len(model.graph))} edges (20%)" in assumed
    pruned = " ".join(predict(model, ACDC(0.1, start=EdgePruning(0.9))).estimate.notes)
    assert f"assumed to start from {round(0.1 * len(model.graph))} edges (10%)" in pruned


def test_a_dry_run_adds_up_the_times_of_proposal_and_search(
    model: CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EAPIG, "estimate_cost", lambda self, run: CostEstimate(search_s=(100.0, 200.0), notes=("Eh.",)))
    search = predict(model, ACDC(0.1, start="eap", start_size=0.2))
    both = predict(model, ACDC(0.1, start=EAPIG(), start_size=0.2))
    assert search.estimate.search_s[1] < 50
    assert 100 < both.estimate.search_s[0] < 150
    assert 200 < both.estimate.search_s[1] < 250
    assert any("are for the proposal, EAPIG()" in note for note in both.estimate.notes)
    assert "Proposal: Eh." in both.estimate.notes
    unknown = predict(model, ACDC(0.1, start=EdgePruning(0.9)))
    assert any("time of the proposal, EdgePruning(), is not known" in note for note in unknown.estimate.notes)


def test_a_dry_run_needs_the_larger_memory_of_proposal_and_search(
    model: CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = predict(model, ACDC(0.1, start="eap", start_size=0.2))
    for size in (1, 10**8):
        monkeypatch.setattr(EAPIG, "footprint", lambda self, run, size=size: Need({"captures": size}))
        both = predict(model, ACDC(0.1, start=EAPIG(), start_size=0.2))
        assert both.parts == (search.parts if size == 1 else {"captures": 4 * size})
        assert both.peak[1] == pytest.approx(max(search.peak[1], 4 * size), rel=0.05)


NESTED = ACDC(0.1, start=EAPIG(), start_size=0.2)


@pytest.mark.parametrize(
    ("strategy", "acdc", "ig", "eap"),
    [
        (Stable(NESTED, samples=6), 3, 3, 0),  # six searches on half of the prompts
        (Stable(NESTED, samples=6, vary=["prompts", "order"]), 9, 9, 0),
        (Ensemble([NESTED, "eap"]), 1, 1, 1),
        (ACDC(0.1, start=ACDC(0.2, start=EAPIG())), 2, 1, 0),
        (Stable(Ensemble([NESTED, "eap"]), samples=6, size=0.1), 3, 3, 3),
    ],
    ids=["stable", "stable over two", "ensemble", "proposal", "stable ensemble"],
)
def test_a_dry_run_counts_the_proposals_within_other_strategies(
    strategy: Any, acdc: int, ig: int, eap: int, model: CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one, seconds in ((ACDC, 1.0), (EAPIG, 100.0), (EAP, 10_000.0)):
        found = CostEstimate(search_s=(seconds, 2 * seconds))
        monkeypatch.setattr(one, "estimate_cost", lambda self, run, found=found: found)
    monkeypatch.setattr(EAPIG, "footprint", lambda self, run: Need({"captures": 10**8}))
    planned = predict(model, strategy)
    seconds = acdc + 100 * ig + 10_000 * eap
    assert planned.estimate.search_s == (pytest.approx(seconds), pytest.approx(2 * seconds))
    assert planned.parts == {"captures": 4 * 10**8}
    assert planned.peak[1] >= 4 * 10**8


def test_the_memory_of_an_ensemble_is_that_of_the_member_with_the_highest_peak(
    model: CircuitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the one that would need most if all prompts were in one batch."""
    monkeypatch.setattr(EAP, "footprint", lambda self, run: Need(held={"captures": 3 * 10**7}))
    monkeypatch.setattr(EAPIG, "footprint", lambda self, run: Need(working={"autograd": 9 * 10**7}))
    discoverer = Discoverer("cpu", callbacks=[], memory_budget=15 * 10**7)
    found = discoverer.dry_run(model, "ioi", Ensemble(["eap_ig", "eap"]), examples=4)
    assert found.parts == {"captures": 12 * 10**7}


def test_a_dry_run_says_which_member_has_no_estimate(model: CircuitModel) -> None:
    found = predict(model, Ensemble(["eap", EdgePruning(0.9)]))
    assert found.estimate.search_s is None
    assert "The time of EdgePruning() is not known." in " ".join(found.estimate.notes)


@pytest.mark.parametrize("strategy", [Stable(EAP(), size=0.1), ACDC(0.1, start=EAP()), Ensemble(["eap_ig", "eap"])])
def test_a_dry_run_refuses_what_a_search_within_would_refuse(strategy: Any, model: CircuitModel) -> None:
    with pytest.raises(UsageError, match="would score every edge zero"):
        Discoverer("cpu", callbacks=[]).dry_run(model, "ioi", strategy, objective="kl", examples=4)


def test_rising_thresholds_take_at_least_the_first_search_and_at_most_all(model: CircuitModel) -> None:
    seen: list[tuple[int, int]] = []
    estimate = cost_estimate.estimate_search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitkit.strategies.acdc.estimate_search", lambda make, n: seen.append(n) or estimate(make, n))
        predict(model, ACDC([0.1, 0.2, 0.3]))
        found = predict(model, ACDC([0.1, 0.2, 0.3], rising=True))
    assert seen == [(3, 3), (1, 3)]
    assert any("first threshold alone" in note for note in found.estimate.notes)
