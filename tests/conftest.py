"""What holds for every test."""

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

# Before torch: threads that spin while they wait make tiny models many times slower where cores are shared
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several test processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from support.browser import launch_browser

# A shell starts background commands with Ctrl-C ignored, which would be inherited
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test may leave grad mode, the default dtype or the number of threads changed."""
    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    yield
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == before


@pytest.fixture(autouse=True, scope="module")
def libraries_are_not_searched_for_garbage() -> None:
    """Every run collects garbage before it measures memory, which takes 0.3 s where all libraries are searched too."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, shared by the tests of one process; tests that need it are skipped where there is none."""
    with launch_browser() as launched:
        yield launched
