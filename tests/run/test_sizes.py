"""The sizes at which a run evaluates its circuits, and what it calls a circuit, a ranking and a CPR."""

import math

import pytest
import torch
from support.tiny import random_batch, tiny
from transformers import GPT2Config, GPT2LMHeadModel

import circuitkit
from circuitkit import Circuit, CircuitModel, Discoverer
from circuitkit.errors import UsageError
from circuitkit.evaluation.sizes import SIZES


@pytest.mark.parametrize("sizes", [[0.5, 0.1], [math.nan], [0.0], [2], ["a"], 0.5])
def test_sizes_are_refused_before_the_search(sizes, monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.eap.EAP.discover", lambda *_: pytest.fail("it searched"))
    with pytest.raises(UsageError, match="not rising fractions"):
        Discoverer("cpu").run("toy", "ioi", "eap", sizes=sizes)


def test_a_search_that_keeps_every_edge_found_a_circuit(tmp_path):
    """Not a mere ranking: its edges were chosen, and it is evaluated as what it is."""
    result = circuitkit.discover(
        "toy", "ioi", "acdc", strategy_args={"threshold": -1e9}, examples=4, out=tmp_path / "run"
    )
    circuit = result.circuit
    assert len(circuit) == len(circuit.graph) == 262
    assert not circuit.is_ranking
    assert "262 of 262 edges (100.00%; threshold -1e+09, signed)" in str(result)
    assert "a score for each" not in str(result)
    (own,) = result.evaluations["test"][0].curve("own")
    assert own.faithfulness == pytest.approx(1, abs=1e-3)
    again = Circuit.load(tmp_path / "run")
    assert again == circuit
    assert not again.is_ranking
    assert [point.edges for point in circuitkit.evaluate("toy", again, "ioi", examples=4).curve("own")] == [262]


def test_a_method_that_scores_found_a_ranking():
    result = circuitkit.discover("toy", "ioi", "eap", examples=4)
    assert result.circuit.is_ranking
    assert result.circuit.prune().is_ranking
    assert not result.evaluations["test"][0].curve("own")
    assert not result.circuit.top(262).is_ranking
    assert not result.circuit.top(10).is_ranking


def test_sizes_without_an_edge_are_left_out():
    """One percent of 20 edges is none: no circuit to list as one."""
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config(vocab_size=37, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    model = CircuitModel.from_model(hf)
    assert len(model.graph) < 100
    result = circuitkit.discover(model, random_batch(), "eap")
    assert all(point.edges_asked > 0 for point in result.evaluations["train"][0].points)
    assert "top 0 " not in str(result)
    assert "top 2 edges" in str(result)


def test_a_cpr_is_an_area_over_all_of_mibs_sizes():
    """Over some of them it would be another number under the same name."""
    model, batch = tiny("gpt2"), random_batch()
    result = circuitkit.discover(model, batch, "eap")
    part, whole = result.evaluations["train"][0], circuitkit.evaluate(model, result.circuit, batch)
    finer = circuitkit.evaluate(model, result.circuit, batch, sizes=sorted({*SIZES, 0.3, 0.7}))
    for name in ("cpr", "cmd", "random_cpr", "random_cmd"):
        assert getattr(part, name) is None
        assert getattr(whole, name) is not None
        assert getattr(finer, name) == getattr(whole, name)
