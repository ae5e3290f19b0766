"""One discovery by two processes, which share the prompts: the result of one process, in float64."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from support import processes
from support.processes import CASES, circuits, discover, ends

import circuitkit
from circuitkit.circuit.circuit import Circuit
from circuitkit.engine.processes import ALONE, FabricProcesses, Processes
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.run import launch
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.found_circuits import check_agreement
from circuitkit.run.result import Result
from circuitkit.strategies.eap import EAP

RESUMED = ("acdc", "edge_pruning", "matryoshka", "annealed_pruning", "stable")
ATOL = {
    "edge_pruning": 1e-6,
    "annealed_pruning": 1e-4,  # at low temperatures, its steps enlarge differences
    "matryoshka": 1e-6,
    "subnetwork_probing": 1e-6,
    "ugs": 1e-6,
    "acdc, screened": 1e-8,
}
"""Gates, and the effects that a search estimates, are in float32; everything else is equal to 1e-12."""


class Interrupting:
    def __init__(self, at):
        self.left = at

    def on_progress(self, *_):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def alone():
    """What one process finds, case by case."""
    found = {}

    def find(name):
        return found.get(name) or found.setdefault(name, circuits(discover(CASES[name])))

    return find


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes finds: all cases in one launch, also for several test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "both processes"
    with FileLock(f"{folder}.lock"):
        if not (folder / "1.pt").exists():
            folder.mkdir()
            launch_both(folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def launch_both(folder):
    """Run all cases, and resume runs that one process has begun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("circuitkit.strategies.discovery.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        for name in RESUMED:
            with pytest.raises(KeyboardInterrupt):
                discover(CASES[name], callbacks=[Interrupting(12)], out=folder / f"interrupted {name}")
    finished = processes.launch(processes.__file__, str(folder))
    assert finished.returncode == 0, finished.stderr


def check_equal(found, expected, atol=0.0):
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one["scores"], other["scores"], rtol=0, atol=atol)
        assert torch.equal(one["kept"], other["kept"])
        assert torch.equal(one["score_sources"], other["score_sources"])
        assert one["selection"] == other["selection"]


def tolerance(name):
    return next((atol for start, atol in ATOL.items() if name.startswith(start)), 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_find_what_one_finds(name, both, alone):
    first, second = both
    check_equal(first[name], second[name])  # to the last bit
    check_equal(first[name], alone(name), tolerance(name))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("eap", "gim", "relp"))])
def test_scores_have_the_intervals_that_one_process_computes(name, both):
    (found, others), expected = (one[f"intervals of {name}"] for one in both), ends(discover(CASES[name]))
    assert not others
    assert torch.allclose(torch.stack(found), torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RESUMED)
def test_two_processes_resume_what_one_began(name, both, alone):
    for found in both:
        check_equal(found[f"interrupted {name}"], alone(name), tolerance(name))
        check_equal(found[f"finished {name}"], found[f"interrupted {name}"])
        assert any("another number of processes" in note for note in found[f"notes of interrupted {name}"])
    resumed, others = (found[f"reports of interrupted {name}"] for found in both)
    assert resumed > 0
    assert others == 0  # callbacks are called by process 0 alone
    assert all(found[f"reports of finished {name}"] == 0 for found in both)


def test_a_process_does_not_wait_for_one_that_failed(both):
    assert both[1]["failure"] == "only here"
    assert both[0]["failure"].startswith("Another process of this run has ended")
    assert all("Start all of them again" in found["run after it"] for found in both)


