"""What holds for every test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test may leave grad mode, the default dtype or the number of threads changed."""
    before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    yield
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == before
