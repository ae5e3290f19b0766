"""Reads files with clear errors, and writes them atomically."""

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.storage.shapes import check_plain


def to_path(given: Any) -> Path:
    """Return the path that a user has given.

    Raises:
        UsageError: it is no path.
    """
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"{quote(given)} is no path.", "Give a text or a `pathlib.Path`.")
    if "\0" in os.fspath(given):
        raise UsageError(f"The path {quote(os.fspath(given))} contains a null character.", "Give another path.")
    return Path(given)


def expand_home(path: Path) -> Path:
    """Replace `~` or `~user` at the start of a path by that folder.

    Raises:
        UsageError: there is no such folder.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{quote(str(path))} cannot be read: {str(error)[:-1]}.", "Write the whole path.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that, even after a crash, has the old content or the new, never a part of it.

    Folders are created where they are missing, and removed again if the file cannot be written.

    Raises:
        CircuitKitError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):  # what another process has put something into stays
            for folder in missing:
                folder.rmdir()
        problem = f"{path} cannot be written: {error.strerror}."
        raise CircuitKitError(problem, "Choose another place, or free disk space.") from error


def read_bytes(path: Path) -> bytes:
    """Read a file's content.

    Raises:
        CircuitKitError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CircuitKitError(f"There is no file {path}.", "Check the path.") from error
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}."
        raise CircuitKitError(problem, "Check the path and its permissions.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        CircuitKitError: the file is missing, damaged, or holds something else.
    """
    data = read_bytes(path)
    try:
        found = json.loads(data)
        check_plain(found)
    except (ValueError, RecursionError) as error:
        raise CircuitKitError(f"{path} is damaged, or not a JSON file.", "Give an undamaged file.") from error
    if not isinstance(found, dict):
        raise CircuitKitError(f"{path} does not hold a JSON object.", "Give a file that holds one.")
    return found
