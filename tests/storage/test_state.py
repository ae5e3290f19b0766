"""Saved state loads unchanged, or is refused."""

import pytest
import torch

from circuitkit.errors import CircuitKitError
from circuitkit.storage.state import load_state, save_state

STATE = {
    "search": {"scores": torch.tensor([0.1, float("nan")], dtype=torch.float64), "tests": 7, "gap": float("inf")},
    "removals": [[3, torch.tensor([True, False])], [2, torch.zeros(0, dtype=torch.bool)]],
    "finished": [],
    "text": "a",
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(5), other.nan_to_num(5))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_round_trip(tmp_path):
    save_state(tmp_path / "state", STATE)
    assert same(STATE, load_state(tmp_path / "state"))
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_missing_foreign_and_truncated_files_are_refused(tmp_path):
    path = tmp_path / "state"
    save_state(path, STATE)
    data = path.read_bytes()
    for broken in (data[:40], data[: len(data) - 3], b"", b"{}" * 50):
        path.write_bytes(broken)
        with pytest.raises(CircuitKitError, match="cannot be read"):
            load_state(path)
    with pytest.raises(CircuitKitError, match="cannot be read"):
        load_state(tmp_path / "none")
