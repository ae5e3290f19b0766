"""EAP with integrated gradients: gradients averaged over runs between the clean and the ablated one."""

from typing import Literal, get_args

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import EdgeGraph
from circuitkit.engine.attribution.reader_gradients import Interpolation, writer_groups
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.errors import UsageError
from circuitkit.strategies.base import DiscoveryStrategy, refuse_zero_gradient, time_discovery
from circuitkit.strategies.discovery import Discovery

Over = Literal["inputs", "activations", "clean-corrupted"]
Endpoint = Literal["corrupted", "clean"]


class EAPIG(DiscoveryStrategy):
    """Edge attribution patching with integrated gradients (Hanna et al. 2024, arXiv 2403.17806).

    score(w -> r) = (õ_w - o_w) . mean of dL/dx_r over runs, summed over positions, mean over prompts. The difference is
    always that of the clean run. With n steps and token embeddings e, the runs are

    - `over="inputs"`: from the embeddings ẽ + k/n (e - ẽ); nothing else is changed. For large n, the scores of the
      edges out of `input` add up to the objective's change from e to ẽ.
    - `over="activations"`: clean runs in which one group of writers (`input`; the heads of a layer; an MLP) writes
      õ_w + k/n (o_w - õ_w) for k = 1..n, each group in turn; the gradient at every reader is the mean over all groups
      and steps.
    - `over="clean-corrupted"`: two runs, from e and from ẽ.

    With the ablation *resample*, ẽ are the corrupted prompt's embeddings, and õ the corrupted run's outputs. It only
    scores edges: the circuit keeps all of them; choose a size by ranking.

    Args:
        over: the activations to interpolate.
        steps: n; `clean-corrupted` always has its two runs.
        endpoint: with `over="inputs"`, the end of the path that has a run: `"corrupted"` takes k = 0..n-1, as the
            authors' code does, `"clean"` k = 1..n, as the paper does.
        own_writers: with `over="activations"`, use the gradients of a group's runs only for the edges out of that
            group; the authors' code uses them for every edge.

    Raises:
        UsageError: an argument is out of its range, or has no effect with this `over`.
    """

    def __init__(
        self, over: Over = "inputs", steps: int = 5, endpoint: Endpoint = "corrupted", own_writers: bool = False
    ) -> None:
        if over not in get_args(Over):
            raise UsageError(f"over={over!r} is unknown.", "Choose 'inputs', 'activations' or 'clean-corrupted'.")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UsageError(f"steps={steps!r} is not a positive whole number.", "Give one such as 5.")
        if endpoint not in get_args(Endpoint):
            raise UsageError(f"endpoint={endpoint!r} is unknown.", "Choose 'corrupted' or 'clean'.")
        if endpoint != "corrupted" and over != "inputs":
            raise UsageError(
                f"endpoint={endpoint!r} has no effect with over={over!r}.", "Leave it out, or choose over='inputs'."
            )
        if own_writers and over != "activations":
            raise UsageError(
                f"own_writers has no effect with over={over!r}.", "Leave it out, or choose over='activations'."
            )
        self.over = over
        self.steps = steps
        self.endpoint = endpoint
        self.own_writers = own_writers

    def setup(self, run: Discovery) -> None:
        """Refuse an objective whose gradient is zero in every run."""
        if all(alpha == 1 for one in self._interpolations(run.model.graph) for alpha in one.alphas):
            refuse_zero_gradient(run.objective, "EAP-IG at the clean run alone")

    def footprint(self, run: Discovery) -> Need:
        """Count one step; as many as fit run together."""
        steps = max(len(one.alphas) for one in self._interpolations(run.model.graph))
        return run.ranking_need(steps=steps)

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Time a few prompts."""
        return time_discovery(self, run)

    def discover(self, run: Discovery) -> Circuit:
        """Score every edge."""
        interpolations = self._interpolations(run.model.graph)
        return run.rank_edges(interpolations=interpolations, own_writers=self.own_writers)

    def _interpolations(self, graph: EdgeGraph) -> list[Interpolation]:
        inputs, *_ = groups = writer_groups(graph)
        if self.over == "clean-corrupted":
            return [Interpolation(inputs, (0.0, 1.0))]
        first = 0 if self.over == "inputs" and self.endpoint == "corrupted" else 1
        alphas = tuple(step / self.steps for step in range(first, first + self.steps))
        return [Interpolation(group, alphas) for group in (groups if self.over == "activations" else [inputs])]
