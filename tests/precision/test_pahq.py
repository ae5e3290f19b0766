"""The quantizing policies: which units are full, and errors in preparing them."""

import errno
import itertools
import os

import pytest
import torch
from support.tiny import tiny, tiny_hf

from circuitkit.contracts.weights import all_weights, are_equal, prepare_policy
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision
from circuitkit.precision.free_memory import MappedPages
from circuitkit.precision.pahq import PAHQ, AllLowPrecision
from circuitkit.precision.weight_store import FileWeightStore

SCOPES = ("attention", "attention+mlp")


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.7, 0.99])
def test_a_full_disk_leaves_the_model_as_it_was(variant, scope, share, monkeypatch, tmp_path):
    model, policy = tiny(variant), PAHQ("nf4", scope)
    full, write = all_weights(model), os.pwrite
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with prepare_policy(policy, model):
        room = int(share * policy.footprint()["full"])

    def short_of_space(file, data, offset):
        if offset >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[: room - offset], offset)

    monkeypatch.setattr("os.pwrite", short_of_space)
    with pytest.raises(CircuitKitError, match=rf"MiB in {tmp_path}.*No space left.*TMPDIR"):
        policy.prepare(model)
    monkeypatch.setattr("os.pwrite", write)
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())
    assert are_equal(all_weights(model), full)
    assert policy.low_precision_writers() is None
    with prepare_policy(policy, model):  # as the message advises
        assert not list(tmp_path.iterdir())
    assert are_equal(all_weights(model), full)


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_mlps_are_quantized_as_others(variant, whole):
    hf, plain = tiny_hf(variant), PAHQ("int8", "attention+mlp")
    with prepare_policy(plain, model := CircuitModel.from_model(hf)):
        expected = all_weights(model)
    for block in hf.transformer.h if variant == "gpt2" else hf.model.layers:
        if whole:
            block.mlp = torch.compile(block.mlp, backend="eager")
        else:
            for name, child in list(block.mlp.named_children()):
                setattr(block.mlp, name, torch.compile(child, backend="eager"))
    compiled, policy = CircuitModel.from_model(hf), PAHQ("int8", "attention+mlp")
    full = all_weights(compiled)
    with prepare_policy(policy, compiled):
        assert are_equal(all_weights(compiled), expected)
    assert are_equal(all_weights(compiled), full)


def test_a_failed_prefetch_leaves_the_precision_as_it_was(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model, policy = tiny("llama"), PAHQ()
    with prepare_policy(policy, model):
        low = all_weights(model)
        monkeypatch.setattr(FileWeightStore, "prefetch", fail)
        with pytest.raises(torch.OutOfMemoryError), policy.investigate([model.graph.reader_index("q", 1, 0)]):
            pass
        assert are_equal(all_weights(model), low)


def test_an_interrupt_while_freeing_leaves_the_model_as_it_was(monkeypatch):
    model, count = tiny("llama"), itertools.count()
    full = all_weights(model)

    def interrupted(*_):
        if next(count) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(MappedPages, "drop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PAHQ().prepare(model)
    assert are_equal(all_weights(model), full)


FULL_UNITS = {
    # Grouped queries: heads 0 and 1 share, and 2 and 3
    ("llama", "group", "a1.h3<q>"): ["a1.h2", "a1.h3"],
    ("llama", "group", "a0.h0<q>"): ["a0.h0", "a0.h1"],
    ("llama", "group", "a0.kv1<k>"): ["a0.h2", "a0.h3"],
    ("llama", "group", "a1.kv0<v>"): ["a1.h0", "a1.h1"],
    ("llama", "head", "a1.h1<k>"): ["a1.h0", "a1.h1"],
    ("llama", "head", "a1.h2<v>"): ["a1.h2", "a1.h3"],
    ("llama", "group", "m1"): ["m1"],
    ("gpt2", "group", "a0.h2<v>"): ["a0.h2"],
    ("gpt_neox", "group", "a1.h1<k>"): ["a1.h1"],
    ("gpt_neox", "group", "m0"): ["m0"],
    ("gpt2", "group", "logits"): [],
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("case", FULL_UNITS)
def test_which_unit_is_full(case, scope):
    variant, kv, name = case
    model = tiny(variant, kv=kv)
    graph = model.graph
    low = [writer for writer in graph.writer_names if writer[0] == "a" or (writer[0] == "m" and "mlp" in scope)]
    with prepare_policy(PAHQ("nf4", scope), model) as policy:
        with policy.investigate([graph.parse_reader("a0.h1<q>")]):
            pass
        with policy.investigate([graph.parse_reader(name)]):
            lowered = [graph.writer_names[writer] for writer in policy.low_precision_writers().nonzero()[:, 0]]
        assert lowered == [writer for writer in low if writer not in FULL_UNITS[case]]


def test_groups_of_a_per_head_policy():
    graph = tiny("llama").graph
    first, second = PAHQ(scope="attention").groups(graph)
    names = [graph.reader_names[reader] for reader in second]
    assert names == [f"a{layer}.{name}" for layer in (0, 1) for name in ("h2<q>", "h3<q>", "kv1<k>", "kv1<v>")]
    assert {"m0", "m1", "logits"} <= {graph.reader_names[reader] for reader in first}
    *_, mlps = groups = list(PAHQ(scope="attention+mlp").groups(graph))
    assert [graph.reader_names[reader] for reader in mlps] == ["m0", "m1"]
    assert len(groups) == 3
    assert [len(group) for group in AllLowPrecision().groups(graph)] == [graph.n_readers]


@pytest.mark.parametrize("arguments", [{"mode": "int4"}, {"scope": "mlp"}])
def test_unknown_arguments_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(UsageError, match=rf"{name}='{value}' is unknown.*Choose 'int8'|'attention'"):
        PAHQ(**arguments)


def test_one_model_at_a_time():
    policy, model = PAHQ(), tiny("llama")
    with prepare_policy(policy, model), pytest.raises(UsageError, match=r"already holds.*close\(\)"):
        policy.prepare(tiny("gpt2"))


def test_what_the_engine_is_told():
    per_head, uniform, full = PAHQ(), AllLowPrecision("nf4"), FullPrecision()
    assert [(p.anchored, p.depends_on_reader, p.rechecks_close) for p in (per_head, uniform, full)] == [
        (True, True, True),
        (False, False, False),
        (False, False, False),
    ]
    published = PAHQ(anchor=False, recheck_close=False)
    assert (published.anchored, published.rechecks_close) == (False, False)
    assert (per_head.advice(), uniform.advice()) == ("precision: full", "mode='int8'")


def test_a_closed_policy_has_no_file_left():
    policy = PAHQ("bf16")
    policy.prepare(tiny("llama"))
    assert policy._prepared is not None
    file = policy._prepared[1]._store._file
    assert not file.closed
    policy.close()
    assert file.closed
