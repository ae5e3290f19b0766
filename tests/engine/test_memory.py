"""Free memory: what the system reports, and the limits of control groups."""

import gc
import weakref
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from support.prepared import prepare
from support.tiny import random_batch, tiny
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from circuitkit import Discoverer
from circuitkit.config import registry
from circuitkit.data.objectives import KLDivergence, LogitDifference
from circuitkit.engine import memory
from circuitkit.engine.ablation import Mean, Resample
from circuitkit.engine.attribution.reader_gradients import bytes_per_run
from circuitkit.engine.capture import capture
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.footprint import Footprints
from circuitkit.engine.memory import Need
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision

MB = 2**20


def system(root: Path, files: dict[str, str]) -> Path:
    """Write files as they are under `/`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {900 * 1024} kB\nMemAvailable: {500 * 1024} kB\n"}
V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "5:cpu:/x\n4:memory:/a/b\n0::/\n"}


def v2(group: str, limit: object, current: int, inactive: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup{group}"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{current}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {inactive}\n",
    }


def v1(group: str, limit: object, current: int, inactive: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{current}\n",
        f"{folder}/memory.stat": f"total_inactive_file {inactive}\n",
    }


CASES = {
    "no control group": ({}, 500),
    "version 2, no limit": ({**V2, **v2("/a/b", "max", 7)}, 500),
    "version 2": ({**V2, **v2("/a/b", 300 * MB, 100 * MB)}, 200),
    "version 2, the limit of a parent": ({**V2, **v2("/a/b", "max", MB), **v2("/a", 200 * MB, 150 * MB)}, 50),
    "version 2, the lower of two": ({**V2, **v2("/a/b", 90 * MB, 0), **v2("/a", 200 * MB, 150 * MB)}, 50),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", **v2("", 64 * MB, 4 * MB)}, 60),
    "version 2, a group of the host that the container does not show": ({**V2, **v2("", 64 * MB, 4 * MB)}, 60),
    "version 2, cached files can be dropped": ({**V2, **v2("/a/b", 300 * MB, 300 * MB, 120 * MB)}, 120),
    "version 2, above the limit": ({**V2, **v2("/a/b", 300 * MB, 301 * MB)}, 0),
    "version 2, more than the machine has": ({**V2, **v2("/a/b", 10**15, 0)}, 500),
    "version 1": ({**V1, **v1("/a/b", 300 * MB, 100 * MB, 10 * MB)}, 210),
    "version 1, the limit of a parent": ({**V1, **v1("/a/b", 2**63 - 4096, 0), **v1("/a", 80 * MB, 20 * MB)}, 60),
    "version 1, in a container": ({**V1, **v1("", 64 * MB, 4 * MB)}, 60),
    "files that cannot be read as numbers": ({**V2, "sys/fs/cgroup/a/b/memory.max": "what\n"}, 500),
}


@pytest.mark.parametrize("case", CASES)
def test_free_memory_is_the_least_that_any_limit_leaves(case, tmp_path):
    files, expected = CASES[case]
    assert memory.free_bytes(system(tmp_path, {**MEMINFO, **files})) == expected * MB


def test_a_system_without_these_files(tmp_path):
    assert memory.free_bytes(tmp_path) is None
    limited = system(tmp_path, {**V2, **v2("/a/b", 300 * MB, 100 * MB)})
    assert memory.free_bytes(limited) == 200 * MB


@pytest.mark.parametrize(
    ("available", "largest"), [(8 * 5 + 7, 1), (8 * 5 + 7 * 3, 3), (8 * 5 + 7 * 3 + 6, 3), (10**6, 8), (46, None)]
)
def test_batches_share_what_the_held_parts_leave(available, largest):
    need = Need(held={"captures": 5}, working={"autograd": 7})
    if largest is None:
        with pytest.raises(CircuitKitError, match="8 prompts need at least"):
            need.largest_batch(8, available)
        return
    assert need.largest_batch(8, available) == largest
    predicted = need.predict(8, available)
    assert predicted == {"captures": 40, "autograd": 7 * largest}
    assert sum(predicted.values()) <= available


@pytest.mark.parametrize(("each", "available", "count"), [(3, 10, 3), (10, 10, 1), (0, 7, 7)])
def test_as_many_as_fit(each, available, count):
    assert memory.how_many(each, available, "hypothesis") == count
    with pytest.raises(CircuitKitError, match="One hypothesis takes"):
        memory.how_many(available + 1, available, "hypothesis")


def test_what_runs_only_if_there_is_room():
    need = Need(working={"autograd": 7}, extra={"autograd": 28})
    assert need.predict(2, 1000) == {"autograd": 70}
    assert need.predict(2, 20) == {"autograd": 20}


@pytest.mark.parametrize("name", sorted(registry.names("strategies")))
def test_every_strategy_says_what_it_needs_and_refuses_less_at_the_start(name):
    strategy = name
    if name == "stable":
        strategy = {"class_path": name, "init_args": {"strategy": "acdc", "vary": "order"}}
    found = Discoverer("cpu", callbacks=[]).dry_run("toy", "ioi", strategy, examples=4)
    assert found.peak is not None
    assert found.peak[0] >= sum(found.weights.values()) / 2
    if name != "random_edges":
        assert found.parts
        with pytest.raises(CircuitKitError, match=r"4 prompts need at least .* MiB"):
            Discoverer("cpu", callbacks=[], memory_budget="50kB").run("toy", "ioi", strategy, examples=4)


def test_attribution_holds_one_batch_at_a_time(monkeypatch):
    """Ablated outputs of a batch are freed before the next batch is prepared."""
    alive = []
    plain = Resample.outputs

    def outputs(self, model, batch, context):
        assert all(one() is None for one in alive)
        found = plain(self, model, batch, context)
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Resample, "outputs", outputs)
    for name in ("eap", "eap_ig", "gim", "hisp"):
        alive.clear()
        Discoverer("cpu", callbacks=[], memory_budget="3MB").run("toy", "ioi", name, examples=8, sizes=[])
        assert len(alive) > 1, name


def test_a_plain_run_to_the_logits_keeps_no_outputs(monkeypatch):
    """The reference of KL took as much memory as all captures."""
    model, batch = tiny("llama"), random_batch()
    alive, plain = [], type(model).run

    def run(self, inputs, context):
        for writers, output, stream in plain(self, inputs, context):
            alive.append(weakref.ref(output))
            yield writers, output, stream
            del output, stream
        assert sum(one() is not None for one in alive) <= 2

    monkeypatch.setattr(type(model), "run", run)
    assert PreparedBatch(model, batch, KLDivergence(), Resample()).reference is not None
    assert len(alive) > 3


def test_the_mean_ablation_is_fitted_without_captures(monkeypatch):
    model, batch = tiny("llama", dtype=torch.float32), random_batch(lengths=(6, 6, 6))
    context = model.context(batch)
    outputs = capture(model, model.inputs(batch.corrupted, context), context)
    monkeypatch.setattr("circuitkit.engine.ablation.capture", None)
    ablation = Mean("each")
    ablation.fit(model, [batch])
    expected = (outputs.sum(1).double() / 3).float()[:, None]
    assert torch.equal(ablation.outputs(model, batch, model.context(batch)), expected)


def test_needs_grow_with_what_is_held():
    model, batch = tiny("llama"), random_batch()
    plain = Footprints(model, batch, LogitDifference(), Resample(), FullPrecision())
    with_kl = Footprints(model, batch, KLDivergence(), Resample(), FullPrecision())
    mean = Footprints(model, batch, LogitDifference(), Mean(), FullPrecision())

    def total(need):
        return sum(need.predict(3, 10**12).values())

    assert total(with_kl.attribution()) > total(plain.attribution())
    assert total(mean.editor()) < total(plain.editor())
    assert total(plain.attribution(steps=5)) > 2 * total(plain.attribution())
    assert total(plain.masked_run(checkpoint=True)) < total(plain.masked_run())


def test_what_was_measured_is_let_go():
    model, batch = tiny("llama"), random_batch()
    prepared = PreparedBatch(model, batch, LogitDifference(), Resample())

    def live() -> int:
        bytes_per_run(prepared)
        gc.collect()
        return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())

    live()
    assert live() == live()


def test_a_masked_run_needs_the_inputs_of_a_layer_and_their_gradients():
    model, batch = tiny("llama"), random_batch()
    need = Footprints(model, batch, LogitDifference(), Resample(), FullPrecision()).masked_run()
    inputs = torch.empty(model.graph.readers_per_layer, *batch.clean.shape, model.family.width, dtype=model.dtype)
    assert need.working["inputs"] * len(batch) == 2 * inputs.nbytes


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_hypotheses_take_no_more_than_their_plan_says(density):
    """By torch's own count of allocations, in a model of many layers, where the lists of kept edges would be large."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = CircuitModel.from_model(LlamaForCausalLM(config).eval())
    kept = torch.rand(len(model.graph), dtype=torch.float32) < density
    editor = IncrementalEditor([prepare(model, random_batch(5, (12, 10, 12, 11)))], kept)
    editor.open(0)
    removals = torch.eye(8, model.graph.prefix(0)).bool()
    editor.values(removals[:1])  # makes the live state and the plan
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        editor.values(removals)
    events = (one for one in measured.profiler.kineto_results.events() if one.name() == "[memory]")
    peak = max(accumulate(one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())))
    assert peak <= (len(removals) + 1) * editor.footprint()["cone"]
