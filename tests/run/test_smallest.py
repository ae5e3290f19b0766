"""The smallest circuit with a given faithfulness on the validation split, in whole runs on the toy model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pages import DOCS
from support.tiny import random_batch

import circuitkit
from circuitkit import Circuit, CircuitModel, Discoverer, DiscoveryStrategy
from circuitkit.cli.main import main
from circuitkit.config import registry
from circuitkit.engine.processes import Processes
from circuitkit.errors import UsageError
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.run import resources
from circuitkit.run.result import Result
from circuitkit.run.smallest import _Validation
from circuitkit.strategies import ACDC, EdgePruning, SubnetworkProbing
from circuitkit.strategies.base import OperatingPoint
from circuitkit.strategies.discovery import Discovery

pytestmark = pytest.mark.filterwarnings("ignore:No circuit reaches")


@pytest.fixture(scope="module")
def model() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


@pytest.fixture(scope="module")
def scores(model: CircuitModel) -> torch.Tensor:
    """EAP's, by which the strategies below choose edges."""
    return find(model, "eap", faithfulness=None).circuit.scores


def find(model: CircuitModel, strategy: Any, **options: Any) -> Result:
    callbacks = options.pop("callbacks", [])
    options = {"examples": 8, "sizes": (), "faithfulness": 0.9, **options}
    return Discoverer("cpu", callbacks=callbacks).run(model, "ioi", strategy, **options)


def validate(model: CircuitModel, kept: torch.Tensor) -> float:
    """Measure faithfulness on validation, independently of a run."""
    circuit = Circuit(model.graph, kept.float(), kept, torch.zeros(len(kept), dtype=torch.int8))
    evaluation = circuitkit.evaluate(model, circuit, "ioi", sizes=(), examples=8, split="validation")
    (own,) = evaluation.curve("own")
    assert own.faithfulness is not None
    return own.faithfulness


class Sized(DiscoveryStrategy):
    """Keeps `edges / threshold` edges, the best by given scores; counts searches and may be interrupted."""

    operating_point = OperatingPoint("threshold")
    scores: torch.Tensor
    searched: list[float] = []  # noqa: RUF012
    interrupt_at = 0

    def __init__(self, threshold: float | Sequence[float] = 1.0, edges: int = 100) -> None:
        self.threshold, self.edges = threshold, edges

    def discover(self, run: Discovery) -> Circuit:
        assert isinstance(self.threshold, float)
        drawn = float(torch.rand(1, generator=run.generator, dtype=torch.float64))
        state = run.resumed or {"drawn": drawn}
        type(self).searched.append(self.threshold)
        run.report(1, 1, "searches")
        run.save(state)
        if len(self.searched) == type(self).interrupt_at:
            raise KeyboardInterrupt
        run.log(edges_tested=10, drawn=state["drawn"])
        n = min(round(self.edges / self.threshold), len(run.model.graph))
        return Circuit.from_scores(run.model.graph, self.scores).top(n).prune()


