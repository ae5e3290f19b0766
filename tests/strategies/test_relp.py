"""RelP's backward rule, against autograd through the masked run and through transformers' modules with its formulas."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from support.prepared import prepare
from support.rules import gated_mlp, gradients_at_outputs, is_gated, norm_weight
from support.slow import SlowModel, first
from support.tiny import VARIANTS, random_batch, tiny, tiny_hf
from transformers import GPT2Config, GPT2LMHeadModel

import circuitkit
from circuitkit.contracts.weights import prepare_policy
from circuitkit.engine.ablation import Resample, Zero
from circuitkit.engine.attribution.edge_scores import attribute, attribute_writers
from circuitkit.engine.capture import capture
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.errors import UsageError
from circuitkit.models.backward_rule import PLAIN
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.pahq import PAHQ
from circuitkit.strategies.relp import RelPRule

RULED = [variant for variant in VARIANTS if variant != "tracr"]  # on which the rules change nothing


def slow_norm(module, x):
    """A LayerNorm or RMSNorm whose scale is a constant."""
    centered = module.__class__.__name__ == "LayerNorm"
    x = x - x.mean(-1, keepdim=True) if centered else x
    normed = x / (x.square().mean(-1, keepdim=True) + first(module, "eps", "variance_epsilon")).sqrt().detach()
    return normed * norm_weight(module) + (module.bias if centered else 0.0)


def slow_activation(forward, x):
    """An activation function as x times a constant."""
    return x * (forward(x) / x).detach()


def with_rules(hf):
    """A copy of a transformers model with the rules in its modules' forward methods."""
    hf = copy.deepcopy(hf)
    for module in hf.modules():
        if module.__class__.__name__.endswith(("LayerNorm", "RMSNorm")):
            module.forward = partial(slow_norm, module)
    slow = SlowModel(hf)
    for layer, block in enumerate(slow.layers):
        activation = slow.activation(layer)
        activation.forward = partial(slow_activation, activation.forward)
        if is_gated(getattr(block, "mlp", block)):
            block.mlp.forward = partial(gated_mlp, block.mlp)
    return hf


@pytest.mark.parametrize("variant", RULED)
def test_gradients_are_those_of_modules_with_the_formulas(variant):
    hf = tiny_hf(variant)
    model, batch = CircuitModel.from_model(hf), random_batch(lengths=(6, 6, 6))
    prepared = prepare(model, batch)
    gradients = gradients_at_outputs(with_rules(hf), batch)
    differences = prepared.ablated - capture(model, prepared.inputs, prepared.context)
    expected = torch.stack([(d * g).sum((-1, -2)) for d, g in zip(differences, gradients, strict=True)])
    found = attribute_writers(prepared, RelPRule())
    precision = 1e-6 if variant == "gptj" or "gemma2" in variant else 1e-10  # parts of their modules are in float32
    assert (found - expected).abs().max() <= precision * expected.abs().max()
    assert (attribute_writers(prepared) - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("ablation", [Resample, Zero])
@pytest.mark.parametrize("variant", RULED)
@pytest.mark.parametrize("kv", ["group", "head"])
def test_scores_are_the_rules_gradients_of_the_masked_run(variant, ablation, kv):
    model, batch = tiny(variant, kv=kv), random_batch(positions=2, answers=2)
    plain = prepare(model, batch, ablation)
    mask = torch.ones(1, len(model.graph), dtype=torch.float64, requires_grad=True)
    ruled = MaskedRun(prepare(model.under(RelPRule()), batch, ablation)).values(mask)
    scores, expected = attribute(plain, RelPRule()), -torch.autograd.grad(ruled.sum(), mask)[0][0]
    assert (scores - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert (scores - attribute(plain)).abs().max() > 1e-2 * scores.abs().max()


def test_without_norms_and_with_relu_the_rules_change_nothing():
    prepared = prepare(tiny("tracr"), random_batch())
    assert torch.allclose(attribute(prepared, RelPRule()), attribute(prepared), atol=1e-12)


@pytest.mark.parametrize("policy", [None, PAHQ("nf4", "attention+mlp")])
@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama_biased"])
def test_no_value_changes_and_the_model_keeps_its_own_gradients(variant, policy):
    model, batch = tiny(variant), random_batch()
    before = attribute(prepare(model, batch))
    ruled = model.under(RelPRule())
    assert torch.equal(model.answer_logits(batch), ruled.answer_logits(batch))
    with nullcontext() if policy is None else prepare_policy(policy, model):
        ruled = model.under(RelPRule())
        x = torch.randn(5, model.family.width, dtype=torch.float64, requires_grad=True)
        assert torch.equal(model.mlp(1, x), ruled.mlp(1, x))
        plain, again = (torch.autograd.grad(one.mlp(1, x).sum(), x)[0] for one in (model, ruled.under(PLAIN)))
        assert torch.equal(plain, again)
        assert not torch.allclose(plain, torch.autograd.grad(ruled.mlp(1, x).sum(), x)[0], rtol=1e-2)
    assert torch.equal(attribute(prepare(model, batch)), before)


@pytest.mark.parametrize("name", ["gelu_new", "silu", "gelu", "relu"])
def test_an_activation_is_its_argument_times_a_constant(name):
    """Also at 0, where f(x) / x is not defined, and of relu, whose own gradient this is."""
    hf = GPT2LMHeadModel(
        GPT2Config(vocab_size=5, n_embd=4, n_layer=1, n_head=2, n_positions=8, activation_function=name)
    )
    activation = CircuitModel.from_model(hf).under(RelPRule())._mlps[0].act
    x = torch.tensor([-3.0, -1e-3, 0.0, 1e-30, 0.5, 4.0], dtype=torch.float64, requires_grad=True)
    found = activation(x)
    plain = hf.transformer.h[0].mlp.act(x)
    assert torch.equal(found, plain)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    expected = [0.0 if number == 0 else float(plain[at] / number) for at, number in enumerate(x.tolist())]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_family_without_an_activation_function_where_it_is_looked_for_says_so():
    model = tiny("gpt2")
    with pytest.raises(UsageError, match="a Linear without an activation function of its own"):
        model.family.mlp_activation(torch.nn.Linear(2, 2))


def test_the_strategy_scores_with_the_rule():
    model, batch = tiny("llama"), random_batch()
    found = circuitkit.discover(model, batch, "relp").circuit.scores
    assert torch.allclose(found, attribute(prepare(model, batch), RelPRule()) / len(batch), atol=1e-12)
    with pytest.raises(UsageError, match="RelP with the objective KLDivergence would score every edge zero"):
        circuitkit.discover(model, batch, "relp", objective="kl")
