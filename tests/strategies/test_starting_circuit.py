"""Searches that start from a proposal, a run's circuit or a given one, and thresholds that rise."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.prepared import prepare
from support.tiny import random_batch, tiny

from circuitkit import Circuit, CircuitModel, Discoverer
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.cli.main import main
from circuitkit.config import specs
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.engine.search.rechecks import AUDITS
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.result import Result
from circuitkit.strategies import ACDC, EAPIG, EdgePatching, EdgePruning

pytestmark = pytest.mark.filterwarnings("ignore:The search started from a circuit given in Python")

MODEL, BATCH = tiny("llama", seed=3), random_batch(lengths=(6, 7, 5, 7))
GRAPH = MODEL.graph
TRAINED = EdgePruning(0.5, trainer={"max_steps": 4})


def run(strategy: Any, model: CircuitModel = MODEL, callbacks: Any = (), **options: Any) -> Result:
    options = {"sizes": (), "examples": 4, **options}
    return Discoverer("cpu", callbacks=list(callbacks), seed=3).run(model, BATCH, strategy, **options)


def some(seed: int = 0) -> Circuit:
    """Return a circuit of most of the edges, connected."""
    scores = torch.rand(len(GRAPH), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Circuit.from_scores(GRAPH, scores).top(round(0.8 * len(GRAPH))).prune()


def same(one: Circuit, other: Circuit) -> bool:
    names = ("scores", "kept", "score_sources")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


# What is searched


@pytest.mark.parametrize("editor", ["incremental", "replay"])
@pytest.mark.parametrize("more", [{}, {"absolute": True, "try_whole_reader": True}, {"screen": 0.5}], ids=str)
def test_a_start_from_all_edges_is_a_start_from_the_full_model(editor: Any, more: dict[str, Any]) -> None:
    everything = Circuit.from_scores(GRAPH, torch.rand(len(GRAPH), dtype=torch.float64)).top(len(GRAPH))
    plain, started = (run(ACDC(0.02, editor=editor, start=start, **more)).circuit for start in (None, everything))
    assert same(plain, started)
    assert 0 < len(plain) < len(GRAPH)


def test_only_edges_of_the_start_are_tested_and_both_editors_agree() -> None:
    start = some()
    fast, slow = (run(ACDC(0.02, start=start, editor=editor)) for editor in ("incremental", "replay"))
    assert torch.equal(fast.circuit.kept, slow.circuit.kept)
    assert torch.allclose(fast.circuit.scores, slow.circuit.scores, atol=1e-9)
    found = fast.circuit
    assert 0 < len(found) < len(start)
    assert not (found.kept & ~start.kept).any()
    assert not found.scores[~start.kept].any()
    assert (found.score_sources[~start.kept] == ScoreSource.GIVEN).all()
    assert (found.score_sources[start.kept] != ScoreSource.GIVEN).all()
    assert fast.metrics["proposal_edges"] == len(start)
    assert "proposal_s" not in fast.metrics


def test_edge_patching_removes_edges_of_the_start_alone() -> None:
    start = some()
    found = run(EdgePatching(start=start))
    editor = ReplayEditor([prepare(MODEL, BATCH)], start.kept)
    for reader in range(GRAPH.n_readers):
        edges = GRAPH.edges(reader)
        editor.open(reader)
        values = editor.values(torch.eye(edges.stop - edges.start, dtype=torch.bool))
        expected = (values[1:] - values[0]) * start.kept[edges]
        assert torch.allclose(found.circuit.scores[edges], expected, atol=1e-9)
    assert torch.equal(found.circuit.score_sources == ScoreSource.TESTED, start.kept)
    assert found.circuit.is_ranking
    assert found.metrics["edges_tested"] == len(start)
    everything = Circuit.from_scores(GRAPH, torch.rand(len(GRAPH), dtype=torch.float64)).top(len(GRAPH))
    assert same(run("edge_patching").circuit, run(EdgePatching(start=everything)).circuit)


# What it starts from


def test_a_strategy_a_folder_and_a_circuit_give_the_same_search(tmp_path: Path) -> None:
    proposed = run(TRAINED, out=tmp_path / "run").circuit
    expected = run(ACDC(0.02, start=proposed))
    for start in (TRAINED, specs.describe(TRAINED), str(tmp_path / "run")):
        found = run(ACDC(0.02, start=start))
        assert same(found.circuit, expected.circuit)
        assert found.metrics["proposal_edges"] == len(proposed.prune())
        assert ("proposal_s" in found.metrics) == (start != str(tmp_path / "run"))
    found = run(ACDC(0.02, start=TRAINED))
    metrics = found.metrics
    assert metrics["proposal"]["steps"] == 4
    assert metrics["proposal_s"] == metrics["proposal"]["wall_s"] > 0
    assert metrics["search_s"] > 0
    assert metrics["proposal_s"] + metrics["search_s"] == pytest.approx(metrics["wall_s"], abs=0.5)
    assert found.circuit.selection == "threshold 0.02, signed, from a proposal"


@pytest.mark.parametrize(("size", "expected"), [(None, 0.05), (0.3, 0.3)])
def test_a_ranking_is_cut_to_a_size(size: float | None, expected: float) -> None:
    model = CircuitModel.from_pretrained("toy")
    ranking = Discoverer("cpu", callbacks=[]).run(model, "ioi", "eap", examples=4, sizes=[]).circuit
    spec = {"class_path": "acdc", "init_args": {"threshold": -1e9, "start": "eap", "start_size": size}}
    found = Discoverer("cpu", callbacks=[]).run(model, "ioi", spec, examples=4, sizes=[])
    start = ranking.top(round(expected * len(model.graph))).prune()
    assert torch.equal(found.circuit.kept, start.kept)
    assert found.metrics["proposal_edges"] == len(start)


def test_a_size_takes_the_best_of_a_chosen_circuit() -> None:
    proposed = run(TRAINED).circuit
    found = run(ACDC(-1e9, start=TRAINED, start_size=0.2)).circuit
    assert torch.equal(found.kept, proposed.top(round(0.2 * len(GRAPH))).prune().kept)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"start": "eapp"}, "There is no strategy 'eapp'"),
        ({"start": 3}, "start=3 is neither a strategy nor a circuit"),
        ({"start": {"class_path": "eap_ig", "init_args": {"stepps": 2}}}, "There is no EAPIG argument 'stepps'"),
        ({"start": "eap", "start_size": 1.5}, "start_size=1.5 is not a fraction"),
        ({"start": "eap", "start_size": True}, "start_size=True is not a fraction"),
        ({"start_size": 0.1}, "start_size=0.1 has no circuit to take"),
        ({"start": ACDC([0.1, 0.2])}, "ACDC finds several circuits, one for each threshold"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], problem: str) -> None:
    for strategy in (ACDC, EdgePatching):
        with pytest.raises(UsageError) as error:
            strategy(**arguments)
        assert problem in str(error.value)


@pytest.mark.parametrize("thresholds", [[0.2, 0.1], [0.1, 0.1]])
def test_thresholds_that_do_not_rise_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(UsageError, match="does not rise"):
        ACDC(thresholds, rising=True)


def test_a_circuit_that_is_none_of_this_model_is_refused(tmp_path: Path) -> None:
    other = Circuit.from_scores(tiny("gpt2").graph, torch.rand(len(tiny("gpt2").graph), dtype=torch.float64))
    nothing = Circuit.from_names(GRAPH, [GRAPH.names[0]])
    several = run(ACDC([0.01, 0.1]), out=tmp_path / "several")
    assert len(several.circuits) == 2
    for start, problem in (
        (other.top(9), "is of another graph"),
        (nothing, "No path from the input to the logits"),
        (str(tmp_path / "none"), "is no folder with a circuit"),
        (str(tmp_path / "several"), "found several circuits"),
    ):
        with pytest.raises(CircuitKitError, match=problem):
            run(ACDC(0.1, start=start))


# Rising thresholds


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (None, {}),
        (some(), {"screen": 0.5, "absolute": True}),
        (some(), {"try_whole_reader": True, "order": "normal"}),
    ],
    ids=str,
)
def test_rising_thresholds_are_searches_one_from_the_other(start: Circuit | None, more: dict[str, Any]) -> None:
    thresholds = [0.002, 0.01, 0.03]
    rising = run(ACDC(thresholds, rising=True, start=start, **more))
    counts: dict[str, float] = {}
    before: Circuit | None = None
    for threshold, found in zip(thresholds, rising.circuits, strict=True):
        alone = run(ACDC(threshold, start=start if before is None else before, **more))
        for name in ("edges_tested", "hypotheses", "gradients"):
            counts[name] = counts.get(name, 0) + alone.metrics[name]
        assert torch.equal(found.kept, alone.circuit.kept)
        inside = torch.ones_like(found.kept) if before is None else before.prune().kept
        assert torch.equal(found.scores[inside], alone.circuit.scores[inside])
        assert torch.equal(found.score_sources[inside], alone.circuit.score_sources[inside])
        if before is not None:
            assert torch.equal(found.scores[~inside], before.scores[~inside])
            assert torch.equal(found.score_sources[~inside], before.score_sources[~inside])
        before = found
    assert {name: rising.metrics[name] for name in counts} == counts
    sizes = [len(circuit) for circuit in rising.circuits]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_nothing_is_left_to_search_above_a_threshold_that_removes_everything() -> None:
    found = run(ACDC([0.02, 1e9, 2e9], rising=True))
    assert [bool(circuit.kept.any()) for circuit in found.circuits] == [True, False, False]
    assert torch.equal(found.circuits[1].scores, found.circuits[2].scores)


# Precision


def test_the_audit_is_spread_over_the_edges_of_the_start() -> None:
    seen: list[tuple[int, int, int]] = []

    class Watch:
        def on_reader_end(self, run: Any, search: GreedySearch) -> None:
            assert search.rechecks is not None
            seen.append((search.done, search.edges, search.rechecks.audited))

    start = some()
    run(ACDC(0.02, start=start), callbacks=[Watch()], precision=PAHQ("bf16"))
    assert {edges for _, edges, _ in seen} == {len(start)}
    assert seen[-1][0] == len(start)
    assert all(audited <= AUDITS * done / edges + 1 for done, edges, audited in seen)
    assert seen[-1][2] > 9


# Configurations


FORMS: list[Any] = [
    "eap_ig",
    "EAPIG",
    "circuitkit.strategies.EAPIG",
    {"class_path": "eap_ig"},
    {"class_path": "EAPIG", "init_args": {"steps": 5}},
    EAPIG(),
]


def test_every_form_of_a_start_has_the_same_configuration_and_is_made_again_from_it() -> None:
    resolved = [
        specs.resolve("strategies", {"class_path": "acdc", "init_args": {"start": form}})
        for form in FORMS
        if not isinstance(form, EAPIG)
    ]
    resolved += [specs.describe(ACDC(start=form)) for form in FORMS]
    assert all(one == resolved[0] for one in resolved)
    made = specs.make("strategies", resolved[0])
    assert isinstance(made.start, EAPIG)
    assert repr(made) == repr(ACDC(start=EAPIG())) == "ACDC(start=EAPIG())"
    assert specs.describe(made) == resolved[0]


def test_the_command_line_and_config_files_take_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fixed = ["--model", "toy", "--task", "ioi", "--examples", "4", "--sizes", "[]"]
    acdc = [*fixed, "--strategy", "acdc", "--strategy.threshold", "0.1", "--strategy.start_size", "0.3"]
    assert main(["discover", *acdc, "--strategy.start", "eap_ig", "--out", "name"]) == 0
    inline = '{"class_path": "eap_ig", "init_args": {"steps": 5}}'
    assert main(["discover", *acdc, "--strategy.start", inline, "--out", "inline"]) == 0
    assert main(["discover", "--config", "name/config.yaml", "--out", "again"]) == 0
    Path("short.yaml").write_text(
        "strategy: {class_path: acdc, init_args: {threshold: 0.1, start_size: 0.3, start: {class_path: eap_ig}}}\n"
    )
    assert main(["discover", *fixed, "--config", "short.yaml", "--out", "short"]) == 0
    assert main(["discover", *acdc[:-2], "--strategy.start", "./name", "--out", "folder"]) == 0
    first = Result.load("name")
    for name in ("inline", "again", "short"):
        other = Result.load(name)
        assert other.config["strategy"] == first.config["strategy"]
        assert same(other.circuit, first.circuit)
    assert Result.load("folder").config["strategy"]["init_args"]["start"] == "./name"
    assert len(Result.load("folder").circuit) <= len(first.circuit)


def test_a_circuit_given_in_python_is_told_apart_by_its_content(tmp_path: Path) -> None:
    found = run(ACDC(0.02, start=some()), out=tmp_path / "run")
    assert any("given in Python" in note for note in found.notes)
    assert found.config["strategy"]["init_args"]["start"] == some().to_spec() != some(1).to_spec()
    assert same(run(ACDC(0.02, start=some()), out=tmp_path / "run", resume=True).circuit, found.circuit)
    with pytest.raises(UsageError, match=r"strategy.init_args.start 'Circuit \w+', not 'Circuit"):
        run(ACDC(0.02, start=some(1)), out=tmp_path / "run", resume=True)


def test_what_an_unknown_configuration_starts_from_must_be_registered() -> None:
    inner = {"class_path": "eap_ig", "init_args": {"steps": 2}}
    found = specs.restrict("strategies", {"class_path": "acdc", "init_args": {"start": inner}})
    assert found["init_args"]["start"]["class_path"] == "circuitkit.strategies.eap_ig.EAPIG"
    folder = {"class_path": "acdc", "init_args": {"start": "runs/eap"}}
    assert specs.restrict("strategies", folder)["init_args"] == {"start": "runs/eap"}
    for start in ("os.path.join", {"class_path": "somebody.Elses"}, [{"class_path": "somebody.Elses"}]):
        with pytest.raises(UsageError, match="no installed package registers"):
            specs.restrict("strategies", {"class_path": "acdc", "init_args": {"start": start}})
