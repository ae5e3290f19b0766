"""What the benchmarks share: circuits as text, searches saved as they go, and arithmetic from shapes alone."""

import importlib
import json
import sys

import acdc
import arithmetic
import decisions
import growth
import kept_edges
import pytest
import torch
import truth
from support.tiny import random_batch, tiny

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.config import registry
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.engine.search.cost_estimate import sparse_circuit
from circuitkit.models.circuit_model import CircuitModel


@pytest.mark.parametrize("edges", [1, 8, 1001])
def test_kept_edges_as_text(edges):
    kept = torch.rand(edges, generator=torch.Generator().manual_seed(0)) < 0.1
    assert torch.equal(kept_edges.from_text(kept_edges.to_text(kept), edges), kept)


def test_the_committed_decisions_are_a_circuit_of_gpt2():
    found, graph = json.loads(decisions.DATA.read_text()), EdgeGraph(12, 12, 12)
    kept = kept_edges.from_text(found["kept"], found["edges"])
    assert found["edges"] == len(graph) == 32491
    assert int(kept.sum()) == found["kept_edges"] > 100
    live = graph.live_readers(graph.live_writers(kept))
    assert live[graph.reader_of[kept]].all()
    assert int(live[graph.reader_of].sum()) == found["tests"]  # every edge into a live reader, as the benchmark counts


def prepare(positions=1):
    batch = random_batch(lengths=(6, 6, 6), positions=positions)
    return PreparedBatch(tiny("llama"), batch, LogitDifference(), Resample())


def test_a_resumed_search_ends_like_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(acdc, "SECONDS_BETWEEN_SAVES", 0.0)
    job, state = acdc.Job("absolute_0.02", 4, None), tmp_path / "state"
    whole = acdc.SavedSearch(job, prepare(), None)
    whole.run()
    interrupted = acdc.SavedSearch(job, prepare(), state)
    save, saves = interrupted._save, []

    def save_and_interrupt(search):
        save(search)
        saves.append(search.tests)
        if len(saves) == 5:
            raise KeyboardInterrupt

    interrupted.search.on_reader_end = save_and_interrupt
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = acdc.SavedSearch(job, prepare(), state)
    assert 0 < resumed.search.tests < whole.search.tests
    assert resumed._spent > 0
    resumed.run()
    assert torch.equal(resumed.search.scores, whole.search.scores)
    assert torch.equal(resumed.search.kept, whole.search.kept)
    assert resumed.editor.forward_equivalents == whole.editor.forward_equivalents


def test_searches_in_the_file_are_not_run_again(tmp_path):
    job = acdc.Job("absolute_0.1", 16, 0.25)
    figures = {"search_s": 1.5, "kept": kept_edges.to_text(torch.tensor([True, True, False, False]))}
    (tmp_path / "done").write_text(json.dumps({"job": job, **figures}) + "\n")
    found = acdc.searches(None, [job], tmp_path / "done", 1)
    exact = {**figures, "kept": kept_edges.to_text(torch.tensor([True, False, False, False]))}
    result = acdc.by_figure({**found, job._replace(screen=None): exact}, 4)
    label = "absolute_0.1_16_prompts"
    assert result["search_s"] == {label: 1.5}
    assert result["screened"] == {"search_s": {label: 1.5}, "jaccard": {label: 0.5}}


@pytest.mark.parametrize("name", ["signed_0.3", "absolute_0.02", "kl_0.05"])
def test_operating_points(name):
    job = acdc.Job(acdc.operating_point(name), 4, None)
    assert job.label == name
    assert job.threshold == float(name.split("_")[1])
    assert job.absolute == name.startswith("absolute")


@pytest.mark.parametrize("name", ["signed", "signed_-1", "nats_0.1"])
def test_names_that_are_no_operating_points(name):
    with pytest.raises((acdc.argparse.ArgumentTypeError, ValueError)):
        acdc.operating_point(name)


