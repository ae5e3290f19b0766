"""The folder of a run: when it is created and filled, and what remains after a failure."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from circuitkit.errors import UsageError
from circuitkit.interrupts import hold_signals
from circuitkit.run.content import CONTENT, check_same_content
from circuitkit.storage.files import to_path, write_atomically
from circuitkit.storage.owned_folder import COMMITTED, MANIFEST, BusyError, OwnedFolder, cannot_write
from circuitkit.storage.state import FINISHED
from circuitkit.storage.text import read_yaml, to_plain, to_yaml

RESULT, CONFIG, METRICS = "result.json", "config.yaml", "metrics.csv"
CHECKPOINT, STATE, SEARCH = "checkpoint", "state.safetensors", "search"
EVALUATED = ("sizes", "splits", "rankings")
"""Parts of the configuration that say what is evaluated; they do not change what is found."""
_WHERE = ("accelerator", "devices", "memory_budget", *EVALUATED, CONTENT)
"""Parts of the configuration that do not change what is found, or are compared in `content.py`."""
_IN_CHECKPOINT = (
    CONFIG,
    STATE,
    f"*/{STATE}",
    f"*/{FINISHED}",
    "*/last.ckpt",
    "*/.last.ckpt",
    f"{SEARCH}/*",
    f".{SEARCH}/*",
)
EVALUATION = "evaluation"
"""The name, without its endings, of the files of a later evaluation."""
_LATER = (f"{EVALUATION}.json", f"{EVALUATION}.parquet")
REPORT_HTML, REPORT_MARKDOWN, REPORT_FILES = "report.html", "report.md", "report_files"
"""The page of a run or a comparison, and the folder of its pictures (see `page`)."""
IN_REPORT_FILES = ("*.png", "*.svg")
_ALWAYS_OURS = (CONFIG, METRICS, *_LATER, CHECKPOINT, RESULT, REPORT_HTML, REPORT_MARKDOWN, REPORT_FILES)


def check_same_config(where: str | Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a run was made with the wanted configuration; device and evaluation may differ.

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


def can_resume(folder: str | Path) -> bool:
    """Tell whether a folder holds the saved state, or the unevaluated search, of an interrupted run."""
    checkpoint = Path(folder) / CHECKPOINT
    if not os.path.isdir(checkpoint):  # noqa: PTH112  no error for long names
        return False
    saved = (SEARCH, f"**/{STATE}", f"**/{FINISHED}")
    return any(True for pattern in saved for _ in checkpoint.glob(pattern))


def how_to_resume(out: str | Path) -> str:
    """Say how to continue the interrupted run in a folder."""
    return f"Continue with the same arguments and --out {out} --resume (in Python: out={str(out)!r}, resume=True)."


class RunFolder:
    """The folder that a run writes to.

    Args:
        path: the folder; `open` creates it.
        overwrite: allow `fill` to replace results in it.

    Attributes:
        has_results: True if it held results at construction; they stay until `fill` replaces them.

    Raises:
        UsageError: it holds results already, or a file that no run wrote, or is a file.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = to_path(path)
        self._overwrite = overwrite
        if not overwrite:
            self._refuse_results()  # the plainer message, for a folder with other files too
        self._owned = _owned(path)
        self.has_results = self._holds_results()

    def _holds_results(self) -> bool:
        found = (self.path / RESULT, self.path / COMMITTED / MANIFEST)
        return any(os.path.exists(file) for file in found)  # noqa: PTH110  no error for long names

    def _refuse_results(self) -> None:
        if self._holds_results():
            raise UsageError(
                f"The folder {str(self.path)!r} already holds results ({RESULT}).",
                "Give another one, or ask for it to be overwritten (--overwrite, overwrite=True).",
            )

    @contextmanager
    def open(self) -> Iterator[Self]:
        """Create the folder, and keep other processes out of it.

        If the run fails, what it wrote is removed, except a saved state or search, and folders left empty.

        Raises:
            UsageError: another process is writing to it, or it now holds results or other files.
            CircuitKitError: it cannot be written.
        """
        with self._owned.hold():
            if not self._overwrite:
                self._refuse_results()
            self.has_results = self._holds_results()
            try:
                yield self
            except BaseException:
                with hold_signals():
                    self._clean_up()
                raise

    def _clean_up(self) -> None:
        if not self.has_results:
            with suppress(OSError):  # the folder may have been removed
                (self.path / METRICS).unlink(missing_ok=True)
        if not can_resume(self.path):
            shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)

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
            raise cannot_write(folder, error) from error
        return folder / STATE

    def saved_search(self) -> Path | None:
        """Return the folder with the result of a finished search that is not evaluated yet; None if there is none."""
        folder = self.path / CHECKPOINT / SEARCH
        return folder if folder.exists() else None

    def save_search(self, write: Callable[[Path], None]) -> None:
        """Save a finished search before its evaluation, which `resume` then repeats alone.

        Args:
            write: writes the files into the folder that it receives.

        Raises:
            CircuitKitError: the folder cannot be written.
        """
        folder = self.path / CHECKPOINT / SEARCH
        temporary = folder.with_name(f".{SEARCH}")
        try:
            with hold_signals():
                for old in (folder, temporary):
                    shutil.rmtree(old, ignore_errors=True)
                temporary.mkdir(parents=True)
                write(temporary)
                temporary.rename(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error

    def fill(self, write: Callable[[Path], None]) -> None:
        """Replace what the folder holds by a run's files; a process killed meanwhile leaves the old or the new.

        Args:
            write: writes the run's files into the folder that it receives.

        Raises:
            CircuitKitError: the folder cannot be written.
        """
        obsolete = (METRICS, *_LATER, REPORT_HTML, REPORT_MARKDOWN)
        self._owned.replace(write, last=RESULT, obsolete=obsolete, scratch=(CHECKPOINT, REPORT_FILES))


def finish_writing(path: str | Path) -> bool:
    """Move results to their place that a killed process had written but not moved.

    Returns:
        True if there were any.

    Raises:
        CircuitKitError: the folder cannot be written.
    """
    committed = to_path(path) / COMMITTED
    if not os.path.exists(committed):  # noqa: PTH110  no error for long names
        return False
    complete = (committed / MANIFEST).exists()
    with suppress(BusyError), _owned(path).hold():  # which moves them
        return complete
    return False  # another process is writing, and will finish


def _owned(path: str | Path) -> OwnedFolder:
    return OwnedFolder(path, "run", _ALWAYS_OURS, {CHECKPOINT: _IN_CHECKPOINT, REPORT_FILES: IN_REPORT_FILES})
