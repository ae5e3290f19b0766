"""The norms' vector-Jacobian product against autograd."""

from dataclasses import replace

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from circuitkit.models.norm import Identity, Norm


@pytest.mark.parametrize("centered", [True, False])
def test_vjp_equals_autograd(centered):
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 6, dtype=torch.float64)
    norm = Norm(weight, bias if centered else None, 1e-3, centered)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(5, 3, 4, 6, dtype=torch.float64)
    expected = torch.stack([torch.autograd.grad(norm(x), x, gradient)[0] for gradient in gradients])
    assert torch.allclose(norm.vjp(x.detach(), gradients.clone()), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("centered", [True, False])
def test_a_large_component_leaves_a_gradient_in_half_precision(centered, dtype):
    """As streams of GPT-2 and Llama have at their first token: the square of 400 is infinite in float16."""
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 64)
    x, gradients = torch.randn(3, 64), torch.randn(5, 3, 64)
    x[:, 7] = 400
    norm = Norm(weight, bias if centered else None, 1e-5, centered)
    half = replace(norm, weight=weight.to(dtype), bias=bias.to(dtype) if centered else None)
    expected = norm.vjp(x, gradients.clone())
    found = half.vjp(x.to(dtype), gradients.to(dtype)).float()
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("centered", [True, False])
def test_a_frozen_norm_has_the_same_value_and_a_constant_scale_in_its_gradient(centered):
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 6, dtype=torch.float64)
    norm = Norm(weight, bias if centered else None, 1e-3, centered)
    frozen = replace(norm, frozen=True)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.equal(frozen(x), norm(x))
    moved = x - x.mean(-1, keepdim=True) if centered else x
    by_hand = moved / (moved.square().mean(-1, keepdim=True) + 1e-3).sqrt().detach() * weight
    gradients = torch.randn(5, 3, 4, 6, dtype=torch.float64)
    expected = torch.stack([torch.autograd.grad(by_hand, x, one, retain_graph=True)[0] for one in gradients])
    assert torch.allclose(frozen.vjp(x.detach(), gradients.clone()), expected, atol=1e-12)
    (slope,) = torch.autograd.grad(frozen(x), x, gradients[0])
    assert torch.allclose(slope, expected[0], atol=1e-12)


def test_a_wider_weight_makes_the_norm_compute_in_its_dtype():
    """As in Gemma's modules, where 1 + weight is not rounded to half precision."""
    torch.manual_seed(0)
    module = GemmaRMSNorm(64).bfloat16()
    module.weight.data.normal_(std=0.1)
    weight = 1 + module.weight.detach().float()
    x = torch.randn(50, 64, dtype=torch.bfloat16)
    found = Norm(weight, None, module.eps, False)(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, module(x))
    assert not torch.equal(Norm(weight.bfloat16(), None, module.eps, False)(x), module(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_parts_are_scaled_as_their_sum(frozen):
    torch.manual_seed(0)
    norm = Norm(torch.randn(6, dtype=torch.float64), None, 1e-3, False, frozen)
    parts = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    split = norm.split(parts)
    assert torch.allclose(split.sum(0), norm(parts.sum(0)), atol=1e-12)
    alone = split / parts
    assert torch.allclose(alone, alone[:1].expand_as(alone), atol=1e-12)
    gradient = torch.randn(4, 6, dtype=torch.float64)
    (found,) = torch.autograd.grad(split.sum(0), parts, gradient)
    (expected,) = torch.autograd.grad(norm(parts.sum(0)), parts, gradient)
    assert torch.allclose(found, expected, atol=1e-12)


def test_parts_in_half_precision_are_scaled_in_single():
    torch.manual_seed(0)
    weight, parts = torch.randn(6, dtype=torch.bfloat16), torch.randn(3, 4, 6, dtype=torch.bfloat16)
    found = Norm(weight, None, 1e-3, False).split(parts)
    wide = Norm(weight.double(), None, 1e-3, False).split(parts.double())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), wide, rtol=0.02)


def test_no_norm_is_the_identity():
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    norm = Identity(x[0, 0], None, 0.0, False)
    assert isinstance(norm, Norm)
    gradient = torch.randn(5, 3, 4, 6, dtype=torch.float64)
    for one in (norm, replace(norm, frozen=True)):
        assert one(x) is x
        assert one.vjp(x, gradient) is gradient
