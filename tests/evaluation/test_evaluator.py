"""Faithfulness by its definition; tests/reference compares with the figures of others."""

import json
import math

import numpy as np
import pytest
import torch
from support.tiny import random_batch, tiny

from circuitkit.circuit.circuit import Circuit
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Ablation, Mean, Resample, Zero
from circuitkit.engine.capture import capture
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.evaluation.evaluator import Evaluator, evaluate
from circuitkit.evaluation.intervals import can_share_ranking
from circuitkit.evaluation.sizes import SIZES


def evaluator(variant="llama", ablation=Resample, parts=None):
    model, batch = tiny(variant), random_batch()
    made = ablation()
    made.fit(model, [batch])
    return Evaluator(prepare_batches(model, batch.split(parts or len(batch)), LogitDifference(), made), "test")


@pytest.mark.filterwarnings("ignore:The full model does worse")
@pytest.mark.parametrize("ablation", [Resample, Mean, Zero])
@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "qwen3"])
def test_the_identities_hold(variant, ablation):
    one = evaluator(variant, ablation)
    result = one.evaluate(Circuit.from_scores(one.graph, torch.rand(len(one.graph))))
    assert result.identity_error < 1e-9
    for ranking in ("signed", "absolute", "random"):
        assert [point.fraction for point in result.curve(ranking)] == list(SIZES)
        assert result.curve(ranking)[-1].faithfulness == pytest.approx(1)
    assert one.faithfulness(one.value(torch.zeros(len(one.graph), dtype=torch.bool))) == pytest.approx(0, abs=1e-9)


def test_areas_are_integrals_by_trapezoid_over_the_fractions():
    one = evaluator()
    result = one.evaluate(Circuit.from_scores(one.graph, torch.randn(len(one.graph))))
    signed = [point.faithfulness for point in result.curve("signed")]
    absolute = [point.faithfulness for point in result.curve("absolute")]
    assert result.cpr == pytest.approx(np.trapezoid(signed, SIZES))
    assert result.cmd == pytest.approx(np.trapezoid([abs(1 - height) for height in absolute], SIZES))
    assert set(result.areas) == {"signed", "absolute", "random"}
    assert all(can_share_ranking(found.cpr.value, found.cmd.value, SIZES) for found in result.areas.values())
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_circuit_that_chose_its_edges_has_a_point_of_its_own():
    one = evaluator()
    scores = torch.rand(len(one.graph))
    own = Circuit.from_scores(one.graph, scores).top(30)
    found = one.evaluate(own)
    (point,), (others,) = found.curve("own"), found.curve("complement")
    assert (point.edges_asked, point.fraction) == (30, 30 / len(one.graph))
    assert point.value == pytest.approx(one.value(own.kept))
    assert (others.edges_asked, others.fraction) == (len(one.graph) - 30, pytest.approx(1 - 30 / len(one.graph)))
    assert others.value == pytest.approx(one.value(~own.kept))
    assert not one.evaluate(Circuit.from_scores(one.graph, scores)).curve("own")


@pytest.mark.parametrize("ablation", [Resample, Mean, Zero])
def test_unconnected_edges_of_a_circuit_are_not_counted(ablation):
    one = evaluator("gpt2", ablation)
    own = Circuit.from_names(one.graph, ["input->logits", "a1.h0->logits"])  # nothing reaches a1.h0
    assert len(own) == 2
    found = one.evaluate(own, sizes=[])
    (point,), (others,) = found.curve("own"), found.curve("complement")
    assert (point.edges_asked, point.edges) == (2, 1)
    assert point.value == pytest.approx(one.value(own.kept))
    rest = Circuit.from_names(one.graph, [name for name in one.graph.names if name not in own.names()])
    assert (others.edges_asked, others.edges) == (len(one.graph) - 2, len(rest.prune()))


def test_batches_make_no_difference():
    whole, parts = evaluator(), evaluator(parts=1)
    circuit = Circuit.from_scores(whole.graph, torch.rand(len(whole.graph))).top(40)
    assert whole.value(circuit.kept) == pytest.approx(parts.value(circuit.kept), abs=1e-12)
    for end in ("full", "ablated"):
        for measure, values in getattr(whole, end).items():
            assert getattr(parts, end)[measure] == pytest.approx(values, abs=1e-12)


class Unchanged(Ablation):
    """The writer's own output: full and ablated model do the same, but for rounding."""

    def outputs(self, model, batch, context):
        return capture(model, model.inputs(batch.clean, context), context)


def test_faithfulness_is_undefined_where_the_full_and_the_ablated_model_do_equally_well():
    one = evaluator()
    one.full = one.ablated
    result = one.evaluate(Circuit.from_scores(one.graph, torch.rand(len(one.graph))).top(10))
    assert len(result.points) == 3 * len(SIZES) + 2
    assert {point.faithfulness for point in result.points} == {None}
    assert all(math.isfinite(point.value) for point in result.points)
    assert (result.cpr, result.cmd, result.random_cpr, result.random_cmd) == (None,) * 4
    assert result.notes[0].endswith("faithfulness is not defined.")


def test_prompts_that_show_nothing_are_noted_and_warned_about():
    model, batch = tiny("gpt2"), random_batch()
    circuit = Circuit.from_scores(model.graph, torch.rand(len(model.graph)))
    with pytest.warns(UserWarning, match="is not defined|too much to trust") as warned:
        result = evaluate(model, circuit, batch, ablation=Unchanged())
    assert result.full["logit_difference"].value == pytest.approx(result.ablated["logit_difference"].value, abs=1e-12)
    assert [str(one.message) for one in warned] == result.notes
    assert all(point.faithfulness is None or math.isfinite(point.faithfulness) for point in result.points)


def test_evaluate_takes_a_batch_and_names():
    model, batch = tiny("gpt2"), random_batch()
    circuit = Circuit.from_scores(model.graph, torch.rand(len(model.graph)))
    result = evaluate(model, circuit, batch, sizes=[0.1, 1.0], ablation="mean", objective="answer_log_probability")
    assert result.split == "given prompts"
    assert result.prompts == len(batch)
    assert len(result.points) == 6


@pytest.mark.parametrize("sizes", [{}, [0.5, 0.1], [0.0, 1.0], [0.1, 2.0], [0.1, 0.1], [math.nan], ["a"], 0.5, [True]])
def test_sizes_that_are_not_rising_fractions_are_refused(sizes):
    one = evaluator()
    with pytest.raises(UsageError, match="rising fractions"):
        one.evaluate(Circuit.from_scores(one.graph, torch.rand(len(one.graph))), sizes)


def test_a_circuit_of_another_graph_is_refused():
    one, other = evaluator("llama"), tiny("gpt2").graph
    assert len(other) != len(one.graph)
    with pytest.raises(CircuitKitError, match="belongs to"):
        one.evaluate(Circuit.from_scores(other, torch.rand(len(other))))
