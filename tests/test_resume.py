"""A run that is killed goes on to the same result, bit for bit."""

import signal

import killed
import pytest
import torch

from circuitkit.discoverer import Discoverer
from circuitkit.errors import UsageError
from circuitkit.result import Result

SPEC = {"class_path": "acdc", "init_args": {"thresholds": [0.05, 0.3], "absolute": True, "try_whole_reader": True}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Discoverer("cpu", callbacks=[]).run(SPEC, "toy", "ioi", examples=6, sizes=[])


def test_killed_twice_and_resumed(tmp_path, whole):
    folder = tmp_path / "run"
    for readers in (9, 45):  # in the first search; in the second, counted from the resumed reader on
        died = killed.run(SPEC, folder, readers)
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        assert not (folder / "result.json").exists() and (folder / "checkpoint" / "state.safetensors").exists()
    finished = killed.run(SPEC, folder)
    assert finished.returncode == 0, finished.stderr.decode()
    resumed = Result.load(folder)
    assert not (folder / "checkpoint").exists()
    for one, other in zip(resumed.circuits, whole.circuits, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.kept, other.kept) and torch.equal(one.origin, other.origin)
    for name in ("edges_tested", "smallest_gap", "forward_equivalents", "captures_mb", "live_mb", "cone_mb"):
        assert resumed.metrics[name] == whole.metrics[name], name


class Interrupting:
    def on_reader_end(self, run, search):
        if search.tests > 20:
            raise KeyboardInterrupt


def test_another_configuration_does_not_go_on_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("circuitkit.strategies.base.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        Discoverer("cpu", callbacks=[Interrupting()]).run(SPEC, "toy", "ioi", examples=6, out=folder)
    with pytest.raises(UsageError, match="examples 6, not 4"):
        Discoverer("cpu", callbacks=[]).run(SPEC, "toy", "ioi", examples=4, out=folder, resume=True)
    assert (folder / "checkpoint" / "state.safetensors").exists()
    afresh = Discoverer("cpu", callbacks=[]).run("eap", "toy", "ioi", examples=4, out=folder)
    assert Result.load(folder).circuit == afresh.circuit
    assert not (folder / "checkpoint").exists()
