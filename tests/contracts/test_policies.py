"""What every precision policy must do, on every family: those that are registered, and a stranger's."""

import errno
import inspect
import itertools
import os
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import bitsandbytes.functional as bnb
import pytest
import torch
from tiny import VARIANTS, random_batch, tiny
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from circuitkit import registry
from circuitkit.engine.ablation import Resample
from circuitkit.engine.attribution import attribute
from circuitkit.engine.scene import Scene
from circuitkit.errors import CircuitKitError, UsageError
from circuitkit.objective import LogitDifference
from circuitkit.precision.per_head import PerHeadQuantization, UniformQuantization
from circuitkit.precision.policy import FullPrecision, PrecisionPolicy

MODES = ("int8", "nf4", "fp4", "bf16")
SCOPES = ("attention", "attention+mlp")
ERROR = {"int8": 0.02, "nf4": 0.2, "fp4": 0.25, "bf16": 0.01}
"""Allowed size of a product's error, relative to the product."""


class HalvedOutputs(PrecisionPolicy):
    """A stranger's policy: what heads write passes through float16, but for the first layer's."""

    def prepare(self, model):
        self.model, self.before, self.everything = model, model.weights, False
        model.weights = self

    def close(self):
        if hasattr(self, "before"):
            self.model.weights = self.before

    def attention(self, layer):
        weights = self.before.attention(layer)
        if layer == 0 or self.everything:
            return weights
        found = {name: getattr(weights, name) for name in ("q", "k", "v", "q_bias", "k_bias", "v_bias", "o_bias")}
        return SimpleNamespace(**found, o=weights.o.half().to(weights.o.dtype))

    def mlp(self, layer):
        return self.before.mlp(layer)

    @contextmanager
    def full(self):
        before, self.everything = self.everything, True
        try:
            yield
        finally:
            self.everything = before

    def lowered(self):
        graph = self.model.graph
        lowered = torch.zeros(graph.n_writers, dtype=torch.bool)
        for layer in range(1, graph.layers):
            lowered[graph.heads_of(layer)] = not self.everything
        return lowered


def every_policy():
    yield pytest.param(HalvedOutputs, id="stranger")
    for name in registry.names("policies"):
        kind = registry.load("policies", name)
        if "mode" in inspect.signature(kind).parameters:
            for mode, scope in itertools.product(MODES, SCOPES):
                yield pytest.param(partial(kind, mode, scope), id=f"{name}-{mode}-{scope}")
        else:
            yield pytest.param(kind, id=name)


every_family = pytest.mark.parametrize("variant", sorted(VARIANTS))
all_policies = pytest.mark.parametrize("make", list(every_policy()))
quantizing = pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(kind, mode, "attention+mlp"), id=f"{kind.__name__}-{mode}")
        for kind in (PerHeadQuantization, UniformQuantization)
        for mode in MODES
    ],
)


@contextmanager
def prepared(policy, model):
    policy.prepare(model)
    try:
        yield policy
    finally:
        policy.close()


def all_weights(model) -> dict[tuple, Tensor]:
    """Copies of every weight that the engine gets."""
    found = {}
    for layer in range(model.graph.layers):
        attention = model.weights.attention(layer)
        for name in ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias"):
            if getattr(attention, name) is not None:
                found["attention", layer, name] = getattr(attention, name).clone()
        if model.graph.mlps:
            found |= {("mlp", layer, name): weight.clone() for name, weight in model.weights.mlp(layer).items()}
    return found


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def expected(model, lowered, full: dict, low: dict) -> dict[tuple, Tensor]:
    """Weights of which those of the writers in `lowered` are `low`, the others `full`."""
    graph, found = model.graph, {}
    share = graph.heads // graph.kv_heads
    for key, weight in full.items():
        kind, layer, name = key
        found[key] = weight.clone()
        if kind == "mlp":
            if lowered[graph.mlp(layer)]:
                found[key] = low[key]
            continue
        heads = lowered[graph.heads_of(layer)]
        rows = heads if name in ("q", "o") else heads[::share]
        if name in ("q", "k", "v", "o"):
            found[key][rows] = low[key][rows]
    return found


