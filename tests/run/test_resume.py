"""A killed run resumes to the same result, bit for bit."""

import signal

import pytest
import torch
from support import killed

from circuitkit.errors import UsageError
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result

SPEC = {"class_path": "acdc", "init_args": {"threshold": [0.05, 0.3], "absolute": True, "try_whole_reader": True}}


class Counter:
    """Counts reports of progress."""

    seen = 0

    def on_progress(self, run, done, total, unit, shown):
        self.seen += 1


def test_killed_twice_and_resumed(tmp_path):
    folder, counter = tmp_path / "run", Counter()
    whole = Discoverer("cpu", callbacks=[counter]).run("toy", "ioi", SPEC, examples=6, sizes=[])
    for readers in (9, 45):  # in the first search; in the second, counted from the resumed reader on
        died = killed.run(SPEC, folder, readers)
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        assert not (folder / "result.json").exists()
        assert (folder / "checkpoint" / "state.safetensors").exists()
    finished = killed.run(SPEC, folder)
    assert finished.returncode == 0, finished.stderr.decode()
    # A reader is reported before it is saved, so that the one at which the run was killed is searched again
    assert killed.reports(finished) == counter.seen - (9 - 1) - (45 - 1)
    resumed = Result.load(folder)
    assert not (folder / "checkpoint").exists()
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.kept, other.kept)
        assert torch.equal(one.score_sources, other.score_sources)
    for name in ("edges_tested", "smallest_gap", "forward_equivalents", "captures_mb", "live_mb", "cone_mb"):
        assert resumed.metrics[name] == whole.metrics[name], name


class Interrupting:
    def on_reader_end(self, run, search):
        if search.tests > 20:
            raise KeyboardInterrupt


def test_a_run_does_not_resume_with_another_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.base.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        Discoverer("cpu", callbacks=[Interrupting()]).run("toy", "ioi", SPEC, examples=6, out=folder)
    with pytest.raises(UsageError, match="examples 6, not 4"):
        Discoverer("cpu", callbacks=[]).run("toy", "ioi", SPEC, examples=4, out=folder, resume=True)
    assert (folder / "checkpoint" / "state.safetensors").exists()
    other = Discoverer("cpu", callbacks=[]).run("toy", "ioi", "eap", examples=4, out=folder)
    assert Result.load(folder).circuit == other.circuit
    assert not (folder / "checkpoint").exists()
