"""Torch's global state while this package computes, whatever the caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from circuitkit.errors import UsageError, quote


def cannot_move(what: str, device: object, error: Exception) -> UsageError:
    """Make the error for something that torch cannot move to a device."""
    why = str(error).strip().partition("\n")[0].partition(";")[0].rstrip(".")
    where = "cpu, cuda or another device that torch.device names"
    return UsageError(f"{what} cannot be moved to {quote(device)}: {why[:200]}.", f"Choose {where}.")


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
