"""One search of a strategy under its precision policy; one of several, which is kept where it can be resumed."""

import math
import time

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.engine.memory import explain_out_of_memory
from circuitkit.evaluation.intervals import FEWEST
from circuitkit.evaluation.score_intervals import compute_half_agreement, compute_score_intervals
from circuitkit.run.found_circuits import check_circuits
from circuitkit.run.under_policy import under_policy
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import PROPOSAL, search_part


def search(strategy: DiscoveryStrategy, run: Discovery) -> list[Circuit]:
    """Run the strategy under the precision policy, from the saved state if there is one."""

    def discover() -> list[Circuit]:
        run.resume()
        circuits = check_circuits(strategy, strategy.discover(run), run)
        run.fabric.call("on_discovery_end", run, circuits)
        if not any(not circuit.is_ranking or bool(circuit.scores.any()) for circuit in circuits):
            run.note(
                "Every edge scores 0, and this ranking means nothing: the objective does not change, or removed edges "
                "carry what they carried before. Look at the objective, the prompts and the ablation."
            )
        judge_scores(circuits[0], run)
        return circuits

    with explain_out_of_memory():
        return under_policy(strategy, run, discover)


def judge_scores(ranking: Circuit, run: Discovery) -> None:
    """Compute the intervals of a ranking's scores and how far halves of the prompts agree, where they are known.

    The time is logged apart (`score_intervals_s`), since it is not the strategy's. Process 0 does it for all.

    Args:
        ranking: found by `run`.
        run: its `prompt_scores` are used and let go, its `score_intervals` set.
    """
    scores, run.prompt_scores = run.prompt_scores, None
    if scores is None or len(scores) < FEWEST or run.processes.rank:
        return
    started, seed = time.perf_counter(), run.generator.initial_seed()
    low, high = compute_score_intervals(scores, ranking.scores, seed)
    spearman, jaccard = compute_half_agreement(scores, seed)
    run.score_intervals = {"low": torch.from_numpy(low), "high": torch.from_numpy(high)}
    run.log(
        sign_certain=int(((low > 0) | (high < 0)).sum()),
        halves_spearman=None if math.isnan(spearman) else spearman,
        halves_jaccard=jaccard,
        score_intervals_s=time.perf_counter() - started,
    )


class SeveralSearches:
    """The searches of one run, each from the same start.

    Where the run has a folder, each has a folder of its own in the checkpoint: for the state of the strategy and, at
    the end, for its circuits. So a resumed run reads the finished ones, and continues the interrupted one.

    Args:
        run: the run; it counts the resumptions of all searches.
    """

    def __init__(self, run: Discovery) -> None:
        self._run = run
        self._count = 0

    def propose(self, strategy: DiscoveryStrategy) -> tuple[list[Circuit], Discovery]:
        """Search for the circuit that all other searches start from, or read it if it is found already."""
        return search_part(self._run, PROPOSAL, specs.describe(strategy), lambda part: search(strategy, part))

    def search(self, strategy: DiscoveryStrategy, value: float | None) -> tuple[list[Circuit], Discovery]:
        """Search, or read the circuits of the finished search of this number.

        Args:
            strategy: set to the operating point.
            value: of the operating point, to recognize the search.

        Returns:
            The circuits, and the search's own `Discovery` with its metrics and notes.

        Raises:
            CircuitKitError: what is saved does not fit.
        """
        self._count += 1
        return search_part(self._run, f"search_{self._count}", value, lambda part: search(strategy, part))
