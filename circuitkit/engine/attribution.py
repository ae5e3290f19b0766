"""First-order effects of removing every edge, and of every writer, from few backward passes.

    score(w -> r) = (õ_w - o_w) . dL/dx_r,  summed over positions     (Syed et al. 2023, arXiv 2310.10348)

The difference is that of the ablated output from the clean one. The gradient is taken on the clean run, or averaged
over runs between the clean and the ablated one (Hanna et al. 2024, arXiv 2403.17806). It follows a backward rule.

No reader has a pass of its own (see `reader_gradients.py`): as soon as the gradients of a block are known, they are
contracted with the differences of the writers before it, in one matrix product.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine.reader_gradients import CLEAN_RUN, Interpolation, ReaderGradients
from circuitkit.engine.scene import Scene
from circuitkit.graph import Block
from circuitkit.models.backward_rule import PLAIN, BackwardRule


def attribute(
    scene: Scene,
    rule: BackwardRule = PLAIN,
    interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
    own_writers: bool = False,
    memory_budget: int | None = None,
) -> Tensor:
    """Estimated effect of removing each edge alone, summed over the prompts of the scene.

    Args:
        scene: model under its policy, batch, objective and ablation.
        rule: what the backward follows.
        interpolations: the runs that the gradients are averaged over, each run with the same weight.
        own_writers: the gradients of an interpolation's runs count for the edges out of the interpolated writers only;
            each such edge has the average over its writer's runs.
        memory_budget: bytes; it limits how many runs are made at once. By default half of what is free.

    Returns:
        `[edges]`: objective after the removal minus before; positive where the edge helps.
    """
    graph = scene.model.graph
    scores = scene.embedded.new_zeros(len(graph))
    for group in scene.policy.groups(graph):
        with scene.policy.investigate(group):
            gradients = ReaderGradients(scene, rule, memory_budget)
            estimated = _edge_scores(scene, gradients, interpolations, own_writers)
        if len(group) == graph.n_readers:
            return estimated
        for reader in group:
            scores[graph.edges(reader)] = estimated[graph.edges(reader)]
    return scores


def attribute_writers(scene: Scene, rule: BackwardRule = PLAIN) -> Tensor:
    """Estimated effect of ablating each writer, all its edges together, on the objective of each prompt.

    To first order that is the sum of the effects of its edges.

    Args:
        scene: model under its policy, batch, objective and ablation.
        rule: what the backward follows.

    Returns:
        `[W, B]`: (õ_w - o_w) . dL/do_w on the clean run, summed over positions; positive where the writer helps.
    """
    graph = scene.model.graph
    effects: Tensor | None = None
    for group in scene.policy.groups(graph):
        with scene.policy.investigate(group):
            estimated = _writer_effects(scene, ReaderGradients(scene, rule))
        effects = estimated if effects is None else effects
        owners = [writer for reader in group for writer in graph.owners(reader)]
        effects[owners] = estimated[owners]
    assert effects is not None, "every reader is in a group"
    return effects


def _edge_scores(
    scene: Scene, gradients: ReaderGradients, interpolations: Sequence[Interpolation], own_writers: bool
) -> Tensor:
    graph = scene.model.graph
    scores = scene.embedded.new_zeros(len(graph))
    runs = sum(len(interpolation.shares) for interpolation in interpolations)
    for interpolation in interpolations:
        writers = interpolation.writers if own_writers else slice(None)
        weight = 1 / (len(interpolation.shares) if own_writers else runs)

        def contract(block: Block, found: Tensor, writers: slice = writers, weight: float = weight) -> None:
            differences = gradients.differences[: block.writers][writers]
            graph.matrix(scores, block)[:, writers].addmm_(found.flatten(1), differences.flatten(1).T, alpha=weight)

        gradients.at(interpolation, contract, behind=own_writers)
    return scores


def _writer_effects(scene: Scene, gradients: ReaderGradients) -> Tensor:
    effects = scene.embedded.new_zeros(scene.model.graph.n_writers, len(scene.batch))

    def contract(block: Block, found: Tensor) -> None:
        differences = gradients.differences[: block.writers].flatten(2)  # [P, B, T * D]
        effects[: block.writers] += torch.einsum("wbx,bx->wb", differences, found.sum(0).flatten(1))

    gradients.at(CLEAN_RUN, contract)
    return effects
