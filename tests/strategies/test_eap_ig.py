"""EAP-IG: which runs it takes. What attribution makes of them: tests/engine/test_attribution.py, tests/test_reference.py."""

import pytest
import torch
from tiny import random_batch, tiny

import circuitkit
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.attribution import attribute
from circuitkit.engine.reader_gradients import Interpolation, writer_groups
from circuitkit.engine.scene import Scene
from circuitkit.errors import UsageError
from circuitkit.objective import KLDivergence, LogitDifference
from circuitkit.strategies.eap_ig import EAPIG

INPUT = slice(0, 1)


def scene_of(model, batch, ablation=Resample, objective=LogitDifference):
    made = ablation()
    made.fit(model, [batch])
    return Scene(model, batch, objective(), made)


def found(model, batch, objective="logit_difference", ablation="resample", **arguments):
    return circuitkit.discover(
        model, batch, "eap_ig", strategy_args=arguments, objective=objective, ablation=ablation
    ).circuit.scores


def expected(scene, *interpolations, own_writers=False):
    return attribute(scene, interpolations=interpolations, own_writers=own_writers) / len(scene.batch)


@pytest.mark.parametrize(
    ("arguments", "shares"),
    [
        ({}, (0.0, 0.2, 0.4, 0.6, 0.8)),
        ({"points": "paper"}, (0.2, 0.4, 0.6, 0.8, 1.0)),
        ({"steps": 2}, (0.0, 0.5)),
        ({"over": "clean-corrupted"}, (0.0, 1.0)),
    ],
)
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_points_between_the_embeddings(arguments, shares, ablation):
    model, batch = tiny("llama"), random_batch()
    scene = scene_of(model, batch, {"resample": Resample, "zero": Zero, "mean": Mean}[ablation])
    scores = found(model, batch, ablation=ablation, **arguments)
    assert torch.allclose(scores, expected(scene, Interpolation(INPUT, shares)), atol=1e-12)


@pytest.mark.parametrize("own_writers", [False, True])
def test_activations_interpolate_each_group_up_to_the_clean_run(own_writers):
    model, batch = tiny("gpt_neox"), random_batch()
    runs = [Interpolation(group, (0.5, 1.0)) for group in writer_groups(model.graph)]
    assert [len(range(*run.writers.indices(model.graph.n_writers))) for run in runs] == [1, 4, 1, 4, 1]
    scores = found(model, batch, over="activations", steps=2, own_writers=own_writers)
    assert torch.allclose(scores, expected(scene_of(model, batch), *runs, own_writers=own_writers), atol=1e-12)


def test_kl_has_gradients_elsewhere_than_at_the_full_model():
    model, batch = tiny("gpt2"), random_batch()
    scene = scene_of(model, batch, objective=KLDivergence)
    assert attribute(scene).abs().max() < 1e-12
    for arguments in ({}, {"points": "paper"}, {"over": "activations"}, {"over": "clean-corrupted"}):
        assert found(model, batch, objective="kl", **arguments).abs().max() > 1e-4
    with pytest.raises(UsageError, match=r"EAP-IG at the clean run alone .* would score every edge zero"):
        found(model, batch, objective="kl", points="paper", steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"over": "outputs"}, "'outputs'.*'inputs', 'activations' or 'clean-corrupted'"),
        ({"steps": 0}, "steps=0 is not a positive whole number"),
        ({"steps": True}, "steps=True"),
        ({"steps": 2.0}, "steps=2.0"),
        ({"points": "both"}, "'both'"),
        ({"points": "paper", "over": "activations"}, "points='paper' means nothing over activations"),
        ({"own_writers": True}, "own_writers means nothing over inputs"),
    ],
)
def test_arguments_are_checked_at_construction(arguments, message):
    with pytest.raises(UsageError, match=message):
        EAPIG(**arguments)