@every_family
@all_policies
def test_weights_are_what_lowered_says(make, variant):
    for kv in ("group", "head"):
        model = tiny(variant, kv=kv)
        graph, full = model.graph, all_weights(model)
        with prepared(make(), model) as policy:
            low = all_weights(model)
            assert all(weight.isfinite().all() for weight in low.values())
            at_rest = policy.lowered()
            assert same(low, full) or at_rest is not None
            assert all(low[key].shape == full[key].shape and low[key].dtype == full[key].dtype for key in full)
            with policy.full():
                assert same(all_weights(model), full)
                assert at_rest is None or not policy.lowered().any()
            for reader in range(graph.n_readers):
                with policy.investigate([reader]):
                    lowered = policy.lowered()
                    if lowered is None:
                        assert at_rest is None and same(all_weights(model), full)
                        continue
                    assert lowered.dtype == torch.bool and lowered.shape == (graph.n_writers,) and not lowered[0]
                    assert same(all_weights(model), expected(model, lowered, full, low))
                    if policy.varies:
                        assert not lowered[list(graph.owners(reader))].any()
                    else:
                        assert torch.equal(lowered, at_rest)
            assert same(all_weights(model), low)


@every_family
@all_policies
def test_contexts_nest_and_survive_exceptions(make, variant):
    model = tiny(variant)
    graph, full = model.graph, all_weights(model)
    one, other = graph.parse_reader("a0.h0<q>"), graph.reader_index("v", 1, graph.kv_readers - 1)
    with prepared(make(), model) as policy:
        low = all_weights(model)
        with policy.investigate([other]):
            alone = all_weights(model)
        with policy.investigate([one]):
            outer = all_weights(model)
            with policy.investigate([other]):
                assert same(all_weights(model), alone)
            assert same(all_weights(model), outer)
            with pytest.raises(KeyError), policy.investigate([other]):
                raise KeyError
            assert same(all_weights(model), outer)
            with policy.full():
                with policy.full():
                    pass
                with policy.investigate([other]):  # whatever is investigated
                    assert same(all_weights(model), full)
                assert same(all_weights(model), full)
            assert same(all_weights(model), outer)
        with pytest.raises(KeyError), policy.full():
            raise KeyError
        assert same(all_weights(model), low)


@every_family
@all_policies
def test_every_reader_is_in_one_group(make, variant):
    for kv in ("group", "head"):
        graph = tiny(variant, kv=kv).graph
        groups = [list(group) for group in make().groups(graph)]
        assert sorted(itertools.chain(*groups)) == list(range(graph.n_readers))
        assert all(groups)


@every_family
@all_policies
def test_closing_gives_everything_back(make, variant):
    model = tiny(variant)
    first = next(model.model.parameters())
    first.requires_grad_(False)
    batch, full = random_batch(), all_weights(model)
    before = {name: (p, p.detach().clone(), p.stride(), p.requires_grad) for name, p in model.model.named_parameters()}
    logits = model.model(batch.clean).logits
    policy = make()
    for _ in range(2):  # a closed policy can be used again
        with prepared(policy, model):
            pass
        policy.close()  # and closing twice does nothing
        for name, parameter in model.model.named_parameters():
            same_object, values, stride, requires_grad = before[name]
            assert parameter is same_object
            assert torch.equal(parameter, values) and parameter.dtype == values.dtype
            assert (parameter.stride(), parameter.requires_grad) == (stride, requires_grad)
        assert torch.equal(model.model(batch.clean).logits, logits)
        assert same(all_weights(model), full)


