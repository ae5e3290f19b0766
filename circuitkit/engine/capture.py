"""Every writer's output on a plain run, and what low precision gets wrong there."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel, Context
from circuitkit.precision.policy import PrecisionPolicy


@torch.no_grad()
def capture(model: CircuitModel, embedded: Tensor, context: Context) -> Tensor:
    """Run the model and keep what every writer adds to the stream.

    Args:
        model: whose weights are used as they stand (under its policy).
        embedded: token embeddings `[B, T, D]`: the output of `input`.
        context: of the batch.

    Returns:
        `[W, B, T, D]`, the largest thing the engine holds.
    """
    outputs = embedded.new_empty(model.graph.n_writers, *embedded.shape)
    for writers, output, _ in model.run(embedded, context):
        outputs[writers] = output
    return outputs


@torch.no_grad()
def clean_errors(model: CircuitModel, policy: PrecisionPolicy, embedded: Tensor, context: Context) -> Tensor:
    """C_w - f̂_w(x_w) of every writer: its output in full precision, less that in low precision from the same input.

    Args:
        model: under the policy.
        policy: whose low-precision nodes are meant.
        embedded: token embeddings of the clean prompts, `[B, T, D]`.
        context: of the batch.

    Returns:
        `[W, B, T, D]`; 0 for writers that the policy never lowers.
    """
    graph = model.graph
    errors = embedded.new_zeros(graph.n_writers, *embedded.shape)

    def full(writers: slice, compute: Callable[[], Tensor]) -> Tensor:
        with policy.full():
            outputs = compute()
        with policy.investigate(()):
            low = policy.lowered()
            if low is not None and low[writers].any():
                errors[writers] = outputs - compute()
        return outputs

    stream = embedded + model.constant(context)
    for layer in range(graph.layers):
        heads = full(graph.heads_of(layer), partial(model.heads, layer, stream[None], context))
        after = stream + heads.sum(0) + model.attention_constant(layer)
        if graph.mlps:
            writer = slice(graph.mlp(layer), graph.mlp(layer) + 1)
            after = after + full(writer, partial(model.mlp, layer, (stream if graph.parallel else after)[None]))[0]
        stream = after
    return errors
