"""What a run must leave as it was, whatever happens in it."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_state_kept(device: torch.device) -> Iterator[None]:
    """Random numbers, grad mode, default dtype, threads and environment as they were, whatever happens inside."""
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global one is what Fabric seeds
    dtype, threads, variables = torch.get_default_dtype(), torch.get_num_threads(), dict(os.environ)
    with torch.random.fork_rng(devices), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
                if name in variables:
                    os.environ[name] = variables[name]
                else:
                    os.environ.pop(name, None)
