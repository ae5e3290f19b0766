"""The weights that the engine gets of a model, with and without a policy."""

from contextlib import contextmanager

import bitsandbytes.functional as bnb
import torch
from torch import Tensor


@contextmanager
def prepared(policy, model):
    """Prepare a policy for a model inside."""
    policy.prepare(model)
    try:
        yield policy
    finally:
        policy.close()


def all_weights(model) -> dict[tuple, Tensor]:
    """Copy every weight that the engine gets."""
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
    """Tell whether two sets of weights are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def expected(model, lowered, full: dict, low: dict) -> dict[tuple, Tensor]:
    """Take the weights of the writers in `lowered` from `low`, the others from `full`."""
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


def by_bitsandbytes(matrix: Tensor, mode: str) -> Tensor:
    """Round one matrix alone by bitsandbytes: in float32, whatever its dtype, and back.

    In 4 bits, it multiplies a block by the reciprocal of its scale, but divides by the scale in an incomplete last
    block, on a CPU only. So that a tie between two codes falls alike everywhere, all blocks are complete.
    """
    if mode == "bf16":
        return matrix.bfloat16().to(matrix.dtype)
    if mode == "int8":
        return bnb.int8_vectorwise_dequant(*bnb.int8_vectorwise_quant(matrix.float())[:2]).to(matrix.dtype)
    values = matrix.flatten() if matrix.dtype.itemsize < 8 else matrix.flatten().float()
    padded = torch.cat([values, values.new_zeros(-len(values) % 64)])
    found = bnb.dequantize_4bit(*bnb.quantize_4bit(padded, blocksize=64, quant_type=mode))
    return found.flatten()[: len(values)].view(matrix.shape).to(matrix.dtype)
