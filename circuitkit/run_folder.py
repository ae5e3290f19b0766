"""The folder of a run: what may be written there, when, and what an interrupted run leaves."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from circuitkit import specs
from circuitkit.circuit_files import write_atomically
from circuitkit.errors import CircuitKitError, UsageError

RESULT, CONFIG, METRICS = "result.json", "config.yaml", "metrics.csv"
CHECKPOINT, STATE = "checkpoint", "state.safetensors"
_WHERE = ("accelerator", "devices")
"""Parts of the configuration that do not change the result."""
_OURS = (CONFIG, METRICS, "evaluation.json", "circuit*.json", "circuit*.safetensors", RESULT)


def check_same(where: str | Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """That a run's configuration is the wanted one, but for where it runs.

    Raises:
        UsageError: it is not; the first difference is named.
    """
    made_with, wanted = specs.plain(made_with), specs.plain(wanted)
    for key in (key for key in {**wanted, **made_with} if key not in _WHERE):
        if differs := _difference(key, made_with.get(key), wanted.get(key)):
            raise UsageError(
                f"The run in {str(where)!r} has {differs}.",
                "Give the configuration it was made with, or another folder.",
            )


def _difference(key: str, one: Any, other: Any) -> str:
    """The first place where two values differ, in words; nothing where they do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        parts = (_difference(f"{key}.{name}", one.get(name), other.get(name)) for name in {**one, **other})
        return next(filter(None, parts), "")
    return "" if one == other else f"{key} {one!r}, not {other!r}"


class RunFolder:
    """A folder that is to hold a run.

    Args:
        path: where; made when there is something to put there.
        overwrite: whether results in it may be replaced.

    Attributes:
        full: whether there are results in it (which stay until `fill` replaces them).

    Raises:
        UsageError: it holds results already, or is a file.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{str(path)!r} is not a folder.", "Give another one.")
        # metrics.csv alone is what an interrupted run leaves
        found = [file.name for file in self._ours() if file.name != METRICS]
        self.full = bool(found)
        if found and not overwrite:
            raise UsageError(
                f"The folder {str(path)!r} already holds results ({found[-1]}).",
                "Give another one, or ask for it to be overwritten (--overwrite, overwrite=True).",
            )

    @contextmanager
    def open(self) -> Iterator[Self]:
        """The folder is there inside; if the run fails, what it wrote is gone, and so are folders made for it."""
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            yield self
        except BaseException:
            if not self.full:
                (self.path / METRICS).unlink(missing_ok=True)
            if not (self.path / CHECKPOINT / STATE).exists():  # else there is something to resume
                shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)
            for folder in made:
                if not any(folder.iterdir()):
                    folder.rmdir()
            raise

    def checkpoint(self, config: dict[str, Any], resume: bool) -> Path:
        """Where a run's state is saved; what an interrupted one left there stays only for a run that resumes it.

        Raises:
            UsageError: it was another configuration's.
        """
        folder = self.path / CHECKPOINT
        made_with = folder / CONFIG
        if resume and made_with.exists():
            check_same(self.path, specs.read_yaml(made_with), config)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(exist_ok=True)
            write_atomically(made_with, specs.to_yaml(config).encode())
        except OSError as error:
            raise _cannot_write(folder, error) from error
        return folder / STATE

    def fill(self, write: Callable[[Path], None]) -> None:
        """Have everything written into a folder beside, then put it here; `result.json` comes last.

        Args:
            write: writes a run's files into the folder it is given.

        Raises:
            CircuitKitError: it cannot be written.
        """
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            beside.mkdir(parents=True)
            try:
                write(beside)
                if not self.path.exists():
                    beside.rename(self.path)
                    return
                for old in self._ours():
                    old.unlink()
                for file in sorted(beside.iterdir(), key=lambda file: file.name == RESULT):
                    file.replace(self.path / file.name)
                shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def _ours(self) -> list[Path]:
        return [file for pattern in _OURS for file in sorted(self.path.glob(pattern))]


def _cannot_write(path: Path, error: OSError) -> CircuitKitError:
    why = error.strerror or error
    return CircuitKitError(f"{str(path)!r} cannot be written: {why}.", "Choose another place, or make room.")
