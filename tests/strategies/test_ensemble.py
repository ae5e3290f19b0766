"""Ensembles: combined scores against plain loops, and runs against their members' own runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.graphs import GROUPED, random_circuit

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config import specs
from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.eap import EAP
from circuitkit.strategies.eap_ig import EAPIG
from circuitkit.strategies.ensemble import Ensemble, combine_scores

IG = {"class_path": "eap_ig", "init_args": {"steps": 2}}


def run(strategy: Any, **more: Any) -> Result:
    discoverer = Discoverer("cpu", callbacks=more.pop("callbacks", []), seed=1)
    return discoverer.run("toy", "ioi", strategy, **{"examples": 4, "sizes": (), **more})


def slow_rank(circuit: Circuit) -> list[float]:
    """For every edge, count the edges that come after it; ties count half, and the edge itself once."""
    size = [(bool(kept), abs(float(score))) for kept, score in zip(circuit.kept, circuit.scores, strict=True)]
    ranks = []
    for one, score in zip(size, circuit.scores.tolist(), strict=True):
        after, ties = sum(other < one for other in size), sum(other == one for other in size)
        ranks.append((after + (ties + 1) / 2) / len(size) * ((score > 0) - (score < 0)))
    return ranks


@pytest.mark.parametrize("seed", range(3))
def test_combined_scores_are_those_of_plain_loops(seed: int) -> None:
    circuits = [random_circuit(GROUPED, 10 * seed + number, density) for number, density in enumerate((0.4, 1.0, 0.9))]
    tied = circuits[2].scores.round()
    circuits[2] = Circuit.from_scores(GROUPED, tied)
    assert (tied == 0).any()
    columns = [list(map(float, one)) for one in zip(*(circuit.scores.tolist() for circuit in circuits), strict=True)]
    for combine, take in (("mean", lambda x: sum(x) / 3), ("min", min), ("max", max)):
        assert combine_scores(circuits, combine).tolist() == pytest.approx(list(map(take, columns)), abs=1e-12)
    ranks = zip(*map(slow_rank, circuits), strict=True)
    assert combine_scores(circuits, "rank").tolist() == pytest.approx([sum(one) / 3 for one in ranks], abs=1e-12)


def test_the_first_edges_of_an_ensemble_of_one_ranking_with_itself_are_its_own() -> None:
    circuit = Circuit.from_scores(GROUPED, random_circuit(GROUPED).scores)
    again = Circuit.from_scores(GROUPED, combine_scores([circuit, circuit], "rank"))
    assert torch.equal(again.ranking(), circuit.ranking())


def test_a_run_combines_what_its_members_find_alone_and_logs_the_cost_of_each() -> None:
    pruning = {"class_path": "edge_pruning", "init_args": {"target": 0.5, "trainer": {"max_steps": 3}}}
    members = ["eap", IG, pruning]
    alone = [run(member).circuit for member in members]
    result = run({"class_path": "ensemble", "init_args": {"strategies": members}})
    assert torch.equal(result.circuit.scores, combine_scores(alone, "rank"))
    assert result.circuit.is_ranking
    assert bool((result.circuit.score_sources == ScoreSource.GIVEN).all())
    rows = result.metrics["members"]
    assert [row["strategy"] for row in rows] == ["EAP()", "EAPIG(steps=2)", repr(specs.make("strategies", pruning))]
    assert all(row["wall_s"] > 0 for row in rows)
    assert rows[2]["steps"] == 3
    assert sum(row["wall_s"] for row in rows) <= result.metrics["wall_s"]
    assert result.score_intervals is None


@pytest.mark.parametrize("combine", ["mean", "min", "max"])
def test_estimates_of_one_effect_are_combined_to_an_estimate(combine: Any) -> None:
    found = run(Ensemble([EAP(), EAPIG(steps=2)], combine)).circuit
    assert torch.equal(found.scores, combine_scores([run("eap").circuit, run(IG).circuit], combine))
    assert bool((found.score_sources == ScoreSource.ESTIMATED).all())


class Interrupt:
    def __init__(self, at: int) -> None:
        self.left = at

    def on_progress(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_resumed_run_reads_finished_members_and_continues_the_interrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    search = {"class_path": "acdc", "init_args": {"threshold": 0.1, "absolute": True}}
    strategy = {"class_path": "ensemble", "init_args": {"strategies": ["eap", search]}}
    whole = run(strategy)
    with pytest.raises(KeyboardInterrupt):
        run(strategy, out=tmp_path / "run", callbacks=[Interrupt(10)])  # in the search, which began with the second
    with monkeypatch.context() as patch:
        patch.setattr("circuitkit.strategies.discovery.attribute_prompts", None)  # EAP is not run again
        resumed = run(strategy, out=tmp_path / "run", resume=True)
    assert torch.equal(resumed.circuit.scores, whole.circuit.scores)
    counted = [[row.get("edges_tested") for row in result.metrics["members"]] for result in (whole, resumed)]
    assert counted[0] == counted[1]
    assert Result.load(tmp_path / "run").circuit == resumed.circuit


def test_objects_and_specs_make_one_configuration(tmp_path: Path) -> None:
    given = run(Ensemble([EAP(), EAPIG(steps=2)]), out=tmp_path / "run")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given.config["strategy"]))
    again = run(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    assert torch.equal(again.circuit.scores, given.circuit.scores)
    made = specs.make("strategies", specs.resolve("strategies", given.config["strategy"]))
    assert repr(made._members) == "[EAP(), EAPIG(steps=2)]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"strategies": ["eap"]}, "is no ensemble"),
        ({"strategies": "eap"}, "is no ensemble"),
        ({"strategies": ["eap", "eat"]}, "'eat'"),
        ({"strategies": ["eap", 3]}, "3 is no strategy"),
        ({"combine": "median"}, "combine='median' is unknown"),
        ({"strategies": ["eap", {"class_path": "acdc", "init_args": {"threshold": [0.1, 0.2]}}]}, "2 circuits"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Ensemble(**arguments)


def test_what_a_member_refuses_is_refused_before_any_member_runs() -> None:
    with pytest.raises(UsageError, match="EAP with the objective KLDivergence"):
        circuitkit.discover("toy", "ioi", Ensemble(["random_edges", "eap"]), objective="kl", examples=4)


def test_a_dry_run_adds_up_the_members_times() -> None:
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", Ensemble(["eap", IG]), examples=4)
    alone = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", IG, examples=4)
    assert found.parts == alone.parts
    assert found.estimate.search_s is not None
    assert alone.estimate.search_s is not None
