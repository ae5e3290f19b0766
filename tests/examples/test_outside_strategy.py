"""A strategy outside the package: one file and an entry point."""

import csv
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_strategy"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that `pip install --target` would make, without a network or a build."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    target = tmp_path_factory.mktemp("site")
    (target / "my_strategy.py").write_text((EXAMPLE / "my_strategy.py").read_text())
    info = target / "my_strategy-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n" + "\n".join(f"{name} = {where}" for name, where in points.items())
             for group, points in project["entry-points"].items()]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return target


def circuitkit(installed: Path, *arguments: str, cwd: Path) -> str:
    """Run a command in a new process, since a process reads entry points once."""
    ran = subprocess.run(
        [sys.executable, "-m", "circuitkit", *arguments],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_it_is_one_short_file() -> None:
    assert len((EXAMPLE / "my_strategy.py").read_text().splitlines()) < 60


def test_it_is_listed(installed: Path, tmp_path: Path) -> None:
    listed = circuitkit(installed, "list", "strategies", cwd=tmp_path)
    assert "late_layers" in listed
    assert "my_strategy.LateLayers" in listed
    assert "First-order effects" in listed


def test_it_runs_in_a_comparison(installed: Path, tmp_path: Path) -> None:
    strategies = "{eap: eap, late: late_layers, early: {class_path: late_layers, init_args: {decay: 1.0, keep: 0.5}}}"
    shown = circuitkit(
        installed, "compare", "--strategies", strategies, "--examples", "8", "--out", "cmp", cwd=tmp_path
    )
    assert "late" in shown
    assert "early" in shown
    rows = list(csv.DictReader((tmp_path / "cmp" / "results.csv").open()))
    assert not any(row["error"] for row in rows)
    sizes = {row["strategy"]: int(row["edges_asked"]) for row in rows if row["ranking"] == "own"}
    assert sizes == {"late": 26, "early": 131}
