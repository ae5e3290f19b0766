"""Atomic writes, and reads that fail with one clear line."""

import os
from pathlib import Path

import pytest

from circuitkit.errors import CircuitKitError
from circuitkit.storage.files import read_bytes, read_json, write_atomically


def test_a_write_replaces_the_file_and_creates_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "file"
    for data in (b"first", b"", b"second\n\x00"):
        write_atomically(path, data)
        assert path.read_bytes() == read_bytes(path) == data
    assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_content(
    error: BaseException, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        (written,) = (other for other in tmp_path.iterdir() if other != path)
        assert written.read_bytes() == b"new"
        raise error

    monkeypatch.setattr(*((os, "fsync", fail) if failing == "fsync" else (Path, "replace", fail)))
    expected = CircuitKitError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised:
        write_atomically(path, b"new")
    if expected is CircuitKitError:
        assert str(raised.value) == (
            f"{path} cannot be written: No space left on device. Choose another place, or free disk space."
        )
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_the_content_is_on_the_disk_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, order = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("replace"), replace(self, to)))
    write_atomically(path, b"data")
    assert order == ["fsync", "replace"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "inside", tmp_path / "folder"):
        with pytest.raises(CircuitKitError, match="cannot be written"):
            write_atomically(path, b"data")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for read in (read_bytes, read_json):
        with pytest.raises(CircuitKitError, match=r"There is no file .*missing\. Check the path"):
            read(tmp_path / "missing")
        with pytest.raises(CircuitKitError, match="cannot be read: Is a directory"):
            read(tmp_path)


def test_a_json_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, null, "ü"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, None, "ü"]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is damaged, or not a JSON file"),
        (b'{"a": ', "is damaged, or not a JSON file"),
        (b"\xff\xfe\x80", "is damaged, or not a JSON file"),
        (b"[" * 100_000, "is damaged, or not a JSON file"),
        (b"[1]", "does not hold a JSON object"),
        (b"null", "does not hold a JSON object"),
    ],
)
def test_json_that_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CircuitKitError, match=problem) as raised:
        read_json(tmp_path / "a.json")
    assert len(str(raised.value).splitlines()) == 1
