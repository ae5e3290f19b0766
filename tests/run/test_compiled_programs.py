"""The exact edges of compiled programs: confirmed edge by edge, and found again by ACDC."""

import itertools
from functools import cache
from pathlib import Path

import pytest
import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.cli.main import main
from circuitkit.data.objectives import LogitDifference, SquaredError
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.evaluation.known_circuits import load_known
from circuitkit.evaluation.reference import compute_agreement
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import discover
from circuitkit.tasks.tracr import TracrFracPrevs, TracrReverse

TASKS = {"tracr-reverse": TracrReverse, "tracr-frac-prevs": TracrFracPrevs}
ABLATIONS = {"zero": Zero, "resample": Resample, "mean": Mean}
CONSTANT = {"input->m0", "input->m1"}
"""Of `tracr-reverse`: edges that carry only what every position of every prompt has, which the mean is, too."""
every_program = pytest.mark.parametrize("name", TASKS)


@cache
def model_of(name: str, positions: str = "writer") -> CircuitModel:
    return CircuitModel.from_pretrained(name, positions=positions, dtype="float64")


def truth(name: str, ablation: str, positions: str = "writer") -> Circuit:
    graph = model_of(name, positions).graph
    if ablation != "mean":
        return load_known(f"{name}-{ablation}", graph, name)
    unused = CONSTANT if name == "tracr-reverse" else set()
    return Circuit.from_names(graph, [edge for edge in truth(name, "zero", positions) if edge not in unused])


@pytest.mark.parametrize(
    ("name", "objective"),
    [("tracr-reverse", SquaredError), ("tracr-reverse", LogitDifference), ("tracr-frac-prevs", SquaredError)],
)
@pytest.mark.parametrize("ablation", ["zero", "resample"])
def test_exactly_these_edges_matter_alone(name: str, ablation: str, objective: type) -> None:
    """Every edge is removed from the full model alone, and measured on all inputs."""
    model, task = model_of(name), TASKS[name]()
    splits = [task.prompts(model.tokenizer, split, 10_000, 0) for split in ("train", "validation", "test")]
    batch = PromptBatch.join(splits)
    editor = ReplayEditor(prepare_batches(model, [batch], objective(), ABLATIONS[ablation]()))
    wanted = truth(name, ablation)
    for reader in reversed(range(model.graph.n_readers)):
        editor.open(reader)
        before, *after = editor.values(torch.eye(model.graph.prefix(reader), dtype=torch.bool)).tolist()
        edges = model.graph.edges(reader)
        for edge, value in zip(range(edges.start, edges.stop), after, strict=True):
            effect = value - before
            assert (effect > 0.02) == bool(wanted.kept[edge]), (model.graph.names[edge], effect)
            assert wanted.kept[edge] or abs(effect) < 1e-5  # a selected key has e^14 times the weight of another


@pytest.mark.parametrize("positions", ["writer", "constant"])
@pytest.mark.parametrize("ablation", ABLATIONS)
@every_program
def test_acdc_finds_exactly_these_edges(name: str, ablation: str, positions: str) -> None:
    found = discover(
        model_of(name, positions), TASKS[name](), "acdc", strategy_args={"threshold": 0.001}, ablation=ablation,
        objective="squared_error", examples=100, sizes=[],
    )  # fmt: skip
    wanted = truth(name, ablation, positions)
    assert set(found.circuit) == set(wanted)
    agreement = compute_agreement(found.circuit, wanted)
    assert (agreement.roc_auc, agreement.precision, agreement.recall, agreement.at_size) == (1, 1, 1, 1)


def test_prompts_of_acdcs_authors_need_two_more_edges() -> None:
    """Their token ids 0 to 3 are BOS, padding, w and x here: heads attend to a BOS that stands anywhere."""
    model = model_of("tracr-frac-prevs")
    ids = [list(one) for one in itertools.product(range(4), repeat=4)]
    batch = PromptBatch.from_ids(ids, ids, [[[-1]] * 3] * len(ids), answer_positions=[[1, 2, 3]] * len(ids))
    found = discover(
        model, batch, "acdc", strategy_args={"threshold": 1e-5}, ablation="zero", objective="squared_error", sizes=[]
    )
    assert set(found.circuit) == {*truth("tracr-frac-prevs", "zero"), "input->a1.h0<q>", "input->a1.h0<k>"}


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run remembers that positions are a writer, and is compared with the known circuit of its model by name."""
    out = str(tmp_path / "run")
    options = ["--model", "tracr-reverse", "--positions", "writer", "--task", "tracr_reverse", "--ablation", "zero"]
    assert main(["discover", *options, "--strategy", "acdc", "--strategy.threshold", "0.001", "--out", out]) == 0
    capsys.readouterr()
    assert main(["evaluate", out, "--sizes", "[]", "--reference", "tracr-reverse-zero"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Agreement with the reference of 11 edges: ROC AUC of |score| 1.00" in said
    assert "Jaccard index of its 11 edges 1.00" in said
    assert main(["evaluate", out, "--sizes", "[]", "--reference", "ioi-gpt2"]) == 2
    assert "'ioi-gpt2' is of gpt2" in " ".join(capsys.readouterr().err.split())
