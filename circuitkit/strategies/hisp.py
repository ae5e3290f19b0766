"""HISP: edge scores from the importance of heads and MLPs."""

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.engine.attribution.edge_scores import attribute_writers
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.strategies.base import DiscoveryStrategy, refuse_zero_gradient, time_discovery
from circuitkit.strategies.discovery import Discovery


class HISP(DiscoveryStrategy):
    """Head importance score for pruning (Michel et al. 2019, arXiv 1905.10650), extended from nodes to edges.

    A writer's importance is the sum over prompts of |(õ_w - o_w) . dL/do_w|, where the dot product includes positions,
    divided by the L2 norm of its layer's importances (heads and MLP together). With the ablation *zero* this is the
    authors' |dL/dmask| at mask 1; with another ablation, the mask mixes in the ablated output instead of zero.

    An edge's score is the minimum of the importances of its two nodes: its writer, and the node that its reader feeds
    (for a shared key or value, the most important of its heads). `input`, `positions` and `logits` have importance 1,
    the largest possible. All edges between two nodes have the same score, so that a cut by size often falls inside a
    tie. Scores are not signed. It only scores edges: the circuit keeps all of them; choose a size by ranking.
    """

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient is zero at the full model."""
        refuse_zero_gradient(run.objective, "HISP")

    def footprint(self, run: Discovery) -> Need:
        """Count one pass."""
        return run.footprints.attribution()

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few prompts."""
        return time_discovery(self, run)

    def discover(self, run: Discovery) -> Circuit:
        """Score every writer, and from them every edge."""
        graph = run.model.graph
        importance = torch.zeros(graph.n_writers, dtype=torch.float64)
        for prepared in run.batches_in_turn(self.footprint(run)):
            importance += attribute_writers(prepared).abs().sum(1).double().cpu()
            del prepared
        scores = edge_scores(graph, normalize_by_layer(graph, run.sum(importance)))
        return Circuit.from_scores(graph, scores, score_sources=ScoreSource.ESTIMATED)


def normalize_by_layer(graph: EdgeGraph, importance: Tensor) -> Tensor:
    """Divide importances `[W]` by the L2 norm of their layer's; 1 for `input` and `positions`."""
    by_layer = importance[graph.inputs :].unflatten(0, (graph.layers, -1))
    lengths = torch.linalg.vector_norm(by_layer, dim=1, keepdim=True)
    by_layer = by_layer / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)  # 0 if all of a layer's are 0
    return torch.cat([importance.new_ones(graph.inputs), by_layer.flatten()])


def edge_scores(graph: EdgeGraph, nodes: Tensor) -> Tensor:
    """Take the minimum of the scores of each edge's two nodes, `[edges]`, from the writers' scores `[W]`."""
    logits = nodes.new_ones(())
    fed = [
        max((nodes[writer] for writer in graph.writers_fed_by(reader)), default=logits)
        for reader in range(graph.n_readers)
    ]
    return torch.minimum(nodes[graph.writer_of], torch.stack(fed)[graph.reader_of])