def test_the_command_runs_in_several_processes_and_prints_and_saves_once(tmp_path):
    arguments = "--model toy --dtype float64 --task ioi --examples 5 --strategy eap --seed 2 --accelerator cpu"
    arguments += " --faithfulness 0.8"
    finished = processes.launch("-m", "circuitkit", "discover", *arguments.split(), "--devices", "2", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Saved in") == 1
    (folder,) = (tmp_path / "runs").iterdir()
    result = Result.load(folder)
    assert result.evaluations
    assert result.config["devices"] == 2
    assert json.loads((folder / "result.json").read_text())["metrics"]["wall_s"] > 0
    model = circuitkit.CircuitModel.from_pretrained("toy", dtype="float64")
    one = Discoverer("cpu", callbacks=[], seed=2).run(model, "ioi", "eap", examples=5, sizes=(), faithfulness=0.8)
    assert torch.equal(result.circuit.kept, one.circuit.kept)  # process 0 measures, and all decide alike
    assert torch.allclose(result.circuit.scores, one.circuit.scores, rtol=0, atol=1e-12)


@pytest.fixture
def launched(monkeypatch):
    """Look like a process that `torchrun` has launched."""

    def look(count, rank=0):
        values = {"WORLD_SIZE": count, "RANK": rank, "LOCAL_WORLD_SIZE": count, "LOCAL_RANK": rank}
        for name, value in {**values, "TORCHELASTIC_RUN_ID": "none"}.items():
            monkeypatch.setenv(name, str(value))

    return look


@pytest.mark.parametrize(
    ("count", "devices", "said"),
    [
        (None, 2, "torchrun --nproc_per_node 2 -m circuitkit discover ... --devices 2"),
        (2, 1, "torchrun has launched 2 processes. Give devices=2 (--devices 2)."),
        (2, 3, "torchrun has launched 2 processes. Give devices=2 (--devices 2)."),
        (None, 0, "not a positive whole number"),
        (None, True, "not a positive whole number"),
        (None, "2", "not a positive whole number"),
    ],
)
def test_a_number_of_devices_that_does_not_fit_is_refused(count, devices, said, launched):
    if count:
        launched(count)
    with pytest.raises(UsageError) as error:
        Discoverer("cpu", devices)
    assert said in str(error.value)


def test_a_single_process_under_torchrun_is_an_ordinary_one(launched, alone):
    launched(1)
    check_equal(circuits(discover(CASES["eap"])), alone("eap"))


def test_more_cuda_processes_than_devices_are_refused(launched, monkeypatch):
    launched(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="which has 1 CUDA devices"):
        Discoverer("cuda", 2)


def test_a_dry_run_predicts_one_process(launched):
    launched(2)
    predicted = Discoverer("cpu", 2, callbacks=[]).dry_run("toy", "ioi", "eap", examples=5)
    launched(1)
    whole = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", "eap", examples=5)
    assert (predicted.prompts, whole.prompts) == (3, 5)
    assert "each of 2 processes" in predicted.notes[-1]
    assert sum(predicted.parts.values()) < sum(whole.parts.values())


def test_processes_share_each_step_of_a_training(launched):
    def parts(devices):
        launched(devices)
        spec = {"class_path": "edge_pruning", "init_args": {"batch_size": 8}}
        return Discoverer("cpu", devices, callbacks=[]).dry_run("toy", "ioi", spec, examples=5).parts

    whole, each = parts(1), parts(2)
    assert whole == {part: 2 * size for part, size in each.items()}


def test_processes_share_the_free_memory_of_a_cpu(launched, monkeypatch):
    monkeypatch.setattr("circuitkit.engine.memory.budget", lambda device: 1000)
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 1)
    assert launch.memory_for_each(cpu, None, ALONE) == 1000
    launched(4)
    assert launch.memory_for_each(cpu, None, ALONE) == 250
    assert launch.memory_for_each(cpu, None, Scripted(-10)) == 240  # the least that any has
    assert launch.memory_for_each(cpu, 700, ALONE) == 700
    assert launch.memory_for_each(cuda, None, ALONE) == 1000


class Scripted(Processes):
    """Two processes; the other's number is that of this one plus `more`. As a context, it stands in for `connect`."""

    count = 2

    def __init__(self, more=0):
        self.more = more

    def smallest(self, number):
        return min(number, number + (self.more if number > 0 else -self.more))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def connected(monkeypatch):
    monkeypatch.setattr("circuitkit.run.launch.connect", lambda *_: Scripted())


def test_a_strategy_that_decides_by_its_own_prompts_is_refused():
    model = circuitkit.CircuitModel.from_pretrained("toy")
    circuit = Circuit.from_scores(model.graph, torch.arange(len(model.graph), dtype=torch.float64))
    check_agreement(EAP(), [circuit], Scripted())
    check_agreement(EAP(), [circuit], ALONE)
    for more in (1, -1):
        with pytest.raises(CircuitKitError, match="EAP found another circuit in every process"):
            check_agreement(EAP(), [circuit], Scripted(more))


@pytest.mark.usefixtures("connected")
def test_fewer_prompts_than_processes_are_refused():
    with pytest.raises(UsageError, match="2 processes cannot share 1 prompts"):
        discover({"strategy": "eap", "lengths": (5,)})


@pytest.mark.usefixtures("connected")
def test_a_time_limit_would_end_each_training_at_another_step():
    with pytest.raises(UsageError, match="max_time"):
        discover({"strategy": ("edge_pruning", {"trainer": {"max_steps": 2, "max_time": "00:01:00:00"}})})


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="sums over NCCL, which runs on CUDA devices only; there is none"
)
def test_sums_of_cuda_processes(tmp_path):
    """NCCL needs a device per process: one device, one process."""
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        fabric = SimpleNamespace(global_rank=0, world_size=1, device=torch.device("cuda", 0), broadcast=lambda x: x)
        found = FabricProcesses(fabric)
        for device in ("cpu", "cuda"):
            x = torch.arange(6, dtype=torch.float64, device=device).view(2, 3)
            assert torch.equal(found.sum(x.T), x.T)
            assert found.sum(x).device == x.device
        assert found.smallest(-(2**55) - 1) == -(2**55) - 1
        assert found.agree(2**55 + 1)
    finally:
        torch.distributed.destroy_process_group()
