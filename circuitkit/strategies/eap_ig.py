"""EAP with integrated gradients: gradients averaged over runs between the clean and the ablated one."""

from typing import Literal, get_args

from circuitkit.circuit import Circuit, Origin
from circuitkit.engine.reader_gradients import Interpolation, writer_groups
from circuitkit.errors import UsageError
from circuitkit.graph import EdgeGraph
from circuitkit.strategies.base import Discovery, DiscoveryStrategy
from circuitkit.strategies.eap import refuse_vanishing

Over = Literal["inputs", "activations", "clean-corrupted"]
Points = Literal["code", "paper"]


class EAPIG(DiscoveryStrategy):
    """Edge attribution patching with integrated gradients (Hanna et al. 2024, arXiv 2403.17806).

    score(w -> r) = (õ_w - o_w) . mean of dL/dx_r over runs, summed over positions, mean over prompts. The difference is
    that of the clean run throughout. With n steps, and e the token embeddings, the runs are

    - `over="inputs"`: those from the embeddings ẽ + k/n (e - ẽ), nothing else being changed. With n large, the scores
      of the edges out of `input` add up to the objective's change from e to ẽ.
    - `over="activations"`: clean runs in which one group of writers (`input`; the heads of a layer; an MLP) writes
      õ_w + k/n (o_w - õ_w) for k = 1..n, each group in turn; the gradient at every reader is the mean over all groups
      and steps.
    - `over="clean-corrupted"`: the two from e and from ẽ.

    With the ablation *resample*, ẽ are the corrupted prompt's embeddings, and õ the corrupted run's outputs. It scores;
    the circuit keeps every edge, and sizes come from ranking.

    Args:
        over: what is interpolated.
        steps: n; `clean-corrupted` always takes its two runs.
        points: over inputs, `"code"` takes k = 0..n-1, as the authors' code does, `"paper"` k = 1..n.
        own_writers: over activations, the gradients of a group's runs score the edges out of that group only, instead
            of every edge as in the authors' code.
    """

    def __init__(
        self, over: Over = "inputs", steps: int = 5, points: Points = "code", own_writers: bool = False
    ) -> None:
        if over not in get_args(Over):
            raise UsageError(f"over={over!r} is unknown.", "Choose 'inputs', 'activations' or 'clean-corrupted'.")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UsageError(f"steps={steps!r} is not a positive whole number.", "Give one such as 5.")
        if points not in get_args(Points):
            raise UsageError(f"points={points!r} is unknown.", "Choose 'code' or 'paper'.")
        if points != "code" and over != "inputs":
            raise UsageError(f"points={points!r} means nothing over {over}.", "Leave it out, or choose over='inputs'.")
        if own_writers and over != "activations":
            raise UsageError(f"own_writers means nothing over {over}.", "Leave it out, or choose over='activations'.")
        self.over = over
        self.steps = steps
        self.points = points
        self.own_writers = own_writers

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient vanishes in every run."""
        if all(share == 1 for one in self._interpolations(run.model.graph) for share in one.shares):
            refuse_vanishing(run.objective, "EAP-IG at the clean run alone")

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        interpolations = self._interpolations(run.model.graph)
        scores = run.attribution(interpolations=interpolations, own_writers=self.own_writers)
        return Circuit.from_scores(run.model.graph, scores, origin=Origin.ESTIMATED)

    def _interpolations(self, graph: EdgeGraph) -> list[Interpolation]:
        inputs, *_ = groups = writer_groups(graph)
        if self.over == "clean-corrupted":
            return [Interpolation(inputs, (0.0, 1.0))]
        first = 0 if self.over == "inputs" and self.points == "code" else 1
        shares = tuple(step / self.steps for step in range(first, first + self.steps))
        return [Interpolation(group, shares) for group in (groups if self.over == "activations" else [inputs])]
