"""GIM's backward rule, against autograd through the masked run and against the authors' package."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from support.rules import gated_mlp, gradients_at_outputs, is_gated, norm_weight
from support.slow import SlowModel, first
from support.tiny import VARIANTS, random_batch, tiny, tiny_hf
from torch import nn

import circuitkit
from circuitkit.contracts.weights import prepare_policy
from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute, attribute_writers
from circuitkit.engine.capture import capture
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.pahq import PAHQ
from circuitkit.strategies.gim import GIMRule


def prepare(model, batch, ablation=Resample):
    return PreparedBatch(model, batch, LogitDifference(), ablation())


@pytest.mark.parametrize("ablation", [Resample, Zero])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kv", ["group", "head"])
def test_scores_are_the_rules_gradients_of_the_masked_run(variant, ablation, kv):
    model, batch = tiny(variant, kv=kv), random_batch(positions=2, answers=2)
    plain = prepare(model, batch, ablation)
    mask = torch.ones(1, len(model.graph), dtype=torch.float64, requires_grad=True)
    ruled = MaskedRun(prepare(model.under(GIMRule()), batch, ablation)).values(mask)
    scores, expected = attribute(plain, GIMRule()), -torch.autograd.grad(ruled.sum(), mask)[0][0]
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert (scores - attribute(plain)).abs().max() > 1e-2 * scores.abs().max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_value_changes_and_the_model_keeps_its_own_gradients(variant):
    model, batch = tiny(variant), random_batch()
    prepared = prepare(model, batch)
    before = attribute(prepared)
    ruled = model.under(GIMRule())
    assert torch.equal(*(capture(one, prepared.inputs, prepared.context) for one in (model, ruled)))
    assert torch.equal(model.answer_logits(batch), ruled.answer_logits(batch))
    assert torch.equal(attribute(prepared), before)


@pytest.mark.parametrize(
    "variant",
    [
        *("gemma", "gemma3_text", "gpt2", "gpt_neox", "gpt_neox_serial", "llama", "llama_biased", "olmo2", "opt"),
        *("phi", "phi3", "qwen3"),
    ],
)
def test_gradients_are_those_of_the_authors_package(variant, monkeypatch):
    """`gim-explain` patches modules and functions of torch: LayerNorm, RMSNorm, softmax, attention.

    Transformers' attention is one fused function, in which the package finds no softmax, and its RMSNorms are classes
    of its own: both are put in torch's terms here, so that the package sees everything. Up to 0.1.4 it lacks the rule
    for gated MLPs, which is added here.
    """
    gim = pytest.importorskip("gim")
    hf = tiny_hf(variant, dtype=torch.float32).double()  # the package's LayerNorm has float32 weights
    model, batch = CircuitModel.from_model(hf), random_batch(lengths=(6, 6, 6))
    prepared = prepare(model, batch)
    theirs = with_torchs_norms(hf)
    for block in SlowModel(theirs).layers:
        if is_gated(getattr(block, "mlp", block)):
            block.mlp.forward = partial(gated_mlp, block.mlp)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention_by_softmax)
    with gim.GIM(theirs):
        gradients = gradients_at_outputs(theirs, batch)
    differences = prepared.ablated - capture(model, prepared.inputs, prepared.context)
    expected = torch.stack([(d * g).sum((-1, -2)) for d, g in zip(differences, gradients, strict=True)])
    found = attribute_writers(prepared, GIMRule())
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert (attribute_writers(prepared) - expected).abs().max() > 1e-2 * expected.abs().max()


def frozen_norm(module, x):
    """An RMSNorm whose scale is a constant."""
    eps = first(module, "eps", "variance_epsilon")
    return norm_weight(module) * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt().detach()


@pytest.mark.parametrize("policy", [None, PAHQ("nf4", "attention+mlp"), PAHQ("int8", "attention+mlp")])
@pytest.mark.parametrize("variant", ["gemma", "llama", "llama_biased", "mistral", "phi3", "qwen2", "qwen3"])
def test_gate_and_up_get_half_of_their_gradients(variant, policy):
    """Against the equation, computed from the module's own projections."""
    hf = tiny_hf(variant)
    model = CircuitModel.from_model(hf)
    x = torch.randn(3, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = torch.randn(3, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    twins = copy.deepcopy(hf).model.layers
    with nullcontext() if policy is None else prepare_policy(policy, model):
        for layer, twin in enumerate(twins):
            twin.mlp.load_state_dict(dict(model.weights.mlp(layer)), assign=True)
            norm = twin.post_attention_layernorm
            (expected,) = torch.autograd.grad((gated_mlp(twin.mlp, frozen_norm(norm, x)) * weight).sum(), x)
            (found,) = torch.autograd.grad((model.under(GIMRule()).mlp(layer, x) * weight).sum(), x)
            assert torch.allclose(found, expected, rtol=1e-11, atol=1e-13)
            (unscaled,) = torch.autograd.grad((twin.mlp(frozen_norm(norm, x)) * weight).sum(), x)
            assert not torch.allclose(found, unscaled, rtol=1e-2)
            assert torch.equal(model.under(GIMRule()).mlp(layer, x), model.mlp(layer, x))


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox"])
def test_mlps_without_a_gate_keep_their_gradients(variant):
    model = tiny(variant)
    x = torch.randn(5, model.family.width, dtype=torch.float64, requires_grad=True)
    frozen = model.under(GIMRule())._mlp_norms[0](x)  # the norm's rule alone
    expected = torch.autograd.grad(
        torch.func.functional_call(model.family.mlp_module(0), dict(model.weights.mlp(0)), (frozen,)).sum(), x
    )
    assert torch.equal(torch.autograd.grad(model.under(GIMRule()).mlp(0, x).sum(), x)[0], expected[0])


def with_torchs_norms(hf):
    """A copy in which transformers' RMSNorms are torch's."""
    hf = copy.deepcopy(hf)
    for parent in list(hf.modules()):
        for name, child in parent.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                eps = first(child, "eps", "variance_epsilon")
                norm = nn.RMSNorm(child.weight.shape, eps, dtype=child.weight.dtype)
                norm.weight = nn.Parameter(norm_weight(child).detach())
                setattr(parent, name, norm)
    return hf


def attention_by_softmax(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """What `scaled_dot_product_attention` computes, spelled out."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if is_causal else attn_mask
    if seen.dtype == torch.bool:
        return torch.softmax(scores.masked_fill(~seen, -1e300), -1) @ v
    return torch.softmax(scores + seen, -1) @ v


def test_the_strategy_scores_with_the_rule():
    model, batch = tiny("llama"), random_batch()
    found = circuitkit.discover(model, batch, "gim").circuit.scores
    assert torch.allclose(found, attribute(prepare(model, batch), GIMRule()) / len(batch), atol=1e-12)
    with pytest.raises(UsageError, match="GIM with the objective KLDivergence would score every edge zero"):
        circuitkit.discover(model, batch, "gim", objective="kl")