@pytest.mark.parametrize("density", [0.1, 0.4, 1.0])
def test_arithmetic_from_the_shape_is_what_the_editor_counts(density):
    """The counts are equal here, where answers are read at all positions, so every node is computed at all of them."""
    one = prepare(positions=6)
    model, batch = one.model, one.batch
    shape, graph = growth.shape_of(model), model.graph
    kept = sparse_circuit(graph, density) if density < 1 else torch.ones(len(graph), dtype=torch.bool)
    live, length = graph.live_writers(kept), batch.length
    editor = IncrementalEditor([one], kept)
    largest = 0
    for reader in reversed(range(graph.n_readers)):
        if not editor.is_live(reader):
            continue
        editor.open(reader)
        found = arithmetic.cone(shape, graph, kept, live, reader, length, length, answers=length)
        largest = max(largest, found.writers)
        before = editor.forward_equivalents
        editor.values(torch.zeros(0, graph.prefix(reader), dtype=torch.bool))
        counted = (editor.forward_equivalents - before) * shape.forward_macs(length)
        assert found.macs >= counted * (1 - 1e-9)
        if density == 1:
            assert found.macs == pytest.approx(counted)
        bounds = arithmetic.memory_bytes(shape, len(batch), length, length, largest, answers=length)
        held = editor.footprint()
        assert bounds["captures"] == held["captures"]
        assert bounds["live"] >= held["live"]
        assert bounds["cone"] >= held["cone"]
    if density == 1:  # otherwise, rows of nodes that are never live take no memory
        assert bounds["live"] == held["live"]


