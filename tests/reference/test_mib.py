"""Comparison with the areas that MIB's own code computes of files that this package wrote.

tests/reference/mib/README.md says how the figures were made. They are of float64, with prompts of different lengths.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuitkit.circuit.mib_files import SIZES, read_circuits
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.evaluation.evaluator import Evaluator
from circuitkit.models.circuit_model import CircuitModel

MIB = Path(__file__).parent / "mib"
TOLERANCES = {"gpt2": 1e-9, "llama": 1e-6}
"""transformers computes rotary angles in float32 even in a float64 model, TransformerLens in float64."""


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request):
    return MIB / request.param


@pytest.fixture(scope="module")
def near(folder):
    return lambda expected: pytest.approx(expected, abs=TOLERANCES[folder.name])


@pytest.fixture(scope="module")
def prepared(folder):
    model = CircuitModel.from_pretrained(folder, kv="head", dtype=torch.float64)
    batch = PromptBatch.from_ids(**json.loads((folder / "prompts.json").read_text()))
    return PreparedBatch(model, batch, LogitDifference(), Resample())


@pytest.fixture(scope="module")
def ranking(folder, prepared):
    [ranking] = read_circuits(folder / "importances", prepared.model.graph)
    return ranking


def figures(folder: Path) -> Any:
    return json.loads((folder / "figures.json").read_text())


def test_importances_are_those_of_eap(prepared, ranking):
    """Positive where an edge helps."""
    found = attribute(prepared) / len(prepared.batch)
    assert torch.allclose(found, ranking.scores.double(), rtol=1e-6, atol=1e-7 * float(found.abs().max()))


def test_curves_and_areas_are_those_of_mib(folder, prepared, ranking, near):
    result, expected = Evaluator([prepared], "test").evaluate(ranking), figures(folder)
    for name in ("signed", "absolute"):
        points = result.curve(name)
        for point, count in zip(points, expected[name]["edges"], strict=True):
            # Among edges that all score 0, neither rule says which come first
            assert point.edges == count or ranking.top(point.edges_asked, name == "absolute").tie
        assert [point.faithfulness for point in points] == near(expected[name]["faithfulness"])
    assert result.cpr == near(expected["signed"]["area_under"])
    assert result.cmd == near(expected["absolute"]["area_from_1"])


def test_nine_circuits_are_scored_as_by_mib(folder, prepared, ranking, near):
    evaluator, expected = Evaluator([prepared], "test"), figures(folder)["circuits"]
    nine = [ranking.greedy(int(size * len(ranking.graph))) for size in SIZES[:-1]]
    assert [len(circuit) for circuit in nine] == expected["edges"][:-1]
    found = [evaluator.faithfulness(evaluator.value(circuit.prune().kept)) for circuit in nine] + [1.0]
    assert found == near(expected["faithfulness"])
    assert np.trapezoid(found, SIZES) == near(expected["area_under"])
    assert np.trapezoid(np.abs(1 - np.array(found)), SIZES) == near(expected["area_from_1"])
