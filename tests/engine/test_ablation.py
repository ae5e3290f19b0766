"""The mean ablation: what is averaged follows from the prompts that it was fitted on, and not from how others come."""

import pytest
import torch
from support.prepared import prepare
from support.tiny import random_batch, tiny

from circuitkit import PromptBatch
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.capture import capture
from circuitkit.errors import UsageError

MODEL = tiny("llama")
SIX, MIXED = random_batch(seed=1, lengths=(6, 6, 6)), random_batch(seed=2, lengths=(6, 5, 6, 7))


def outputs(ablation: Mean, batch: PromptBatch) -> torch.Tensor:
    return ablation.outputs(MODEL, batch, MODEL.context(batch))


def mean(batch: PromptBatch, positions: str) -> torch.Tensor:
    """Average the captures of all prompts, one prompt after the other, without padding."""
    rows = [batch[number : number + 1].trim() for number in range(len(batch))]
    contexts = [MODEL.context(row) for row in rows]
    found = [
        capture(MODEL, MODEL.inputs(row.corrupted, context), context)[:, 0]
        for row, context in zip(rows, contexts, strict=True)
    ]
    if positions == "each":
        return torch.stack(found, 1).mean(1, keepdim=True)
    return torch.cat(found, 1).mean(1)[:, None, None]


@pytest.mark.parametrize(
    ("positions", "fitted_on", "expected"),
    [
        ("auto", SIX, "each"),
        ("each", SIX, "each"),
        ("pooled", SIX, "pooled"),
        ("auto", MIXED, "pooled"),
        ("pooled", MIXED, "pooled"),
    ],
    ids=["auto, one length", "each", "pooled, one length", "auto", "pooled"],
)
def test_the_prompts_that_it_is_fitted_on_decide_what_is_averaged(positions, fitted_on, expected):
    ablation, means = Mean(positions), mean(fitted_on, expected)
    ablation.fit(MODEL, [fitted_on[:1].trim(), fitted_on[1:]])
    others = random_batch(seed=3, lengths=(6, 6))
    assert torch.allclose(outputs(ablation, fitted_on), means, atol=1e-12)
    assert torch.allclose(outputs(ablation, others), means, atol=1e-12)
    for batch in (MIXED, MIXED[:1].trim(), MIXED[1:2].trim(), random_batch(lengths=(7,)), random_batch(lengths=(5,))):
        if expected == "pooled":
            ablation.check(batch)
            assert torch.equal(outputs(ablation, batch), outputs(ablation, fitted_on))
        elif (batch.mask.sum(1) != 6).any():
            for use in (ablation.check, lambda batch: outputs(ablation, batch)):
                with pytest.raises(UsageError, match=r"6 tokens, but another prompt has [57].*positions='pooled'"):
                    use(batch)
        else:
            ablation.check(batch)


def test_prompts_of_several_lengths_have_no_mean_per_position():
    with pytest.raises(UsageError, match="needs prompts of one length"):
        Mean("each").fit(MODEL, [MIXED])


def test_it_has_no_means_before_it_is_fitted():
    with pytest.raises(UsageError, match="no means yet"):
        outputs(Mean(), SIX)


@pytest.mark.parametrize("ablation", [Resample, Zero])
def test_other_ablations_take_prompts_of_any_length(ablation):
    for batch in (SIX, MIXED):
        prepared = prepare(MODEL, batch, ablation)
        ablation().check(batch)
        assert prepared.ablated.shape[0] == MODEL.graph.n_writers


@pytest.mark.parametrize("ablation", [Mean("each"), Mean("pooled"), Zero(), Resample()])
def test_what_is_the_same_for_all_prompts_is_held_once(ablation):
    ablation.fit(MODEL, [SIX])
    assert ablation.per_prompt == (outputs(ablation, SIX).shape[1] > 1)
