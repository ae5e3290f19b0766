"""ACDC on the toy model: both editors over ten thresholds, and what a search counts."""

import pytest
import torch

from circuitkit import CircuitModel, Discoverer
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.errors import CircuitKitError

THRESHOLDS = torch.logspace(-2.5, 0, 10, dtype=torch.float64).tolist()
"""From 0.003 to 1, evenly spaced in their logarithm."""


@pytest.fixture(scope="module")
def toy():
    return CircuitModel.from_pretrained("toy", dtype="float64")


def found(model, **arguments):
    spec = {"class_path": "acdc", "init_args": arguments}
    return Discoverer("cpu", callbacks=[]).run(model, "ioi", spec, examples=4, sizes=[])


@pytest.mark.parametrize("absolute", [False, True])
def test_both_editors_decide_and_score_alike_at_ten_thresholds(toy, absolute):
    thresholds = THRESHOLDS[absolute::2]
    fast, slow = (
        found(toy, threshold=thresholds, absolute=absolute, editor=editor) for editor in ("incremental", "replay")
    )
    assert len(fast.circuits) == len(thresholds) == 5
    for one, other in zip(fast.circuits, slow.circuits, strict=True):
        assert torch.equal(one.kept, other.kept)
        assert torch.equal(one.score_sources, other.score_sources)
        assert torch.allclose(one.scores, other.scores, atol=1e-9)
    sizes = [len(circuit) for circuit in fast.circuits]
    assert sizes[0] > sizes[-1]
    assert len(set(sizes)) > 3
    assert fast.metrics["edges_tested"] == slow.metrics["edges_tested"] > 0
    assert fast.metrics["smallest_gap"] == pytest.approx(slow.metrics["smallest_gap"], abs=1e-9)


def test_counts_of_an_incremental_search_add_up_over_thresholds(toy):
    parts = [found(toy, threshold=threshold).metrics for threshold in (0.1, 0.5)]
    whole = found(toy, threshold=[0.1, 0.5])
    for name in ("edges_tested", "hypotheses", "gradients", "forward_equivalents"):
        assert whole.metrics[name] == pytest.approx(sum(part[name] for part in parts))
    assert whole.metrics["forward_equivalents"] > 0
    for name in ("captures_mb", "live_mb", "cone_mb"):
        assert whole.metrics[name] == max(part[name] for part in parts) > 0
    assert "compute equal to" in str(whole)
    assert "tested together" not in str(whole)


def test_replay_computes_more_and_holds_captures_only(toy):
    fast, slow = (found(toy, threshold=0.5, editor=editor).metrics for editor in ("incremental", "replay"))
    assert slow["edges_tested"] == fast["edges_tested"] > 0
    assert slow["forward_equivalents"] > fast["forward_equivalents"] > 0
    assert slow["captures_mb"] > 0
    assert not {"live_mb", "cone_mb"} & set(slow)


def test_a_screened_search_reports_its_joint_tests(toy):
    result = found(toy, threshold=0.2, screen=0.5, absolute=True)
    assert result.metrics["joint_tests"] > 0
    assert ScoreSource.ESTIMATED in result.circuit.score_sources
    assert f"{result.metrics['joint_tests']:,} groups of edges tested together" in str(result)


def test_a_raced_search_reports_its_prompts_per_decision(toy, monkeypatch):
    monkeypatch.setattr("circuitkit.engine.search.racing.AUDITS", 3)
    spec = {"class_path": "acdc", "init_args": {"threshold": [0.2, 0.5], "race": 2.0, "race_start": 4}}
    metrics = Discoverer("cpu", callbacks=[]).run(toy, "ioi", spec, examples=16, sizes=[]).metrics
    assert metrics["race_decisions"] == metrics["edges_tested"]
    assert metrics["prompts_per_decision"] == metrics["race_prompts"] / metrics["race_decisions"]
    assert 4 < metrics["prompts_per_decision"] < 10
    assert 0 < metrics["race_escalated"] < metrics["race_decisions"]
    assert metrics["race_audited"] == 6, "of two searches"
    assert metrics["race_flip_rate_low"] <= metrics["race_flip_rate"] <= metrics["race_flip_rate_high"]


def test_racing_for_ever_is_the_plain_search_also_screened(toy):
    plain, raced = (found(toy, threshold=0.2, screen=0.5, race=race).circuit for race in (None, float("inf")))
    assert torch.equal(plain.kept, raced.kept)
    assert torch.equal(plain.score_sources, raced.score_sources)
    assert torch.allclose(plain.scores, raced.scores, atol=1e-12)


def test_editors_of_stages_share_the_memory_budget(toy):
    spec = {"class_path": "acdc", "init_args": {"threshold": 0.5, "race": 2.0, "race_start": 4}}
    with pytest.raises(CircuitKitError, match="prompts need at least"):
        Discoverer("cpu", callbacks=[], memory_budget="8MB").run(toy, "ioi", spec, examples=16, sizes=[])
    Discoverer("cpu", callbacks=[], memory_budget="8MB").run(toy, "ioi", spec, examples=4, sizes=[])
