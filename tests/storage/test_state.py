"""Saved state loads unchanged, or is refused."""

import pytest
import torch

from circuitkit.errors import CircuitKitError
from circuitkit.storage.state import SavedState, load_state, save_state

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


def test_tensors_that_share_memory_are_saved(tmp_path):
    one = torch.arange(6, dtype=torch.float64)
    state = {"one": one, "same": one, "part": one[2:4], "turned": one.view(2, 3).t()}
    save_state(tmp_path / "state", state)
    assert same(state, load_state(tmp_path / "state"))


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


def raw(path, described, **tensors):
    import safetensors.torch

    metadata = None if described is None else {"state": described}
    path.write_bytes(safetensors.torch.save(tensors, metadata))


HOSTILE = {
    "no metadata": None,
    "not JSON": "{",
    "a list": "[]",
    "a number": "7",
    "a tensor": '"tensor:/x"',
    "a tensor that is not there": '{"x": "tensor:/y"}',
    "deep nesting": "[" * 100_000 + "]" * 100_000,
    "deep mapping": '{"x": ' * 100_000 + "1" + "}" * 100_000,
}


@pytest.mark.parametrize("described", HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_is_refused_in_one_line(described, tmp_path):
    raw(tmp_path / "state", described, **{"/x": torch.zeros(2, dtype=torch.float64)})
    with pytest.raises(CircuitKitError, match=r"saved state .*Start from scratch") as refused:
        load_state(tmp_path / "state")
    assert "\n" not in str(refused.value)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(CircuitKitError, match="cannot be read"):
        load_state(tmp_path)


READS = {
    "count": [-1, 6, 2.0, True, None, "1", float("nan")],
    "number": [-0.5, float("nan"), "1", None, True, [1]],
    "numbers": [[-1.0], [float("nan")], [float("inf")], ["1"], 3, {}],
    "texts": [[1], "text", None],
    "items": ["text", {}, None],
    "mapping": [[], "text", None],
}


@pytest.mark.parametrize("method", READS)
def test_entries_are_checked(method, tmp_path):
    bounds = (0, 5) if method == "count" else ()
    for wrong in READS[method]:
        with pytest.raises(CircuitKitError, match=r"'x' of the part is .*, not ") as refused:
            getattr(SavedState({"x": wrong}, "the part", ["x"]), method)("x", *bounds)
        assert "\n" not in str(refused.value)
    right = {"count": 5, "number": float("inf"), "numbers": [0.5, 1], "texts": ["a"], "items": [[]], "mapping": {}}[
        method
    ]
    assert getattr(SavedState({"x": right}, "the part", ["x"]), method)("x", *bounds) == right


def test_tensors_and_keys_are_checked():
    wanted = torch.zeros(3, dtype=torch.float64)
    for wrong in (
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float32),
        wanted[None],
        [0.0] * 3,
        None,
    ):
        with pytest.raises(CircuitKitError, match=r"not torch\.float64 \(3,\)"):
            SavedState({"x": wrong}, "the part", ["x"]).tensor("x", torch.float64, [3])
    assert SavedState({"x": wanted}, "the part", ["x"]).tensor("x", torch.float64, [-1]) is wanted
    for found, said in (({}, "no entry 'x'"), ({"x": 1, "y": 2}, "an unknown entry 'y'"), ([], "not a mapping")):
        with pytest.raises(CircuitKitError, match=said):
            SavedState(found, "the part", ["x"])
