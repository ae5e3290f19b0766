"""What every precision policy must do on every family: the registered ones, and one from outside the package."""

import inspect
import itertools
from functools import partial

import pytest
import torch
from support.outside import outside
from support.tiny import VARIANTS, random_batch, tiny
from support.weights import by_bitsandbytes
from transformers.pytorch_utils import Conv1D

from circuitkit.config import registry
from circuitkit.contracts import policies
from circuitkit.contracts.weights import all_weights, mix_weights, prepare_policy
from circuitkit.precision.pahq import PAHQ, AllLowPrecision

MODES = ("int8", "nf4", "fp4", "bf16")
SCOPES = ("attention", "attention+mlp")
ERROR = {"int8": 0.02, "nf4": 0.2, "fp4": 0.25, "bf16": 0.01}
"""Allowed size of a product's error, relative to the product."""


def every_policy():
    yield pytest.param(outside("my_policy").HalfOutputs, id="outside")
    for name in registry.names("precision"):
        kind = registry.load("precision", name)
        if "mode" in inspect.signature(kind).parameters:
            for mode, scope in itertools.product(MODES, SCOPES):
                yield pytest.param(partial(kind, mode, scope), id=f"{name}-{mode}-{scope}")
        else:
            yield pytest.param(kind, id=name)


def test_the_policies_of_the_package_are_among_those_tested():
    assert {"full", "pahq", "all_low"} <= set(registry.names("precision"))


EVERY = 3


def in_turn(found):
    """Pair policies with families: every third of all pairs, so that each meets many; all of them take minutes."""
    for (row, policy), (column, variant) in itertools.product(enumerate(found), enumerate(sorted(VARIANTS))):
        if (row + column) % EVERY == 0:
            yield pytest.param(*policy.values, variant, id=f"{policy.id}-{variant}")


all_policies = pytest.mark.parametrize(("make", "variant"), list(in_turn(every_policy())))
quantizing = pytest.mark.parametrize(
    ("make", "variant"),
    list(
        in_turn(
            pytest.param(partial(kind, mode, "attention+mlp"), id=f"{kind.__name__}-{mode}")
            for kind in (PAHQ, AllLowPrecision)
            for mode in MODES
        )
    ),
)


@all_policies
def test_weights_agree_with_low_precision_writers(make, variant):
    for kv in ("group", "head"):
        policies.check_low_precision_writers(make, tiny(variant, kv=kv))


@all_policies
def test_contexts_nest_and_survive_exceptions(make, variant):
    policies.check_contexts(make, tiny(variant))


@all_policies
def test_every_reader_is_in_one_group(make, variant):
    for kv in ("group", "head"):
        policies.check_groups(make, tiny(variant, kv=kv))


@all_policies
def test_closing_restores_everything(make, variant):
    model = tiny(variant)
    next(model.model.parameters()).requires_grad_(False)
    batch = random_batch()
    logits = model.model(batch.clean).logits
    policies.check_closing(make, model)
    assert torch.equal(model.model(batch.clean).logits, logits)


@all_policies
def test_effects_are_finite_and_full_precision_changes_no_bit(make, variant):
    policies.check_effects(make, tiny(variant), random_batch())


# What quantizing policies must do further


@quantizing
def test_low_weights_are_those_of_bitsandbytes_head_by_head(make, variant):
    model = tiny(variant)
    full = all_weights(model)
    with prepare_policy(make(), model) as policy:
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


@quantizing
def test_products_are_within_the_modes_error(make, variant):
    """Square matrices too: if one were read transposed, its products would be far off."""
    model = tiny(variant)
    graph = model.graph
    torch.manual_seed(0)
    x = torch.randn(1, 50, 3, model.family.width, dtype=torch.float64)
    z = torch.randn(graph.heads, 50, 3, model.family.head_width, dtype=torch.float64)

    def products():
        for layer in range(graph.layers):
            attention = model.attention(layer)
            for kind in ("q", "k", "v"):
                yield attention.project(kind, x)
            yield attention.project_out(z)
            yield model.mlp(layer, x[0])

    expected_products = list(products())
    with prepare_policy(make(), model) as policy:
        for low, full in zip(products(), expected_products, strict=True):
            assert (low - full).norm() < 2 * ERROR[policy.mode] * full.norm()


@quantizing
def test_fewer_bytes_of_weights_are_in_memory(make, variant):
    model = tiny(variant)
    before = sum(p.nbytes for p in model.model.parameters())
    with prepare_policy(make(), model) as policy:
        held = policy.footprint()
        assert held["high"] == before - held["full"] == sum(p.nbytes for p in model.model.parameters())
        assert 0 < held["low"] < held["full"] / (2 if policy.mode == "bf16" else 3)
    assert policy.footprint() == {}


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="compares weights on a CUDA device with the CPU's; there is no such device"
)
@quantizing
def test_weights_on_cuda_equal_those_on_the_cpu(make, variant):
    model = tiny(variant, dtype=torch.float32)
    with prepare_policy(make(), model):
        low = all_weights(model)
    full = all_weights(model)
    model.to("cuda")
    graph = model.graph
    with prepare_policy(make(), model) as policy:
        assert all(torch.allclose(weight.cpu(), low[key]) for key, weight in all_weights(model).items())
        for reader in reversed(range(graph.n_readers)):
            with policy.investigate([reader]):
                wanted = mix_weights(model, policy.low_precision_writers(), full, low)
                for key, weight in all_weights(model).items():
                    assert torch.allclose(weight.cpu(), wanted[key])
        with policy.full():
            assert all(torch.equal(weight.cpu(), full[key]) for key, weight in all_weights(model).items())
    assert all(torch.equal(weight.cpu(), full[key]) for key, weight in all_weights(model).items())
