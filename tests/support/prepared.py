"""Prepared batches of random prompts for tiny models, and equation (1) on them by plain loops."""

import torch

from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.prepared_batch import PreparedBatch

ABLATIONS = [Resample, Mean, Zero]


def prepare(model, batch, ablation=Resample, objective=LogitDifference):
    made = ablation()
    made.fit(model, [batch])
    return PreparedBatch(model, batch, objective(), made)


def slow_final(prepared: PreparedBatch, mask: torch.Tensor) -> torch.Tensor:
    """Equation (1) under one mask `[edges]`, edge by edge, with autograd's own gradients; `[B, A, D]`."""
    model, graph = prepared.model, prepared.model.graph
    outputs = list(prepared.inputs)
    constant = prepared.model.constant(prepared.context) + torch.zeros_like(outputs[0])

    def read(reader: int) -> torch.Tensor:
        total = constant
        for writer, m in enumerate(mask[graph.edges(reader)]):
            total = total + m * outputs[writer] + (1 - m) * prepared.ablated[writer]
        return total

    for layer in range(graph.layers):
        inputs = torch.stack([read(reader) for reader in graph.attention(layer).readers])
        early = read(graph.mlp_block(layer).readers[0]) if graph.parallel else None
        outputs += model.heads(layer, inputs, prepared.context)
        constant = constant + model.attention_constant(layer)
        outputs.append(model.mlp(layer, read(graph.mlp_block(layer).readers[0]) if early is None else early))
    return model.at_answers(read(graph.logits), prepared.batch)
