"""EAP-IG: the runs that it averages over; tests/engine/test_attribution.py and tests/reference test the scores."""

import pytest
import torch
from support.prepared import prepare
from support.tiny import random_batch, tiny

import circuitkit
from circuitkit.data.objectives import KLDivergence
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.attribution.reader_gradients import Interpolation, writer_groups
from circuitkit.errors import UsageError
from circuitkit.strategies.eap_ig import EAPIG

INPUT = slice(0, 1)


def found(model, batch, objective="logit_difference", ablation="resample", **arguments):
    return circuitkit.discover(
        model, batch, "eap_ig", strategy_args=arguments, objective=objective, ablation=ablation
    ).circuit.scores


def expected(prepared, *interpolations, own_writers=False):
    return attribute(prepared, interpolations=interpolations, own_writers=own_writers) / len(prepared.batch)


@pytest.mark.parametrize(
    ("arguments", "alphas"),
    [
        ({}, (0.0, 0.2, 0.4, 0.6, 0.8)),
        ({"endpoint": "clean"}, (0.2, 0.4, 0.6, 0.8, 1.0)),
        ({"steps": 2}, (0.0, 0.5)),
        ({"over": "clean-corrupted"}, (0.0, 1.0)),
    ],
)
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_points_between_the_embeddings(arguments, alphas, ablation):
    model, batch = tiny("llama"), random_batch()
    prepared = prepare(model, batch, {"resample": Resample, "zero": Zero, "mean": Mean}[ablation])
    scores = found(model, batch, ablation=ablation, **arguments)
    assert torch.allclose(scores, expected(prepared, Interpolation(INPUT, alphas)), atol=1e-12)


@pytest.mark.parametrize("own_writers", [False, True])
def test_activations_interpolate_each_group_up_to_the_clean_run(own_writers):
    model, batch = tiny("gpt_neox"), random_batch()
    runs = [Interpolation(group, (0.5, 1.0)) for group in writer_groups(model.graph)]
    assert [len(range(*run.writers.indices(model.graph.n_writers))) for run in runs] == [1, 4, 1, 4, 1]
    scores = found(model, batch, over="activations", steps=2, own_writers=own_writers)
    assert torch.allclose(scores, expected(prepare(model, batch), *runs, own_writers=own_writers), atol=1e-12)


def test_kl_has_gradients_elsewhere_than_at_the_full_model():
    model, batch = tiny("gpt2"), random_batch()
    prepared = prepare(model, batch, objective=KLDivergence)
    assert attribute(prepared).abs().max() < 1e-12
    for arguments in ({}, {"endpoint": "clean"}, {"over": "activations"}, {"over": "clean-corrupted"}):
        assert found(model, batch, objective="kl", **arguments).abs().max() > 1e-4
    with pytest.raises(UsageError, match=r"EAP-IG at the clean run alone .* would score every edge zero"):
        found(model, batch, objective="kl", endpoint="clean", steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"over": "outputs"}, "'outputs'.*'inputs', 'activations' or 'clean-corrupted'"),
        ({"steps": 0}, "steps=0 is not a positive whole number"),
        ({"steps": True}, "steps=True"),
        ({"steps": 2.0}, "steps=2.0"),
        ({"endpoint": "both"}, "'both'"),
        ({"endpoint": "clean", "over": "activations"}, "endpoint='clean' has no effect with over='activations'"),
        ({"own_writers": True}, "own_writers has no effect with over='inputs'"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        EAPIG(**arguments)
