"""Torch's global state while this package computes, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def usual_torch_state() -> Iterator[None]:
    """Leave `torch.inference_mode`, and set the default dtype to float32, inside a `with`; also a decorator.

    Gradients cannot be computed from tensors made under `inference_mode`, nor can models be given such parameters.
    All code here names the dtype of what it makes, but bitsandbytes makes and keeps tables in the default dtype.
    """
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    inference = torch.is_inference_mode_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad or inference):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
