"""Comparisons whose cells are tasks of a Ray cluster."""

import sys
from pathlib import Path
from typing import Any

import pytest
from grid_kills import table
from support.cells import make_grid, scripted

from circuitkit.comparison.runner import compare
from circuitkit.errors import UsageError

ACDC = {"class_path": "acdc", "init_args": {"threshold": [0.1, 1.0]}}


def test_without_ray_the_message_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'Ray is not installed. Install it \(pip install "pahq-circuitkit\[ray\]"\)'):
        compare(make_grid(), tmp_path / "out", executor="ray", accelerator="cpu")
    assert not (tmp_path / "out").exists()


def test_an_unknown_executor(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no executor 'rey'. Did you mean 'ray'"):
        compare(make_grid(), tmp_path / "out", executor="rey", accelerator="cpu")


def test_two_workers_give_the_rows_of_a_process_per_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default workers give way to other processes
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        strategies = {"acdc": ACDC, "killed": scripted("kill")}
        grid = make_grid(strategies=strategies)
        rows = compare(grid, tmp_path / "ray", executor="ray", workers=2, accelerator="cpu")
        errors = {row["strategy"]: row["error"] for row in rows if row["error"]}
        assert list(errors) == ["killed"]
        assert errors["killed"].startswith("Its Ray task failed: WorkerCrashedError")
        assert ray.is_initialized()  # the cluster was not started by the comparison
    finally:
        ray.shutdown()
    compare(grid, tmp_path / "serial", accelerator="cpu", workers=2)
    found, expected = (table(tmp_path / name) for name in ("ray", "serial"))
    assert len(found) == len(expected) > 2
    assert found.drop(columns="error").equals(expected.drop(columns="error"))
