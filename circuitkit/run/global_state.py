"""Global state that a run must not change."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserve_global_state(device: torch.device) -> Iterator[None]:
    """Restore random generators, grad mode, default dtype, threads and environment variables on exit."""
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  Fabric seeds the global one
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
