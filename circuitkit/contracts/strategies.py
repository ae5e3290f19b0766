"""What every strategy must do: checks of one strategy, on one model with prompts."""

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.contracts.model_state import ModelState, OtherGenerators, WatchingSharedState
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.tasks.base import Task

_FACTORS = (4.0, 64.0, 4096.0)
"""Values around an operating point to try, each next one if the circuits have one size at those before."""


@dataclass(frozen=True)
class StrategyCase:
    """A strategy to check, and what it works on.

    Attributes:
        make: makes the strategy, each time a new object.
        model: in full precision.
        prompts: a batch, or a task.
        others: other prompts.
        examples: how many prompts of a task are used.
        seed: of the runs.
        policy: the precision policy of runs for which no other is given; None: the strategy's own.
    """

    make: Callable[[], DiscoveryStrategy]
    model: CircuitModel
    prompts: PromptBatch | Task | str
    others: PromptBatch | Task | str
    examples: int = 4
    seed: int = 3
    policy: str | None = None

    def run(
        self,
        strategy: DiscoveryStrategy | None = None,
        policy: PrecisionPolicy | str | None = None,
        *,
        prompts: PromptBatch | Task | str | None = None,
        callbacks: Sequence[Any] = (),
        **more: Any,
    ) -> Result:
        """Run the strategy; by default a new one, on the case's own prompts, without an evaluation."""
        discoverer = Discoverer("cpu", callbacks=list(callbacks), seed=self.seed)
        made = self.make() if strategy is None else strategy
        task = self.prompts if prompts is None else prompts
        precision = self.policy if policy is None else policy
        options = {"sizes": (), "examples": self.examples, "precision": precision, **more}
        return discoverer.run(self.model, task, made, **options)


def check_scores(case: StrategyCase, policy: PrecisionPolicy | str | None = None) -> Circuit:
    """Check that it gives every edge a finite score, and leaves the model and global state as they were.

    Args:
        case: the case.
        policy: the precision policy of the run.

    Returns:
        The first circuit.

    Raises:
        ContractError: it does not.
    """
    before = ModelState(case.model)
    result = case.run(policy=policy, callbacks=[WatchingSharedState()])
    graph = case.model.graph
    for circuit in result.circuits:
        if circuit.scores.shape != (len(graph),) or not bool(torch.isfinite(circuit.scores).all()):
            refuse(
                f"Scores {list(circuit.scores.shape)}, {int((~torch.isfinite(circuit.scores)).sum())} of them not "
                f"finite, for {len(graph)} edges.",
                "Give every edge of `run.model.graph` a number: `Circuit.from_scores(graph, scores)`.",
            )
    before.check()
    return result.circuit


def check_same_seed(case: StrategyCase) -> Circuit:
    """Check that two runs of one seed give the same circuit, bit for bit, whatever the generators of the process.

    Returns:
        The circuit.

    Raises:
        ContractError: they do not.
    """
    one, other = case.run().circuit, case.run(callbacks=[OtherGenerators()]).circuit
    check_equal(one, other, "Two runs of one seed", "Take all randomness from `run.generator`.")
    return one


def check_rounding_of_nothing(case: StrategyCase) -> None:
    """Check that a policy that rounds nothing makes no difference, on a model whose weights bfloat16 can hold.

    Readers investigated in turn, anchors and rechecks, which a policy adds, then cancel out.

    Args:
        case: its model has such weights.

    Raises:
        ContractError: there is a difference.
    """
    full, found = (case.run(policy=policy).circuit for policy in ("full", PAHQ("bf16", "attention+mlp")))
    tolerance = 1e-12 if case.model.dtype == torch.float64 else 1e-4 * float(full.scores.abs().max())
    same = torch.allclose(found.scores, full.scores, rtol=0, atol=tolerance) and torch.equal(found.kept, full.kept)
    if not same or not torch.equal(found.score_sources, full.score_sources):
        refuse(
            "Under a precision policy that rounds nothing, it finds another circuit than in full precision.",
            "Use weights only through `run.attribution`, `run.editor` or `run.masked_runs`.",
        )


def check_files(case: StrategyCase) -> None:
    """Check that its circuits are the same when they are read again from the run's folder.

    Raises:
        ContractError: they are not.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = case.run(out=Path(folder) / "run")
        loaded = Result.load(Path(folder) / "run")
    if list(loaded.circuits) != list(found.circuits):
        refuse(
            "The circuits, read again from the run's folder, are others.", "Return `Circuit`s made from plain tensors."
        )


def check_cost(case: StrategyCase) -> None:
    """Check that a dry run predicts times and bytes that can be, and changes nothing.

    Raises:
        ContractError: they cannot be.
        NotApplicableError: it estimates nothing.
    """
    before = ModelState(case.model)
    options: dict[str, Any] = {"sizes": (), "examples": case.examples}
    found = Discoverer("cpu", callbacks=[], seed=case.seed).dry_run(case.model, case.prompts, case.make(), **options)
    before.check()
    estimate = found.estimate
    if estimate.search_s is None and found.peak is None:
        raise NotApplicableError("it has neither `estimate_cost` nor `footprint`")
    numbers = [*(estimate.search_s or ()), *(found.peak or ()), *found.parts.values(), *estimate.bytes.values()]
    for low, high in (pair for pair in (estimate.search_s, found.peak) if pair is not None):
        if low > high:
            refuse(f"The estimate {low:g} to {high:g} is no range.", "Give the smaller number first.")
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        refuse("The estimate has a number that is negative or not finite.", "Give seconds and bytes.")


def check_operating_point(case: StrategyCase) -> None:
    """Check that larger values at the operating point give no larger circuits, and some value a smaller one.

    Raises:
        ContractError: they do not, or there is no such argument.
        NotApplicableError: the strategy declares none.
    """
    strategy = case.make()
    point = strategy.operating_point
    if point is None:
        raise NotApplicableError("it declares no `operating_point`: it ranks edges, or its circuits have one size")
    (value, *_) = strategy.operating_values()
    place = point.to_scale(min(max(value, 0.05), 0.95) if point.fraction else value or 1.0)
    for factor in _FACTORS:
        places = (place / factor, place, place * factor)
        edges = [int(case.run(strategy.at(point.from_scale(each))).circuit.kept.sum()) for each in places]
        if edges != sorted(edges, reverse=True):
            refuse(
                f"Circuits at rising values of {point.argument} have {edges} edges.",
                "A larger value must make circuits sparser; name another argument, or give the reciprocal.",
            )
        if edges[0] > edges[-1]:
            return
    refuse(
        f"Circuits at values of {point.argument} from {point.from_scale(places[0]):g} to "
        f"{point.from_scale(places[-1]):g} all have {edges[0]} edges.",
        "Let the argument decide which edges are kept, or declare no `operating_point`.",
    )


def check_equal(one: Circuit, other: Circuit, what: str, remedy: str) -> None:
    """Check that two circuits have the same scores and edges, bit for bit.

    Args:
        one: of the two.
        other: of the two.
        what: the two runs, as the subject of a sentence.
        remedy: what to do.

    Raises:
        ContractError: they have not.
    """
    if not torch.equal(one.scores, other.scores):
        refuse(f"{what} give {int((one.scores != other.scores).sum())} edges another score.", remedy)
    if not torch.equal(one.kept, other.kept):
        refuse(f"{what} keep other edges: {int((one.kept != other.kept).sum())} differ.", remedy)


def round_weights(model: CircuitModel) -> CircuitModel:
    """Round every parameter, in place, to values that bfloat16 can hold."""
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
    return model
