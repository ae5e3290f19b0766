"""LayerNorm and RMSNorm in one class, with the vector-Jacobian product that attribution needs."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Norm:
    """`weight * (x - mean) / sqrt(var + eps) + bias` if `centered`, otherwise without mean and bias (RMSNorm).

    Attributes:
        weight: `[D]`; may be of a wider dtype than the inputs, which are then normalized in it.
        bias: `[D]` or None.
        eps: added to the variance.
        centered: LayerNorm if true, RMSNorm if false.
        frozen: gradients treat the scale as a constant; the subtraction of the mean keeps its gradient.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    centered: bool
    frozen: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize the last dimension of `x`."""
        if self.frozen:
            normed: Tensor = _Frozen.apply(x, self)  # type: ignore[no-untyped-call]
            return normed
        return self._normalize(x)

    def _normalize(self, x: Tensor) -> Tensor:
        if self.centered:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        if self.weight.dtype != x.dtype:
            return self._normalize(x.to(self.weight.dtype)).to(x.dtype)
        if x.dtype in (torch.float16, torch.bfloat16):
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)  # computes in float32
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # 3 times as fast on a CPU as F.rms_norm
        normed = x * (length.square() / x.shape[-1] + self.eps).rsqrt()
        return normed * self.weight if normed.requires_grad else normed.mul_(self.weight)

    def split(self, parts: Tensor, total: Tensor | None = None) -> Tensor:
        """Scale each of several vectors as this norm scales their sum; not for centered norms.

        Args:
            parts: `[n, ..., D]`.
            total: the sum `[..., D]` of these and of others; by default, there are no others.

        Returns:
            `[n, ..., D]`; of all parts, their sum is the norm of the total.
        """
        total = parts.sum(0) if total is None else total
        total = total.to(torch.promote_types(self.weight.dtype, torch.float32))
        if self.frozen:
            total = total.detach()
        scale = (total.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (parts.to(scale.dtype) * (scale * self.weight)).to(parts.dtype)

    def vjp(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Compute gradients at the input from several gradients at the output.

        Args:
            x: the input, `[..., D]`.
            gradient: gradients at the output, `[R, ..., D]`; overwritten.

        Returns:
            `[R, ..., D]`: with the normalized input x̂ and its scale s,
            `s * (g - mean(g) - x̂ mean(g x̂))` where `g = weight * gradient`. The term `mean(g)` is left out if the
            norm is not centered, `x̂ mean(g x̂)` if it is frozen.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # squares overflow in float16
        if self.centered:
            x = x - x.mean(-1, keepdim=True)
        scale = (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        gradient *= self.weight
        if not self.frozen:
            normed = (x * scale).to(gradient.dtype)
            # One product per position, [R, D] with [D]: broadcasting would copy x̂ for every gradient
            along = gradient.flatten(1, -2).transpose(0, 1) @ normed.flatten(0, -2).unsqueeze(-1)
            along = along.transpose(0, 1).unflatten(1, x.shape[:-1]) / x.shape[-1]  # [R, ..., 1]
            gradient.addcmul_(normed, along, value=-1)
        if self.centered:
            gradient -= gradient.mean(-1, keepdim=True)  # x̂ has mean 0
        return gradient.mul_(scale)


class Identity(Norm):
    """No norm, in a model without any."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x

    def vjp(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradients."""
        return gradient


class _Frozen(torch.autograd.Function):
    """A frozen norm: the value of the norm, and the gradient as if its scale were constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm = norm
        return norm._normalize(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.norm.vjp(x, gradient[None].clone())[0], None
