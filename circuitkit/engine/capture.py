"""Every writer's output on a plain run."""

import torch
from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel, Context


@torch.no_grad()
def capture(model: CircuitModel, embedded: Tensor, context: Context) -> Tensor:
    """Run the model, and keep the output of every writer.

    Args:
        model: with its current weights (under its policy).
        embedded: token embeddings `[B, T, D]`, the output of `input`.
        context: of the batch.

    Returns:
        `[W, B, T, D]`, the largest tensor that the engine holds.
    """
    outputs = embedded.new_empty(model.graph.n_writers, *embedded.shape)
    for writers, output, _ in model.run(embedded, context):
        outputs[writers] = output
    return outputs
