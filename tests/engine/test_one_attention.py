"""The attention forward is written once: a change of it reaches every part of the engine alike.

Each change below stands for a family that needs it. The masked run, the reader gradients, the live state and the cone
must still agree with each other, and the change must have an effect.
"""

import pytest
import torch
from support.prepared import prepare
from support.tiny import random_batch, tiny

from circuitkit.engine.attribution.edge_scores import attribute
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.search.greedy import GreedySearch
from circuitkit.models.attention import Attention


def softcap(monkeypatch):
    """Soft-capped attention scores, as in Gemma 2."""

    def attend_values(self, q, k, v, mask):
        share = q.shape[0] // k.shape[0]
        scores = (q.unflatten(0, (-1, share)) * self._scale) @ k.unsqueeze(1).mT
        return ((0.5 * torch.tanh(scores / 0.5) + mask).softmax(-1) @ v.unsqueeze(1)).flatten(0, 1)

    monkeypatch.setattr(Attention, "attend_values", attend_values)


def scaled_keys(monkeypatch):
    """Keys that are scaled after the rotation."""
    original = Attention.norm_and_rotate

    def norm_and_rotate(self, kind, projected, rotary):
        return original(self, kind, projected, rotary) * (1.7 if kind == "k" else 1.0)

    monkeypatch.setattr(Attention, "norm_and_rotate", norm_and_rotate)


@pytest.mark.parametrize("variant", ["gpt2", "qwen3", "gpt_neox", "llama"])
@pytest.mark.parametrize("change", [softcap, scaled_keys])
def test_a_change_of_the_attention_reaches_all_parts_alike(variant, change, monkeypatch):
    model, batch = tiny(variant, seed=3), random_batch(5, (4, 6))
    unchanged = attribute(prepare(model, batch))
    change(monkeypatch)
    prepared = prepare(model, batch)

    scores = attribute(prepared)  # reader gradients
    mask = torch.ones(1, len(model.graph), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MaskedRun(prepared).values(mask).sum(), mask)
    assert torch.allclose(scores, -slope[0], atol=1e-10)
    assert not torch.allclose(scores, unchanged, atol=1e-4)

    replay, incremental = (
        GreedySearch(editor([prepared]), 0.03, absolute=True) for editor in (ReplayEditor, IncrementalEditor)
    )  # the live state and the cone
    replay.run()
    incremental.run()
    assert torch.equal(incremental.kept, replay.kept)
    assert 0 < int(replay.kept.sum()) < len(model.graph)
    assert torch.allclose(incremental.scores, replay.scores, atol=1e-9)
