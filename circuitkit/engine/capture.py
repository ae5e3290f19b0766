"""Every writer's output on a plain run."""

import torch
from torch import Tensor

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.context import Context


@torch.no_grad()
def capture(model: CircuitModel, inputs: Tensor, context: Context) -> Tensor:
    """Run the model, and keep the output of every writer.

    Args:
        model: with its current weights (under its policy).
        inputs: outputs of the writers before the first layer, `[1 or 2, B, T, D]`.
        context: of the batch.

    Returns:
        `[W, B, T, D]`, the largest tensor that the engine holds.
    """
    outputs = inputs.new_empty(model.graph.n_writers, *inputs.shape[1:])
    for writers, output, _ in model.run(inputs, context):
        outputs[writers] = output
    return outputs
