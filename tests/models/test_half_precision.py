"""Models in bfloat16 and float16 on a CPU: loaded, checked and scored, or refused in one line."""

import copy

import pytest
import torch
from support.prepared import prepare
from support.tiny import VARIANTS, random_batch, tiny_hf

from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.discoverer import discover

HALVES = {"bfloat16": 0.1, "float16": 0.1 / 8}
"""Allowed distance of scores from those of the same weights in float64, relative to their length."""


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_are_those_of_the_same_weights_up_to_rounding(variant, dtype, tmp_path):
    tiny_hf(variant, dtype=torch.float32).save_pretrained(tmp_path)
    model, batch = CircuitModel.from_pretrained(tmp_path, dtype=dtype), random_batch()
    assert {str(parameter.dtype) for parameter in model.model.parameters()} == {f"torch.{dtype}"}
    exact = CircuitModel.from_model(copy.deepcopy(model.model).double())
    scores, expected = attribute(prepare(model, batch)).double(), attribute(prepare(exact, batch))
    assert (scores - expected).norm() < HALVES[dtype] * expected.norm()


@pytest.mark.parametrize("precision", ["full", "pahq", "all_low"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_searches_run_under_every_policy(dtype, precision):
    model, batch = CircuitModel.from_model(tiny_hf("gemma", dtype=dtype)), random_batch()
    search = {"class_path": "acdc", "init_args": {"threshold": 0.02, "absolute": True}}
    found = discover(model, batch, search, precision=precision).circuit
    assert 0 < int(found.kept.sum()) < len(model.graph)


def test_numbers_too_large_for_float16_are_one_line():
    hf = tiny_hf("gemma", dtype=torch.float32)
    with torch.no_grad():
        hf.model.embed_tokens.weight.mul_(1e5)
    CircuitModel.from_model(hf)
    with pytest.raises(CircuitKitError, match=r"logits are not finite.*float16 overflows easily") as caught:
        CircuitModel.from_model(hf.half())
    assert "\n" not in str(caught.value)
