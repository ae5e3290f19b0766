"""What an earlier run left in a folder: a finished run to return, or an interrupted one to resume."""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.run.content import check_same_content
from circuitkit.run.result import Result
from circuitkit.run.run_folder import (
    CHECKPOINT,
    CONFIG,
    EVALUATED,
    RESULT,
    RunFolder,
    can_resume,
    check_same_config,
    how_to_resume,
)
from circuitkit.storage.text import read_yaml
from circuitkit.strategies.discovery import Discovery


def load_finished(out: str | Path | None, config: dict[str, Any]) -> Result | None:
    """Load the finished run in a folder; None if there is none.

    Raises:
        UsageError: there is no folder, or the run was made with another configuration, or evaluated otherwise.
    """
    if out is None:
        raise UsageError(
            "There is nothing to resume: no folder was given.", "Name the run's folder with --out (out=...)."
        )
    if not os.path.exists(Path(out) / RESULT):  # noqa: PTH110  no error for long names
        return None
    finished = Result.load(out)
    check_same_config(out, finished.config, config)
    _check_same_evaluation(out, finished.config, config)
    return finished


def _check_same_evaluation(out: str | Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a finished run was evaluated as wanted; one of an earlier version does not say, and is accepted."""
    for key in (key for key in EVALUATED if key in made_with and made_with[key] != wanted[key]):
        raise UsageError(
            f"The run in {str(out)!r} is finished, and was evaluated with {key} {made_with[key]}, not {wanted[key]}.",
            f"Evaluate its circuits again (circuitkit evaluate {shlex.quote(str(out))} --{key} ...), or give the {key} "
            "that it was evaluated with.",
        )


def check_interrupted(out: str | Path, config: dict[str, Any], overwrite: bool, resume: bool) -> bool:
    """Tell whether a folder holds an interrupted run to resume.

    Raises:
        UsageError: it holds one that this run would neither resume nor may overwrite, or one of another configuration.
    """
    started_with = Path(out) / CHECKPOINT / CONFIG
    if not can_resume(out) and not (resume and os.path.exists(started_with)):  # noqa: PTH110  no error for long names
        return False
    if resume and started_with.exists():
        check_same_config(out, read_yaml(started_with), config)
    elif not overwrite:
        raise UsageError(
            f"The folder {str(out)!r} holds the saved state of an interrupted run.",
            "Continue it with --resume (resume=True), discard it with --overwrite (overwrite=True), "
            "or give another folder.",
        )
    return resume


def check_earlier_content(out: str | Path, content: Mapping[str, str]) -> None:
    """Check that the run in a folder, finished or interrupted, was made with these prompts and weights.

    Raises:
        UsageError: it was not, or does not say.
    """
    for config in (Path(out) / CONFIG, Path(out) / CHECKPOINT / CONFIG):
        if config.exists():
            check_same_content(out, read_yaml(config), content)
            return


def describe_folder(out: str | Path | None, config: dict[str, Any], overwrite: bool, resume: bool) -> list[str]:
    """Describe what a run would find in its folder.

    Raises:
        UsageError: a run would refuse the folder.
    """
    if resume and (out is None or not overwrite) and load_finished(out, config):
        return [f"The run in {str(out)!r} is finished: resuming returns its result at once."]
    if out is None:
        return []
    RunFolder(out, overwrite=overwrite)
    if not check_interrupted(out, config, overwrite, resume):
        return []
    return [f"Resuming continues the interrupted run in {str(out)!r}; the predicted time is that of a whole run."]


def find_interrupted(folders: Path, config: dict[str, Any]) -> Path | None:
    """Find the newest interrupted run of a configuration among the folders in a folder."""
    interrupted = filter(can_resume, folders.glob("*"))
    for folder in sorted(interrupted, key=lambda folder: (folder / CHECKPOINT).stat().st_mtime, reverse=True):
        try:
            check_same_config(folder, read_yaml(folder / CHECKPOINT / CONFIG), config)
        except UsageError:
            continue
        return folder
    return None


def resumption_notes(run: Discovery) -> list[str]:
    """Say in a result that its run was interrupted."""
    if not run.resumptions:
        return []
    times = "once" if run.resumptions == 1 else f"{run.resumptions} times"
    return [
        f"The run was interrupted and resumed {times}; times, peaks and rows cover all of it, "
        "up to the saved state at each interruption."
    ]


@contextmanager
def say_how_to_resume(out: str | Path | None) -> Iterator[None]:
    """Add a note to an interruption that leaves a saved state in a folder."""
    try:
        yield
    except CircuitKitError:  # says itself what to do
        raise
    except BaseException as exception:
        if out is not None and can_resume(out):
            exception.add_note(how_to_resume(out))
        raise
