"""New folders for results, named after what is run and the time."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from circuitkit.storage.files import to_path
from circuitkit.storage.owned_folder import cannot_write


@contextmanager
def output_folder(given: str | Path | None, name: str) -> Iterator[Path]:
    """Return the folder that was given, or create `runs/NAME-DATE-TIME`, with a number appended if that one exists.

    Two processes never get the same new folder. At the end it is removed if nothing is in it.

    Raises:
        CircuitKitError: it cannot be created.
    """
    if given:
        yield to_path(given)
        return
    runs = Path("runs")
    existed = runs.exists()
    try:
        folder = _create(runs, f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    except OSError as error:
        raise cannot_write(runs, error) from error
    try:
        yield folder
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()
            if not existed:
                runs.rmdir()


def _create(parent: Path, name: str) -> Path:
    parent.mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError
