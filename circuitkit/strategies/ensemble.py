"""An ensemble: the rankings of several strategies, combined into one."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from scipy import stats
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.config import specs
from circuitkit.errors import UsageError, quote
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery
from circuitkit.strategies.parts import check_strategy, run_strategy, search_part

Combine = Literal["rank", "mean", "min", "max"]
_PAPERS_MEMBERS = ("eap", "eap_ig", {"class_path": "eap_ig", "init_args": {"over": "activations"}})


class Ensemble(DiscoveryStrategy):
    """Several strategies on the same prompts, and one ranking from theirs (Mondorf et al. 2025, arXiv 2510.06811).

    This is the paper's parallel ensemble. Its sequential one, a search that starts from another method's scores, is not
    an ensemble here. With `combine="mean"`, `"min"` or `"max"`, an edge's score is that of its members' scores, as in
    the authors' code, where the mean did best. These compare scores of one unit only, such as EAP's and EAP-IG's
    estimates of one effect. With `"rank"` (ours), a member gives each edge the fraction of the edges that it ranks no
    higher than this one, with the sign of its score, or 0 for a score of 0; an edge's score is the mean of these. So
    scores of different methods, and of gates, can be combined. A member that chooses edges ranks these first.

    It only scores edges: the circuit keeps all of them; choose a size by ranking.

    Args:
        strategies: two or more: names, mappings of `class_path` and `init_args`, or `DiscoveryStrategy` objects; each
            finds one circuit. By default the paper's members: EAP, and EAP-IG over inputs and over activations.
        combine: how.

    Raises:
        UsageError: an argument does not fit.
    """

    def __init__(
        self,
        strategies: Sequence[str | Mapping[str, Any] | DiscoveryStrategy] = _PAPERS_MEMBERS,
        combine: Combine = "rank",
    ) -> None:
        if not isinstance(strategies, list | tuple) or len(strategies) < 2:
            raise UsageError(
                f"strategies={quote(strategies)} is no ensemble.", "Give two strategies or more, as a list."
            )
        if combine not in get_args(Combine):
            raise UsageError(f"combine={combine!r} is unknown.", f"Choose from {', '.join(get_args(Combine))}.")
        self._members = [specs.make("strategies", one) for one in strategies]
        for given, member in zip(strategies, self._members, strict=True):
            if not isinstance(member, DiscoveryStrategy):
                raise UsageError(f"{given!r} is no strategy.", "Give a name such as 'eap'.")
            _refuse_several(member)
        # As plain data, so that a configuration can hold objects given in Python
        self.strategies = [specs.describe(one) if isinstance(one, DiscoveryStrategy) else one for one in strategies]
        self.combine = combine

    def setup(self, run: Discovery) -> None:
        """Refuse what a member refuses, before the first begins."""
        for number, member in enumerate(self._members, 1):
            check_strategy(member, run.part(_name(number)))

    @property
    def searches(self) -> Sequence[tuple[DiscoveryStrategy, float]]:
        """List the members."""
        return [(member, 1.0) for member in self._members]

    def discover(self, run: Discovery) -> Circuit:
        """Run the members one after the other, and combine their scores; the cost of each is logged (`members`)."""
        circuits, rows = [], []
        for number, member in enumerate(self._members, 1):
            circuit, part = _run_member(run, member, number)
            circuits.append(circuit)
            rows.append({"strategy": specs.to_call(member), **part.metrics})
            run.notes.extend(note for note in part.notes if note not in run.notes)
        run.log(members=rows)
        estimated = all(bool((one.score_sources == ScoreSource.ESTIMATED).all()) for one in circuits)
        source = ScoreSource.ESTIMATED if estimated and self.combine != "rank" else ScoreSource.GIVEN
        return Circuit.from_scores(run.model.graph, combine_scores(circuits, self.combine), score_sources=source)


def combine_scores(circuits: Sequence[Circuit], combine: Combine) -> Tensor:
    """Combine the scores of circuits of one graph, float64 `[edges]`; see `Ensemble`."""
    if combine == "rank":
        return torch.stack([_signed_ranks(circuit) for circuit in circuits]).mean(0)
    scores = torch.stack([circuit.scores.double() for circuit in circuits])
    if combine == "mean":
        return scores.mean(0)
    return scores.amin(0) if combine == "min" else scores.amax(0)


def _signed_ranks(circuit: Circuit) -> Tensor:
    """Return the fraction of the edges that a circuit ranks no higher than each, with the sign of its score.

    Edges are ranked by |score|, the kept ones before all others; equal ones share the mean of their ranks.
    """
    scores = circuit.scores.double().numpy()
    by_score = stats.rankdata(abs(scores))
    ranks = torch.from_numpy(stats.rankdata(by_score + len(scores) * circuit.kept.numpy()))
    return ranks / len(scores) * circuit.scores.double().sign()


def _run_member(run: Discovery, member: DiscoveryStrategy, number: int) -> tuple[Circuit, Discovery]:
    """Run a member, or read what it found before the run was interrupted; its seconds are among its metrics."""

    def find(part: Discovery) -> Sequence[Circuit]:
        found = run_strategy(member, part)
        part.metrics["wall_s"] = part.seconds() + part.metrics.get("proposal_s", 0.0)
        return found

    circuits, part = search_part(run, _name(number), specs.describe(member), find)
    if len(circuits) != 1:
        raise UsageError(f"{member!r} found {len(circuits)} circuits.", "Give a strategy that finds one.")
    return circuits[0], part


def _name(number: int) -> str:
    """Return the name of a member's search."""
    return f"member_{number}"


def _refuse_several(member: DiscoveryStrategy) -> None:
    values = [] if member.operating_point is None else member.operating_values()
    if len(values) > 1:
        raise UsageError(
            f"{member!r} would find {len(values)} circuits.", "Give one value each, in several strategies."
        )
