"""Finished comparisons of the toy model."""

import shutil
from pathlib import Path

import pytest

from circuitkit.comparison.grid import Grid
from circuitkit.comparison.runner import compare


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies and the control on two seeds, at MIB's sizes."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    strategies = {"eap": "eap", "acdc": {"class_path": "acdc", "init_args": {"threshold": [0.03, 0.3]}}}
    compare(Grid(models={"toy": "toy"}, tasks={"ioi": "ioi"}, strategies=strategies, seeds=[0, 1], examples=16), out)
    return out


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compared, tmp_path / "copied"))