@every_family
@all_policies
def test_effects_are_finite_and_full_precision_changes_no_bit(make, variant):
    model, batch = tiny(variant), random_batch()
    plain = attribute(Scene(model, batch, LogitDifference(), Resample()))
    with prepared(make(), model) as policy:
        effects = attribute(Scene(model, batch, LogitDifference(), Resample(), policy))
        with policy.full():
            streams = [stream for *_, stream in model.run(model.embed(batch.clean), model.context(batch))]
    assert effects.isfinite().all()
    if isinstance(policy, FullPrecision):
        assert torch.equal(effects, plain)
    expected_streams = [stream for *_, stream in model.run(model.embed(batch.clean), model.context(batch))]
    assert torch.allclose(torch.stack(streams), torch.stack(expected_streams), atol=1e-12)


# What quantizing policies promise besides


def by_bitsandbytes(matrix: Tensor, mode: str) -> Tensor:
    """One matrix, rounded alone."""
    single = matrix.float().contiguous()
    if mode == "bf16":
        return matrix.to(torch.bfloat16).to(matrix.dtype)
    if mode == "int8":
        codes, scales, _ = bnb.int8_vectorwise_quant(single)
        return bnb.int8_vectorwise_dequant(codes, scales).to(matrix.dtype)
    packed, state = bnb.quantize_4bit(single.flatten(), blocksize=64, quant_type=mode)
    return bnb.dequantize_4bit(packed, state).view(matrix.shape).to(matrix.dtype)


@every_family
@quantizing
def test_low_weights_are_bitsandbytes_own_of_each_head(make, variant):
    model = tiny(variant)
    full = all_weights(model)
    with prepared(make(), model) as policy:
        low = all_weights(model)
    for (kind, layer, name), weight in full.items():
        found = low[kind, layer, name]
        if kind == "attention" and name in ("q", "k", "v", "o"):
            assert torch.equal(found, torch.stack([by_bitsandbytes(head, policy.mode) for head in weight]))
        elif weight.ndim == 2 and kind == "mlp":
            owner = model.family.mlp_module(layer).get_submodule(name.rpartition(".")[0])
            rounded = by_bitsandbytes(weight.T, policy.mode).T if isinstance(owner, Conv1D) else None
            assert torch.equal(found, by_bitsandbytes(weight, policy.mode) if rounded is None else rounded)
        else:
            assert torch.equal(found, weight)  # biases


@every_family
@quantizing
def test_products_are_within_the_modes_error(make, variant):
    """Of square and other matrices alike: a layout read transposed would be far off."""
    model = tiny(variant)
    graph = model.graph
    torch.manual_seed(0)
    x = torch.randn(1, 50, 3, model.family.width, dtype=torch.float64)
    gathered = torch.randn(graph.heads, 50, 3, model.family.head_width, dtype=torch.float64)

    def products():
        for layer in range(graph.layers):
            yield from model.project(layer, x)
            yield model.write(layer, gathered)
            yield model.mlp(layer, x[0])

    expected_products = list(products())
    with prepared(make(), model) as policy:
        for low, full in zip(products(), expected_products, strict=True):
            assert (low - full).norm() < 2 * ERROR[policy.mode] * full.norm()


@every_family
@quantizing
def test_weights_in_memory_become_fewer(make, variant):
    model = tiny(variant)
    before = sum(p.nbytes for p in model.model.parameters())
    with prepared(make(), model) as policy:
        held = policy.footprint()
        assert held["high"] == before - held["masters"] == sum(p.nbytes for p in model.model.parameters())
        assert 0 < held["low"] < held["masters"] / (2 if policy.mode == "bf16" else 3)
    assert policy.footprint() == {}


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox", "llama"])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.7, 0.99])
def test_a_full_disk_leaves_the_model_as_it_was(variant, scope, share, monkeypatch, tmp_path):
    model, policy = tiny(variant), PerHeadQuantization("nf4", scope)
    full, write = all_weights(model), os.pwrite
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with prepared(policy, model):
        room = int(share * policy.footprint()["masters"])

    def short_of_space(file, data, offset):
        if offset >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[: room - offset], offset)

    monkeypatch.setattr("os.pwrite", short_of_space)
    with pytest.raises(CircuitKitError, match=rf"MiB in {tmp_path}.*No space left.*TMPDIR"):
        policy.prepare(model)
    monkeypatch.setattr("os.pwrite", write)
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())
    assert same(all_weights(model), full)
    assert policy.lowered() is None
    with prepared(policy, model):  # as the message advises
        assert not list(tmp_path.iterdir())
    assert same(all_weights(model), full)


