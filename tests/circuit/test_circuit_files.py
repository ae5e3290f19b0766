"""Circuit files: complete, damaged, mixed up, and foreign."""

import hashlib
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from support.graphs import TINY, circuits, eap, on_one_line
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import CircuitKitError, UsageError


@settings(max_examples=40, deadline=None)
@given(circuits())
def test_a_saved_circuit_loads_unchanged(circuit: Circuit) -> None:
    with tempfile.TemporaryDirectory() as folder:
        circuit.save(Path(folder) / "deep" / "folder")
        assert Circuit.load(Path(folder) / "deep" / "folder") == circuit


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scores_keep_their_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    scores = torch.randn(75, dtype=torch.float64).to(dtype)
    scores[:2] = torch.tensor([torch.inf, -0.0])
    circuit = Circuit.from_scores(TINY, scores)
    circuit.save(tmp_path, "threshold_0.1")
    assert Circuit.load(str(tmp_path), "threshold_0.1") == circuit
    assert {path.name for path in tmp_path.iterdir()} == {"threshold_0.1.safetensors", "threshold_0.1.json"}


@pytest.mark.parametrize("name", ["../circuit", "a/b", "", "..", "/tmp/x"])
def test_names_that_lead_out_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        eap().save(tmp_path / "run", name)
    with pytest.raises(UsageError):
        Circuit.load(tmp_path / "run", name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = eap()
    old.save(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("circuitkit.storage.files.os.fsync", full)
    with pytest.raises(CircuitKitError, match="No space left") as raised:
        old.top(3).save(tmp_path)
    assert on_one_line(raised.value)
    assert Circuit.load(tmp_path) == old
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CircuitKitError, match="cannot be written"):
        eap().save(tmp_path / "file")
    with pytest.raises(CircuitKitError, match="file"):
        Circuit.load(tmp_path / "file")


def assert_refused(folder: Path, match: str | None = None) -> None:
    with pytest.raises(CircuitKitError, match=match) as raised:
        Circuit.load(folder)
    assert on_one_line(raised.value)
    assert raised.value.exit_code == 1


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    eap().save(tmp_path)
    for path in (tmp_path / "circuit.safetensors", tmp_path / "circuit.json"):
        whole = path.read_bytes()
        for length in range(0, len(whole) - 2, 7):
            path.write_bytes(whole[:length])
            assert_refused(tmp_path, path.name)
        path.unlink()
        assert_refused(tmp_path, f"no file .*{path.name}")
        path.write_bytes(whole)
    assert Circuit.load(tmp_path) == eap()


def test_files_of_two_circuits_are_not_read_as_one(tmp_path: Path) -> None:
    eap().save(tmp_path)
    described = (tmp_path / "circuit.json").read_bytes()
    eap().top(5).save(tmp_path)
    (tmp_path / "circuit.json").write_bytes(described)
    assert_refused(tmp_path, "another circuit")


def rewrite_files(folder: Path, tensors: dict[str, Tensor] | bytes | None = None, **changes: Any) -> None:
    """Give a saved circuit other tensors, with their hash, or other entries; None removes an entry."""
    path = folder / "circuit.json"
    described = json.loads(path.read_text())
    if tensors is not None:
        data = tensors if isinstance(tensors, bytes) else safetensors.torch.save(tensors)
        (folder / "circuit.safetensors").write_bytes(data)
        described["sha256"] = hashlib.sha256(data).hexdigest()
    described |= changes
    path.write_text(json.dumps({key: value for key, value in described.items() if value is not None}))


GOOD = {"layers": 2, "heads": 3, "kv_heads": 3, "parallel": False, "mlps": True, "kv": "group"}


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"version": True}, "version True"),
        ({"extra": 1}, "'extra'"),
        ({"selection": None}, "lacks the entry 'selection'"),
        ({"selection": 3}, "3 as 'selection'"),
        ({"tie": 0}, "0 as 'tie'"),
        ({"graph": []}, "as 'graph'"),
        ({"graph": GOOD | {"width": 3}}, "'width'"),
        ({"graph": {"layers": 2}}, "lacks"),
        ({"graph": GOOD | {"layers": 10**12}}, "'layers' 1000000000000"),
        ({"graph": GOOD | {"heads": -3}}, "'heads' -3"),
        ({"graph": GOOD | {"heads": True}}, "'heads' True"),
        ({"graph": GOOD | {"heads": "3"}}, "'heads' '3'"),
        ({"graph": GOOD | {"kv_heads": 2}}, "2 key-value"),
        ({"graph": GOOD | {"kv": "none"}}, "'none'"),
        ({"graph": GOOD | {"layers": 3}}, "75 edges"),
        ({"graph": GOOD | {"parallel": 0}}, "'parallel' 0"),
        ({"graph": GOOD | {"coupled": 1}}, "'coupled' 1"),
    ],
)
def test_a_malformed_description_is_refused(change: dict[str, Any], quoted: str, tmp_path: Path) -> None:
    eap().save(tmp_path)
    rewrite_files(tmp_path, **change)
    assert_refused(tmp_path, quoted)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x80", "[" * 100_000, '{"version": 1' + "0" * 5000 + "}"])
def test_json_that_does_not_describe_a_circuit_is_refused(text: str, tmp_path: Path) -> None:
    eap().save(tmp_path)
    (tmp_path / "circuit.json").write_bytes(text.encode("latin-1"))
    assert_refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"scores": torch.zeros(74)}, "74|75"),
        ({"kept": torch.ones(74, dtype=torch.bool)}, "'kept' of 74 edges"),
        ({"kept": torch.ones(75)}, "torch.float32"),
        ({"origin": torch.zeros(75, 1, dtype=torch.int8)}, r"\[75, 1\]"),
        ({"origin": torch.full((75,), 9, dtype=torch.int8)}, "no score source 9"),
        ({"scores": torch.full((75,), torch.nan)}, "NaN"),
        ({"scores": torch.zeros(75, dtype=torch.long)}, "torch.int64"),
        ({"more": torch.zeros(75)}, "'more'"),
        ({"origin": None}, "lacks the entry 'origin'"),
    ],
)
def test_malformed_tensors_are_refused(change: dict[str, Any], quoted: str, tmp_path: Path) -> None:
    circuit = eap()
    circuit.save(tmp_path)
    tensors = {"scores": circuit.scores, "kept": circuit.kept, "origin": circuit.score_sources} | change
    rewrite_files(tmp_path, {key: tensor for key, tensor in tensors.items() if tensor is not None})
    assert_refused(tmp_path, quoted)


def test_tensors_of_another_format_are_refused(tmp_path: Path) -> None:
    eap().save(tmp_path)
    rewrite_files(tmp_path, pickle.dumps({"scores": [1.0]}))
    assert_refused(tmp_path, "not a safetensors file")
