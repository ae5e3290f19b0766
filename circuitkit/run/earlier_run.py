"""What an earlier run left in a folder: a finished run to return, or an interrupted one to resume."""

from pathlib import Path
from typing import Any

from circuitkit.run.result import Result
from circuitkit.run.run_folder import CHECKPOINT, CONFIG, RESULT, RunFolder, check_same_config
from circuitkit.storage.text import read_yaml


def load_finished(out: str | Path | None, config: dict[str, Any]) -> Result | None:
    """Load the finished run in a folder; None if there is none.

    Raises:
        UsageError: it was made with another configuration.
    """
    if out is None or not (Path(out) / RESULT).exists():
        return None
    finished = Result.load(out)
    check_same_config(out, finished.config, config)
    return finished


def describe_folder(out: str | Path | None, config: dict[str, Any], overwrite: bool, resume: bool) -> list[str]:
    """Describe what a run would find in its folder.

    Raises:
        UsageError: a run would refuse the folder.
    """
    if out is None:
        return []
    if resume and load_finished(out, config):
        return [f"The run in {str(out)!r} is finished: resuming returns its result at once."]
    RunFolder(out, overwrite=overwrite)
    started_with = Path(out) / CHECKPOINT / CONFIG
    if not resume or not started_with.exists():
        return []
    check_same_config(out, read_yaml(started_with), config)
    return [f"Resuming continues the interrupted run in {str(out)!r}; the predicted time is that of a whole run."]
