"""SmolLM2-135M-Instruct for tests: import the fixture, or have a conftest import it."""

from pathlib import Path

import pytest

from circuitkit.errors import CircuitKitError
from circuitkit.models.fetch import fetch


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Its folder; the test is skipped, saying why, where the model is neither in the cache nor to be had."""
    try:
        return fetch("smollm2-135m")
    except CircuitKitError as error:
        pytest.skip(f"SmolLM2 cannot be fetched: {error.problem}")
