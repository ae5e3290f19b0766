"""Global state that a run must not change."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from circuitkit.interrupts import taking_turns
from circuitkit.torch_state import usual_torch_state


@contextmanager
def preserve_global_state(device: torch.device) -> Iterator[None]:
    """Enter the usual torch state; on exit restore all, random generators, threads and environment variables too.

    Callers' threads take turns.
    """
    with taking_turns(), _preserve(device):
        yield


@contextmanager
def _preserve(device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  Fabric seeds the global one
    threads, variables = torch.get_num_threads(), dict(os.environ)
    with torch.random.fork_rng(devices), usual_torch_state():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
                if name in variables:
                    os.environ[name] = variables[name]
                else:
                    os.environ.pop(name, None)