def test_growth_and_its_plot(tmp_path, monkeypatch, capsys):
    file = tmp_path / "growth.jsonl"
    monkeypatch.setattr(sys, "argv", ["growth.py", "--smoke", "--save", str(file)])
    growth.main()
    first = capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 3
    growth.main()  # from the file
    assert capsys.readouterr().out == first
    found = json.loads(first.splitlines()[-1])
    assert found["extrapolation"]["edges"] == 805_681
    assert set(found["layers"]) == {"2", "6"}
    import plot_growth

    plot_growth.draw(found, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_the_plot_of_a_learning_curve_has_a_panel_per_method(tmp_path):
    import plot_learning_curve

    circuit = {"fraction": 0.01, "edges": 7, "found": 0.9, "held_out": 0.5}
    sizes = [circuit, {**circuit, "fraction": 0.05}]
    points = [
        {"method": method, "templates": templates, "prompts": prompts, "own": circuit, "sizes": sizes}
        for method in ("acdc", "eap_ig")
        for templates, prompts in (("0", 4), ("0", 4), ("0", 16), ("all", 16))
    ]
    plot_learning_curve.draw(points, tmp_path / "curve.svg")
    drawn = (tmp_path / "curve.svg").read_text()
    assert all(
        f"<!-- {text} -->" in drawn for text in ("acdc", "eap ig", "7 edges", "1.0% of the edges", "5.0% of the edges")
    )


def test_points_of_a_learning_curve_are_added_to_those_measured_before(tmp_path, monkeypatch):
    import plot_learning_curve

    def point(method, prompts, found, templates="0"):
        circuit = {"fraction": 0.01, "edges": 7, "found": found, "held_out": 0.5}
        where = {"method": method, "templates": templates, "prompts": prompts, "seed": 0}
        return {**where, "own": circuit, "sizes": [circuit]}

    before = [point("eap_ig", 4, 0.1), point("acdc", 4, 0.2), point("acdc", 16, 0.3, "all")]
    new = [point("acdc", 16, 0.4), point("acdc", 4, 0.5)]
    monkeypatch.setattr(plot_learning_curve, "DATA", tmp_path / "points.json")
    (tmp_path / "points.json").write_text(json.dumps(before))
    (tmp_path / "curve.txt").write_text(f"a line\n{json.dumps({'points': new})}\n")
    monkeypatch.setattr(sys, "argv", ["plot.py", str(tmp_path / "curve.txt"), "--out", str(tmp_path / "curve.svg")])
    plot_learning_curve.main()
    kept = json.loads((tmp_path / "points.json").read_text())
    assert kept == [before[0], new[1], new[0], before[2]]
    assert (tmp_path / "curve.svg").exists()


@pytest.mark.parametrize("script", ["acdc", "eap", "edge_pruning", "growth", "pahq"])
def test_a_benchmark_says_at_once_that_its_model_is_not_fetched(script, tmp_path, monkeypatch):
    monkeypatch.setenv("CIRCUITKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    monkeypatch.setattr(CircuitModel, "from_pretrained", lambda *_, **__: pytest.fail("it went on"))
    monkeypatch.setattr(CircuitModel, "from_model", lambda *_, **__: pytest.fail("it went on"))
    with pytest.raises(SystemExit, match="Run `circuitkit fetch smollm2-135m`"):
        importlib.import_module(script).main()


def test_truth_runs_every_strategy():
    specs = [method.spec for method in truth.methods().values()]
    named = {spec if isinstance(spec, str) else spec["class_path"] for spec in specs}
    paths = {name: registry.class_path("strategies", name) for name in registry.names("strategies")}
    assert named == {name for name, path in paths.items() if path.startswith("circuitkit.")}


def test_truth_compares_rankings_and_circuits():
    graph = EdgeGraph(1, 1, 1)
    reference = Circuit.from_names(graph, graph.names[:2])
    ranking = Circuit.from_scores(graph, torch.arange(len(graph), 0, -1).float())
    assert truth.compare(ranking, reference) == {"auroc": 1.0, "average_precision": 1.0, "at_true_size": 1.0}
    tied = Circuit.from_scores(graph, torch.ones(len(graph)))
    assert truth.compare(tied, reference)["at_true_size"] == pytest.approx(2 / len(graph), abs=1e-4)
    found = truth.compare(Circuit.from_names(graph, graph.names[1:4]), reference)
    assert (found["precision"], found["recall"]) == (round(1 / 3, 4), 0.5)


def test_truth_gathers_the_best_under_the_ablation_that_suits():
    cells = {
        truth.Cell("eap", "induction", "resample"): {"auroc": 0.7, "seconds": 1.0},
        truth.Cell("acdc", "induction", "resample"): {"auroc": 0.9},
        truth.Cell("acdc", "induction", "zero"): {"auroc": 1.0},
        truth.Cell("gim", "induction", "zero"): {"error": "refused"},
    }
    found = truth.gather(cells)
    assert found["best_auroc"] == {"induction": 0.9}
    assert found["auroc"]["acdc"] == {"induction": {"resample": 0.9, "zero": 1.0}}
    assert "gim" not in found["auroc"]
    assert found["error"] == {"gim": {"induction": {"zero": "refused"}}}
    assert "| acdc | 1.00 |" in truth.table(cells, "auroc").splitlines()


def test_truth_runs_only_what_is_missing_or_was_measured_otherwise(tmp_path, monkeypatch, capsys):
    file = tmp_path / "cells.jsonl"
    arguments = ["truth.py", "--smoke", "--methods", "random", "eap", "--save", str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    truth.main()
    first = capsys.readouterr().out.splitlines()
    found = json.loads(first[-1])
    assert len(first) == 5  # a line per cell, and the JSON
    assert set(found["auroc"]) == {"random", "eap"}
    assert set(found["auroc"]["eap"]) == {"greater_than", "backup"}

    file.write_text(file.read_text()[:-10])  # killed while it wrote the last cell
    truth.main()
    again = capsys.readouterr().out.splitlines()
    assert [line.split(" {")[0] for line in again[:-1]] == ["eap backup resample"]
    assert json.loads(again[-1])["auroc"] == found["auroc"]

    monkeypatch.setattr(truth, "run", lambda *_: {"error": "refused"})
    monkeypatch.setattr(truth, "NOISE", 0.004)
    monkeypatch.setattr(sys, "argv", [*arguments[:3], "eap", *arguments[5:]])
    for _ in range(2):  # errors are not kept
        truth.main()
        other = capsys.readouterr().out.splitlines()
        errors = {"greater_than": {"resample": "refused"}, "backup": {"resample": "refused"}}
        assert len(other) == 3
        assert json.loads(other[-1]) == {"best_auroc": {}, "error": {"eap": errors}}

    monkeypatch.setattr(truth, "NOISE", 0.003)
    truth.main()  # all cells that are asked for are in the file
    (last,) = capsys.readouterr().out.splitlines()
    assert json.loads(last)["auroc"] == {"eap": found["auroc"]["eap"]}


def test_truth_takes_models_of_more_layers():
    known = truth.build("greater_than", 0, layers=6)
    assert known.model.graph == EdgeGraph(6, 4, 4)