def test_an_interrupt_while_freeing_leaves_the_model_as_it_was(monkeypatch):
    from circuitkit.precision.release import Freeable

    model, free, count = tiny("llama"), Freeable.free, itertools.count()
    full = all_weights(model)

    def interrupted(self):
        if next(count) == 6:
            raise KeyboardInterrupt
        free(self)

    monkeypatch.setattr(Freeable, "free", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PerHeadQuantization().prepare(model)
    assert same(all_weights(model), full)


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
    with prepared(PerHeadQuantization("nf4", scope), model) as policy:
        with policy.investigate([graph.parse_reader("a0.h1<q>")]):
            pass
        with policy.investigate([graph.parse_reader(name)]):
            lowered = [graph.writer_names[writer] for writer in policy.lowered().nonzero()[:, 0]]
        assert lowered == [writer for writer in low if writer not in FULL_UNITS[case]]


def test_groups_of_a_per_head_policy():
    graph = tiny("llama").graph
    first, second = PerHeadQuantization(scope="attention").groups(graph)
    names = [graph.reader_names[reader] for reader in second]
    assert names == [f"a{layer}.{name}" for layer in (0, 1) for name in ("h2<q>", "h3<q>", "kv1<k>", "kv1<v>")]
    assert {"m0", "m1", "logits"} <= {graph.reader_names[reader] for reader in first}
    *_, mlps = groups = list(PerHeadQuantization(scope="attention+mlp").groups(graph))
    assert [graph.reader_names[reader] for reader in mlps] == ["m0", "m1"] and len(groups) == 3
    assert [len(group) for group in UniformQuantization().groups(graph)] == [graph.n_readers]


@pytest.mark.parametrize("arguments", [{"mode": "int4"}, {"scope": "mlp"}])
def test_unknown_arguments_are_refused(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(UsageError, match=rf"{name}='{value}' is unknown.*Choose 'int8'|'attention'"):
        PerHeadQuantization(**arguments)


def test_one_model_at_a_time():
    policy, model = PerHeadQuantization(), tiny("llama")
    with prepared(policy, model), pytest.raises(UsageError, match=r"already holds.*close\(\)"):
        policy.prepare(tiny("gpt2"))


def test_what_the_engine_is_told():
    per_head, uniform, full = PerHeadQuantization(), UniformQuantization("nf4"), FullPrecision()
    assert [(p.anchored, p.varies, p.settles_doubts) for p in (per_head, uniform, full)] == [
        (True, True, True),
        (False, False, False),
        (False, False, False),
    ]
    published = PerHeadQuantization(anchor=False, settle_doubts=False)
    assert (published.anchored, published.settles_doubts) == (False, False)
    assert (per_head.advice(), uniform.advice()) == ("precision: full", "mode='int8'")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_family
@quantizing
def test_on_cuda_as_on_the_cpu(make, variant):
    model = tiny(variant, dtype=torch.float32)
    with prepared(make(), model):
        low = all_weights(model)
    full = all_weights(model)
    model.to("cuda")
    graph = model.graph
    with prepared(make(), model) as policy:
        assert all(torch.allclose(weight.cpu(), low[key]) for key, weight in all_weights(model).items())
        for reader in reversed(range(graph.n_readers)):
            with policy.investigate([reader]):
                wanted = expected(model, policy.lowered(), full, low)
                for key, weight in all_weights(model).items():
                    assert torch.allclose(weight.cpu(), wanted[key])
        with policy.full():
            assert all(torch.equal(weight.cpu(), full[key]) for key, weight in all_weights(model).items())
    assert all(torch.equal(weight.cpu(), full[key]) for key, weight in all_weights(model).items())
