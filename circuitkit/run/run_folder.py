"""The folder of a run: when it is created and filled, and what remains after a failure."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.run.content import CONTENT, check_same_content
from circuitkit.storage.files import write_atomically
from circuitkit.storage.text import read_yaml, to_plain, to_yaml

RESULT, CONFIG, METRICS = "result.json", "config.yaml", "metrics.csv"
CHECKPOINT, STATE = "checkpoint", "state.safetensors"
_WHERE = ("accelerator", "devices", CONTENT)
"""Parts of the configuration that do not change the result, or are compared in `content.py`."""
_OURS = (CONFIG, METRICS, "evaluation.json", "circuit*.json", "circuit*.safetensors", RESULT)


def check_same_config(where: str | Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a run was made with the wanted configuration; the device may differ.

    Args:
        where: the run's folder, for the message.
        made_with: the run's configuration.
        wanted: the configuration to compare it with.

    Raises:
        UsageError: the configurations differ; the message names the first difference.
    """
    made_with, wanted = to_plain(made_with), to_plain(wanted)
    for key in (key for key in {**wanted, **made_with} if key not in _WHERE):
        if differs := _difference(key, made_with.get(key), wanted.get(key)):
            raise UsageError(
                f"The run in {str(where)!r} has {differs}.",
                "Give the configuration that it was made with, or another folder.",
            )


def _difference(key: str, one: Any, other: Any) -> str:
    """Describe the first place where two values differ; empty where they do not."""
    if isinstance(one, dict) and isinstance(other, dict):
        parts = (_difference(f"{key}.{name}", one.get(name), other.get(name)) for name in {**one, **other})
        return next(filter(None, parts), "")
    return "" if one == other else f"{key} {one!r}, not {other!r}"


class RunFolder:
    """The folder that a run writes to.

    Args:
        path: the folder; `open` or `fill` creates it.
        overwrite: allow `fill` to replace results in it.

    Attributes:
        has_results: True if it held results at construction; they stay until `fill` replaces them.

    Raises:
        UsageError: it holds results already, or is a file.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{str(path)!r} is not a folder.", "Give another one.")
        # A killed run leaves metrics.csv, which is not a result
        found = [file.name for file in self._ours() if file.name != METRICS]
        self.has_results = bool(found)
        if found and not overwrite:
            raise UsageError(
                f"The folder {str(path)!r} already holds results ({found[-1]}).",
                "Give another one, or ask for it to be overwritten (--overwrite, overwrite=True).",
            )

    @contextmanager
    def open(self) -> Iterator[Self]:
        """Create the folder; if the run fails, remove what it wrote, except a saved state, and folders left empty."""
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self.path, error) from error
        try:
            yield self
        except BaseException:
            if not self.has_results:
                (self.path / METRICS).unlink(missing_ok=True)
            if not (self.path / CHECKPOINT / STATE).exists():  # otherwise the run can be resumed
                shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)
            for folder in created:
                if not any(folder.iterdir()):
                    folder.rmdir()
            raise

    def prepare_checkpoint(self, config: dict[str, Any], resume: bool) -> Path:
        """Return the path of the run's saved state; an earlier state there is deleted unless the run resumes it.

        Raises:
            UsageError: the state was saved under another configuration, or with other prompts or weights.
        """
        folder = self.path / CHECKPOINT
        started_with = folder / CONFIG
        if resume and started_with.exists():
            made_with = read_yaml(started_with)
            check_same_config(self.path, made_with, config)
            check_same_content(self.path, made_with, config[CONTENT])
        else:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(exist_ok=True)
            write_atomically(started_with, to_yaml(config).encode())
        except OSError as error:
            raise _cannot_write(folder, error) from error
        return folder / STATE

    def fill(self, write: Callable[[Path], None]) -> None:
        """Write all files into a temporary folder beside this one, then move them here, `result.json` last.

        Args:
            write: writes the run's files into the folder that it receives.

        Raises:
            CircuitKitError: the folder cannot be written.
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
    return CircuitKitError(f"{str(path)!r} cannot be written: {why}.", "Choose another place, or free disk space.")
