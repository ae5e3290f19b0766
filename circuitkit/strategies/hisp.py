"""Head importance: how much the objective of each prompt leans on a head or an MLP."""

import torch
from torch import Tensor

from circuitkit.circuit import Circuit, Origin
from circuitkit.engine.attribution import attribute_writers
from circuitkit.graph import EdgeGraph
from circuitkit.strategies.base import Discovery, DiscoveryStrategy
from circuitkit.strategies.eap import refuse_vanishing


class HISP(DiscoveryStrategy):
    """Head importance score for pruning (Michel et al. 2019, arXiv 1905.10650), spread from nodes to edges.

    A writer's importance is the sum over prompts of |(õ_w - o_w) . dL/do_w|, the dot product over positions too, divided
    by the Euclidean length of its layer's importances (heads and MLP together). With the ablation *zero* that is
    the authors' |dL/dmask| at mask 1; with another, a mask that mixes in the ablated output instead of nothing.

    An edge is there when both its ends are: its score is the lesser of its writer's importance and that of what its
    reader feeds (the most important head of a shared key or value). `input` and `logits` are always there: they have
    1, more than which no node can have. All edges between two nodes score alike, so that a cut by size often falls
    inside a tie. Scores have no sign. It scores; the circuit keeps every edge, and sizes come from ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient vanishes at the full model."""
        refuse_vanishing(run.objective, "HISP")

    def discover(self, run: Discovery) -> Circuit:
        """Score every writer, and from them every edge."""
        graph = run.model.graph
        importance = torch.zeros(graph.n_writers, dtype=torch.float64)
        done = 0
        for scene in run.scenes():
            importance += attribute_writers(scene).abs().sum(1).double().cpu()
            done += len(scene.batch)
            run.report(done, run.prompts, "prompts")
        scores = edge_scores(graph, normalised(graph, importance))
        return Circuit.from_scores(graph, scores, origin=Origin.ESTIMATED)


def normalised(graph: EdgeGraph, importance: Tensor) -> Tensor:
    """Importances `[W]` divided by the length of those of their layer; 1 for `input`."""
    by_layer = importance[1:].unflatten(0, (graph.layers, -1))
    lengths = torch.linalg.vector_norm(by_layer, dim=1, keepdim=True)
    by_layer = by_layer / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)  # 0 where a layer has none
    return torch.cat([importance.new_ones(1), by_layer.flatten()])


def edge_scores(graph: EdgeGraph, nodes: Tensor) -> Tensor:
    """The lesser score of each edge's two ends, `[edges]`, from the writers' `[W]`."""
    logits = nodes.new_ones(())
    fed = [max((nodes[writer] for writer in graph.owners(reader)), default=logits) for reader in range(graph.n_readers)]
    return torch.minimum(nodes[graph.writer_of], torch.stack(fed)[graph.reader_of])