@pytest.fixture
def sized(scores: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> type[Sized]:
    monkeypatch.setattr(Sized, "scores", scores, raising=False)
    monkeypatch.setattr(Sized, "searched", [])
    monkeypatch.setattr(Sized, "interrupt_at", 0)
    return Sized


def test_a_ranking_is_cut_where_it_is_faithful_enough(model: CircuitModel) -> None:
    result = find(model, "eap", sizes=None)
    circuit, tried = result.circuit, result.metrics["operating_points"]
    assert not circuit.is_ranking
    best = min((row for row in tried if row["faithfulness"] >= 0.9), key=lambda row: row["edges"])
    n = best["edges_asked"]
    assert circuit.selection.startswith(f"top {n} by |score|, pruned; the smallest found with faithfulness 0.9 on")
    ranking = find(model, "eap", faithfulness=None).circuit
    assert torch.equal(circuit.kept, ranking.top(n).prune().kept)
    assert validate(model, circuit.kept) == pytest.approx(result.metrics["validation_faithfulness"], abs=1e-6)
    assert result.metrics["validation_faithfulness"] == best["faithfulness"] >= 0.9
    assert validate(model, ranking.top(n - 1).prune().kept) < 0.9
    assert set(result.evaluations) == {"train", "test"}
    assert result.config["faithfulness"] == 0.9
    assert result.metrics["validation_s"] > 0


@pytest.mark.parametrize(
    "strategy",
    [
        ACDC(0.1),
        ACDC([0.2, 5.0], absolute=True),
        EdgePruning(0.3, trainer={"max_steps": 3}),
        SubnetworkProbing(0.5, trainer={"max_steps": 3}),
    ],
    ids=repr,
)
def test_operating_points_are_searched(strategy: DiscoveryStrategy, model: CircuitModel) -> None:
    result = find(model, strategy, faithfulness=0.6, examples=4)
    tried, metrics = result.metrics["operating_points"], result.metrics
    assert strategy.operating_point is not None
    given = getattr(strategy, strategy.operating_point.argument)
    assert tried[0][strategy.operating_point.argument] == pytest.approx(given[0] if isinstance(given, list) else given)
    assert 1 < len(tried) <= 8
    assert metrics["wall_s"] == pytest.approx(sum(row["wall_s"] for row in tried))
    reached = [row for row in tried if row["faithfulness"] >= 0.6]
    best = min(reached, key=lambda row: row["edges"]) if reached else max(tried, key=lambda row: row["faithfulness"])
    assert len(result.circuits) == 1
    assert (len(result.circuit), metrics["validation_faithfulness"]) == (best["edges"], best["faithfulness"])
    # The same as a run at the operating point that was chosen
    alone = find(model, strategy.at(best[strategy.operating_point.argument]), faithfulness=None, examples=4)
    assert torch.equal(alone.circuit.kept, result.circuit.kept)
    assert result.circuit.selection.startswith(alone.circuit.selection)


def test_the_search_finds_the_known_answer_and_counts_all_searches(model: CircuitModel, sized: type[Sized]) -> None:
    result = find(model, sized(edges=30))
    assert [row["threshold"] for row in result.metrics["operating_points"]] == sized.searched
    least = max(
        t
        for t, row in zip(sized.searched, result.metrics["operating_points"], strict=True)
        if row["faithfulness"] >= 0.9
    )
    assert result.circuit.selection.endswith("the smallest found with faithfulness 0.9 on validation")
    failed = [
        t
        for t, row in zip(sized.searched, result.metrics["operating_points"], strict=True)
        if row["faithfulness"] < 0.9
    ]
    assert min(failed) / least < 1.1 or len(sized.searched) == 8
    assert result.metrics["edges_tested"] == 10 * len(sized.searched)


def test_none_reaches_it(model: CircuitModel, sized: type[Sized]) -> None:
    for strategy in (sized(), "random_edges"):
        result = find(model, strategy, faithfulness=3.0)
        best = max(row["faithfulness"] for row in result.metrics["operating_points"])
        assert result.metrics["validation_faithfulness"] == best < 3
        (note,) = (note for note in result.notes if "No circuit reaches" in note)
        assert f"the best has {best:z.2f}" in note
        assert ("start from another operating point" in note) == (strategy != "random_edges")
        assert result.circuit.selection.endswith("the most faithful one found on validation")


def test_a_circuit_that_falls_short_on_test_is_noted(model: CircuitModel) -> None:
    result = find(model, "eap", sizes=None, examples=(8, 2, 16), faithfulness=0.8)
    (own,) = result.evaluations["test"][0].curve("own")
    assert own.searched.faithfulness is not None
    high = own.searched.faithfulness.high
    noted = [note for note in result.notes if "was asked for" in note]
    assert high is not None
    assert len(noted) == (high < 0.8)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_resumed_run_finds_the_same_and_repeats_no_finished_search(
    at: int, model: CircuitModel, sized: type[Sized], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

        def on_progress(self, *_: Any) -> None:
            self.now += 1

    clock = Clock()
    monkeypatch.setattr(resources, "time", clock)
    whole = find(model, sized(edges=30), out=tmp_path / "whole", callbacks=[clock])
    searches = len(sized.searched)
    sized.searched.clear()
    monkeypatch.setattr(sized, "interrupt_at", at)
    with pytest.raises(KeyboardInterrupt) as caught:
        find(model, sized(edges=30), out=tmp_path / "run", callbacks=[clock])
    assert "--resume" in caught.value.__notes__[0]
    monkeypatch.setattr(sized, "interrupt_at", 0)
    resumed = find(model, sized(edges=30), out=tmp_path / "run", callbacks=[clock], resume=True)
    assert len(sized.searched) == searches + 1  # the interrupted one began twice
    assert resumed.circuit == whole.circuit
    for name in ("edges_tested", "drawn", "validation_faithfulness"):
        assert resumed.metrics[name] == whole.metrics[name]
    rows = [[{**row, "wall_s": 0} for row in found.metrics["operating_points"]] for found in (resumed, whole)]
    assert rows[0] == rows[1]
    assert any("interrupted and resumed once" in note for note in resumed.notes)
    assert resumed.metrics["wall_s"] == whole.metrics["wall_s"] + 1  # its progress came before its state
    assert not (tmp_path / "run" / "checkpoint").exists()
    again = find(model, sized(edges=30), out=tmp_path / "run", resume=True)
    assert again.circuit == whole.circuit
    with pytest.raises(UsageError, match=r"faithfulness 0\.9, not 0\.8"):
        find(model, sized(edges=30), out=tmp_path / "run", resume=True, faithfulness=0.8)


def test_a_trained_strategy_resumes_its_interrupted_training(
    model: CircuitModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    class Interrupt:
        left = 7

        def on_progress(self, *_: Any) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    class Count:
        steps = 0

        def on_progress(self, *_: Any) -> None:
            self.steps += 1

    spec = {"class_path": "edge_pruning", "init_args": {"target": 0.3, "trainer": {"max_steps": 4}}}
    whole = find(model, spec, examples=4)
    with pytest.raises(KeyboardInterrupt):
        find(model, spec, examples=4, out=tmp_path, callbacks=[Interrupt()])
    count = Count()
    resumed = find(model, spec, examples=4, out=tmp_path, callbacks=[count], resume=True)
    assert resumed.circuit == whole.circuit
    assert count.steps < 4 * (len(whole.metrics["operating_points"]) - 1)


class OwnSize(DiscoveryStrategy):
    """Chooses edges, and has no operating point."""

    def discover(self, run: Discovery) -> Circuit:
        return Circuit.from_names(run.model.graph, ["input->logits"])


@pytest.mark.parametrize(
    ("strategy", "options", "said"),
    [
        ("eap", {"faithfulness": 0}, "faithfulness=0 is not a positive number"),
        ("eap", {"faithfulness": float("nan")}, "faithfulness=nan is not a positive number"),
        ("eap", {"faithfulness": True}, "faithfulness=True is not a positive number"),
        ("eap", {"faithfulness": "high"}, "faithfulness='high' is not a positive number"),
        (ACDC(-0.1), {}, "threshold starts at -0.1.*positive value"),
        (ACDC([0.0, 1.0]), {}, "threshold starts at 0.*positive value"),
        (SubnetworkProbing(0), {}, "l0_weight starts at 0"),
        (OwnSize(), {}, r"OwnSize found Circuit.*Define `operating_point` in OwnSize"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    strategy: Any, options: dict[str, Any], said: str, model: CircuitModel
) -> None:
    with pytest.raises(UsageError, match=said):
        find(model, strategy, **options)


def test_a_batch_has_no_validation_split(model: CircuitModel) -> None:
    with pytest.raises(UsageError, match="validation split, which a PromptBatch does not have"):
        circuitkit.discover(model, random_batch(), "eap", faithfulness=0.9)


def test_undefined_faithfulness_is_refused_before_a_search(
    model: CircuitModel, sized: type[Sized], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "faithfulness", lambda *_: None)
    with pytest.raises(UsageError, match="equally well on the validation prompts"):
        find(model, sized())
    assert not sized.searched


def test_other_processes_take_the_figures_of_the_first(model: CircuitModel) -> None:
    class Second(Processes):
        rank, count = 1, 2

        def broadcast(self, value: Any) -> Any:
            return 0.625 if value is None else value

    class Run:
        processes = Second()

    measure = _Validation(Run(), None, None)  # type: ignore[arg-type]
    assert measure.of(Circuit.from_names(model.graph, [])) == 0.625


def test_a_dry_run_says_that_there_are_several_searches() -> None:
    discoverer = Discoverer("cpu", callbacks=[])
    several = [
        "up to 8 searches" in " ".join(discoverer.dry_run("toy", "ioi", strategy, examples=4, **options).notes)
        for strategy, options in (("acdc", {"faithfulness": 0.9}), ("acdc", {}), ("eap", {"faithfulness": 0.9}))
    ]
    assert several == [True, False, False]


def test_the_command_line_and_the_config_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["discover", "--model", "toy", "--task", "ioi", "--strategy", "eap", "--examples", "8"]
    out = str(tmp_path / "run")
    assert main([*command, "--faithfulness", "0.8", "--out", out]) == 0
    assert "the smallest found with faithfulness 0.8 on validation" in capsys.readouterr().out
    assert main(["discover", "--config", f"{out}/config.yaml", "--out", out, "--resume"]) == 0
    assert main([*command, "--faithfulness", "-1"]) == 2
    assert "faithfulness=-1.0 is not a positive number" in capsys.readouterr().err


def test_the_page_names_every_strategy_with_an_operating_point() -> None:
    page = (DOCS / "explanation" / "smallest_circuit.md").read_text().replace("-", " ").lower()
    points = {name: registry.load("strategies", name).operating_point for name in registry.names("strategies")}
    for name, argument in {name: point.argument for name, point in points.items() if point is not None}.items():
        assert name.replace("_", " ") in page
        assert f"`{argument}`" in page
