"""A discovery method outside the package: EAP that prefers late layers.

pip install examples/my_strategy
circuitkit list strategies
circuitkit discover --model toy --task ioi --strategy late_layers --strategy.decay 0.5
"""

import torch

from circuitkit import Circuit, Discovery, DiscoveryStrategy, UsageError


class LateLayers(DiscoveryStrategy):
    """First-order effects, multiplied by a factor for each layer between the reader and the logits.

    Args:
        decay: the factor, in (0, 1]; 1 gives EAP's scores.
        keep: fraction of the edges that the circuit keeps.
    """

    def __init__(self, decay: float = 0.8, keep: float = 0.1) -> None:
        for name, value in (("decay", decay), ("keep", keep)):
            if not 0 < value <= 1:
                raise UsageError(f"The {name} {value!r} is not in (0, 1].", "Give one such as 0.5.")
        self.decay = decay
        self.keep = keep

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge, and keep those of largest absolute score."""
        graph = run.model.graph
        layers = torch.tensor([graph.reader(index).layer for index in range(graph.n_readers)])
        distance = (graph.layers - layers)[graph.reader_of]
        scores = run.attribution() * self.decay**distance
        return Circuit.from_scores(graph, scores).top(int(self.keep * len(graph)))
