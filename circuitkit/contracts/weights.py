"""The weights that the engine gets of a model, with and without a policy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import PrecisionPolicy

Weights = Mapping[tuple[str, int, str], Tensor]
"""By part (`attention`, `mlp`), layer and name."""
_ATTENTION = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias")


@contextmanager
def prepare_policy(policy: PrecisionPolicy, model: CircuitModel) -> Iterator[Any]:
    """Prepare a policy for a model inside a `with`, and give it."""
    policy.prepare(model)
    try:
        yield policy
    finally:
        policy.close()


def all_weights(model: CircuitModel) -> dict[tuple[str, int, str], Tensor]:
    """Copy every weight that the engine gets."""
    found: dict[tuple[str, int, str], Tensor] = {}
    for layer in range(model.graph.layers):
        attention = model.weights.attention(layer)
        for name in _ATTENTION:
            if (weight := getattr(attention, name)) is not None:
                found["attention", layer, name] = weight.clone()
        if model.graph.mlps:
            found |= {("mlp", layer, name): weight.clone() for name, weight in model.weights.mlp(layer).items()}
    return found


def are_equal(one: Weights, other: Weights) -> bool:
    """Tell whether two sets of weights are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def mix_weights(model: CircuitModel, lowered: Tensor, full: Weights, low: Weights) -> Weights:
    """Take the weights of the writers in `lowered`, bool `[W]`, from `low`, and the others from `full`."""
    graph, found = model.graph, dict[tuple[str, int, str], Tensor]()
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
