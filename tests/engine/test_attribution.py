"""Attribution equals autograd through the masked run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_masked import ABLATIONS, scene_of
from tiny import VARIANTS, random_batch, tiny

from circuitkit.engine.attribution import attribute
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.scene import Scene
from circuitkit.objective import AnswerLogProbability, LogitDifference, ProbabilityDifference
from circuitkit.precision.policy import PrecisionPolicy

OBJECTIVES = [LogitDifference, ProbabilityDifference, AnswerLogProbability]


def by_autograd(scene: Scene) -> torch.Tensor:
    mask = torch.ones(1, len(scene.model.graph), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MaskedRun(scene).values(mask).sum(), mask)
    return -slope[0]


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kv", ["group", "head"])
def test_scores_are_the_gradients_of_the_masked_run(variant, ablation, kv):
    scene = scene_of(tiny(variant, kv=kv), random_batch(positions=2, answers=2), ablation)
    scores, expected = attribute(scene), by_autograd(scene)
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert expected.abs().max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(VARIANTS)),
    st.sampled_from(OBJECTIVES),
    st.lists(st.integers(2, 9), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_on_random_prompts_and_objectives(variant, objective, lengths, seed):
    scene = scene_of(tiny(variant, seed % 5), random_batch(seed, tuple(lengths)), objective=objective)
    scores, expected = attribute(scene), by_autograd(scene)
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max().clamp(min=1e-6)


def test_a_small_difference_has_the_effect_that_was_estimated():
    """The definition: a corrupted run close to the clean one changes the objective by the score."""
    model, batch = tiny("qwen3"), random_batch()
    scene = scene_of(model, batch)
    scores = attribute(scene)
    run = MaskedRun(scene)
    eps = 1e-6
    for edge in range(0, len(model.graph), 7):
        mask = torch.ones(1, len(model.graph), dtype=torch.float64)
        full = run.values(mask).sum()
        mask[0, edge] = 1 - eps
        measured = (run.values(mask).sum() - full) / eps
        assert measured == pytest.approx(float(scores[edge]), rel=1e-3, abs=1e-5)


def test_the_policy_is_told_what_is_looked_at_and_its_groups_are_put_together():
    model, batch = tiny("llama"), random_batch()
    graph, asked = model.graph, []

    class TwoGroups(PrecisionPolicy):
        def groups(self, graph):
            yield range(0, graph.n_readers, 2)
            yield range(1, graph.n_readers, 2)

        def investigate(self, readers):
            asked.append(list(readers))
            return super().investigate(readers)

    plain = scene_of(model, batch)
    grouped = Scene(model, batch, plain.objective, plain.ablation, TwoGroups())
    assert torch.equal(attribute(plain), attribute(grouped))
    looked_at = [readers for readers in asked if readers]  # captures are made while nothing is
    assert looked_at == [list(range(0, graph.n_readers, 2)), list(range(1, graph.n_readers, 2))]
