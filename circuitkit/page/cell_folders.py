"""Where a page may read: the folder that it is made of, and nothing outside, whatever the files in it name or link."""

import os
from pathlib import Path

from circuitkit.errors import UsageError
from circuitkit.run.run_folder import RESULT


def check_files(folder: Path) -> None:
    """Check that no file of a folder is a link to something outside of it; subfolders are not looked into.

    Raises:
        UsageError: one is.
    """
    with os.scandir(folder) as files:
        for file in files:
            if file.is_symlink() and not file.is_dir() and not _is_inside(folder, file.path):
                raise UsageError(
                    f"{file.path} is a link to a file outside of {str(folder)!r}.",
                    "If that file may be shown on the page, put a copy of it into the folder.",
                )


def find_problem(folder: Path, name: str) -> str:
    """Say why a cell's run folder is not read; empty if it holds a finished run.

    Args:
        folder: the comparison's.
        name: of the run folder, as the rows have it. They may come from anyone, and name anything.
    """
    path = os.path.join(folder, name)  # noqa: PTH118  pathlib raises for some names
    if "\0" in name or os.path.isabs(name) or ".." in Path(name).parts or not _is_inside(folder, path):  # noqa: PTH117
        return "its folder lies outside of the comparison's"
    if not os.path.isdir(path):  # noqa: PTH112
        return "its folder is gone"
    if not os.path.exists(os.path.join(path, RESULT)):  # noqa: PTH110, PTH118
        return f"its folder has no {RESULT}"
    return ""


def find_link(folder: Path) -> str:
    """Return the first file or folder, at any depth, that is a link out of a folder; empty if there is none."""
    for top, folders, files in os.walk(folder):
        for file in (os.path.join(top, one) for one in (*folders, *files)):  # noqa: PTH118
            if os.path.islink(file) and not _is_inside(folder, file):  # noqa: PTH114
                return file
    return ""


def _is_inside(folder: Path, path: str) -> bool:
    """Tell whether a path, with its links followed, is that of a folder or of something in it."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root
