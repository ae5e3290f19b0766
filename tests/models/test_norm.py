"""The norms' vector-Jacobian product against autograd."""

import pytest
import torch

from circuitkit.models.norm import Norm


@pytest.mark.parametrize("centered", [True, False])
def test_vjp_equals_autograd(centered):
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 6, dtype=torch.float64)
    norm = Norm(weight, bias if centered else None, 1e-3, centered)
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    gradients = torch.randn(5, 3, 4, 6, dtype=torch.float64)
    expected = torch.stack([torch.autograd.grad(norm(x), x, gradient)[0] for gradient in gradients])
    assert torch.allclose(norm.vjp(x.detach(), gradients.clone()), expected, atol=1e-12)
