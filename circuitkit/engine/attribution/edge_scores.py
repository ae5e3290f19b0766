"""First-order effects of removing every edge, and of ablating every writer, from a few backward passes.

    score(w -> r) = (õ_w - o_w) . dL/dx_r,  summed over positions     (Syed et al. 2023, arXiv 2310.10348)

with the ablated output õ_w and the clean one o_w. The gradient is taken on the clean run, or averaged over runs between
the clean and the ablated one (Hanna et al. 2024, arXiv 2403.17806). A backward rule may change how it is computed.

One backward pass serves all readers (see `reader_gradients`). As soon as the gradients of a block are known, one matrix
product for each prompt contracts them with the differences of the writers before it. So every prompt's scores are known
at no extra cost.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.circuit.graph import Block
from circuitkit.engine.attribution.reader_gradients import CLEAN_RUN, Interpolation, ReaderGradients
from circuitkit.engine.prepared_batch import PreparedBatch
from circuitkit.models.backward_rule import PLAIN, BackwardRule


def attribute(
    prepared: PreparedBatch,
    rule: BackwardRule = PLAIN,
    interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
    own_writers: bool = False,
    memory_budget: int | None = None,
) -> Tensor:
    """Estimate the effect of removing each edge alone, summed over the prompts, `[edges]`; see `attribute_prompts`."""
    return attribute_prompts(prepared, rule, interpolations, own_writers, memory_budget).sum(0)


def attribute_prompts(
    prepared: PreparedBatch,
    rule: BackwardRule = PLAIN,
    interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
    own_writers: bool = False,
    memory_budget: int | None = None,
) -> Tensor:
    """Estimate the effect of removing each edge alone on each prompt's objective.

    Args:
        prepared: model under its policy, batch, objective and ablation.
        rule: the backward rule of the gradients.
        interpolations: the runs over which gradients are averaged, each run with the same weight.
        own_writers: use the gradients of an interpolation's runs only for the edges out of the interpolated writers;
            the score of such an edge is the average over its writer's runs.
        memory_budget: bytes; limits how many runs are computed at once. By default half of what is free.

    Returns:
        `[B, edges]`: objective after the removal minus before; positive if the edge helps.
    """
    graph = prepared.model.graph
    scores = prepared.inputs.new_zeros(len(prepared.batch), len(graph))
    for group in prepared.policy.groups(graph):
        with prepared.policy.investigate(group):
            gradients = ReaderGradients(prepared, rule, interpolations, memory_budget)
            estimated = _edge_scores(prepared, gradients, interpolations, own_writers)
        if len(group) == graph.n_readers:
            return estimated
        for reader in group:
            scores[:, graph.edges(reader)] = estimated[:, graph.edges(reader)]
    return scores


def attribute_writers(prepared: PreparedBatch, rule: BackwardRule = PLAIN) -> Tensor:
    """Estimate the effect of ablating each writer (removing all its edges together) on each prompt's objective.

    To first order this is the sum of the effects of its edges.

    Args:
        prepared: model under its policy, batch, objective and ablation.
        rule: the backward rule of the gradients.

    Returns:
        `[W, B]`: (õ_w - o_w) . dL/do_w on the clean run, summed over positions; positive if the writer helps.
    """
    graph = prepared.model.graph
    effects: Tensor | None = None
    for group in prepared.policy.groups(graph):
        with prepared.policy.investigate(group):
            estimated = _writer_effects(prepared, ReaderGradients(prepared, rule))
        effects = estimated if effects is None else effects
        fed = [writer for reader in group for writer in graph.writers_fed_by(reader)]
        effects[fed] = estimated[fed]
    assert effects is not None, "every reader is in a group"
    return effects


def _edge_scores(
    prepared: PreparedBatch, gradients: ReaderGradients, interpolations: Sequence[Interpolation], own_writers: bool
) -> Tensor:
    graph = prepared.model.graph
    scores = prepared.inputs.new_zeros(len(prepared.batch), len(graph))
    runs = sum(len(interpolation.alphas) for interpolation in interpolations)
    for interpolation in interpolations:
        writers = interpolation.writers if own_writers else slice(None)
        weight = 1 / (len(interpolation.alphas) if own_writers else runs)

        def contract(block: Block, found: Tensor, writers: slice = writers, weight: float = weight) -> None:
            differences = gradients.ablated_minus_clean[: block.writers][writers].flatten(2)  # [U, B, T * D]
            by_prompt = graph.matrix(scores, block)[..., writers]  # [B, R, U]
            by_prompt.baddbmm_(found.flatten(2).transpose(0, 1), differences.permute(1, 2, 0), alpha=weight)

        gradients.compute(interpolation, contract, downstream_only=own_writers)
    return scores


def _writer_effects(prepared: PreparedBatch, gradients: ReaderGradients) -> Tensor:
    effects = prepared.inputs.new_zeros(prepared.model.graph.n_writers, len(prepared.batch))

    def contract(block: Block, found: Tensor) -> None:
        differences = gradients.ablated_minus_clean[: block.writers].flatten(2)  # [U, B, T * D]
        effects[: block.writers] += torch.einsum("wbx,bx->wb", differences, found.sum(0).flatten(1))

    gradients.compute(CLEAN_RUN, contract)
    return effects
