"""Torch's global state while this package computes, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def usual_torch_state() -> Iterator[None]:
    """Compute as torch does by default inside a `with`; also a decorator.

    - No `torch.inference_mode`: gradients cannot be computed from tensors made under it.
    - The default dtype is float32, the default device the CPU. All code here names the dtype of what it makes, but
      bitsandbytes makes and keeps tables in the default dtype.
    - No autocast, and products of float32 matrices in float32: TF32 and bfloat16 would take away the exactness that
      searches and precision policies promise.
    """
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    inference = torch.is_inference_mode_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad or inference))
        if torch.get_default_device().type != "cpu":  # entered only then: it slows every call
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_full_products())
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def _full_products() -> Iterator[None]:
    """Let products of float32 matrices be computed in float32."""
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if all(hasattr(backend, "fp32_precision") for backend in backends):
        before = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = "ieee"
        try:
            yield
        finally:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision
    else:  # before torch 2.9
        legacy = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(legacy)
