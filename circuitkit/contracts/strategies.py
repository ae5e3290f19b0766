"""What every strategy must do: checks of one strategy, on one model with prompts."""

import inspect
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.contracts.model_state import ModelState, OtherGenerators, WatchingSharedState
from circuitkit.contracts.outcome import NotApplicableError, refuse
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.precision.pahq import PAHQ
from circuitkit.run.callbacks import Callback
from circuitkit.run.discoverer import Discoverer
from circuitkit.run.result import Result
from circuitkit.strategies import discovery
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery
from circuitkit.tasks.base import Task


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
    """

    make: Callable[[], DiscoveryStrategy]
    model: CircuitModel
    prompts: PromptBatch | Task | str
    others: PromptBatch | Task | str
    examples: int = 4
    seed: int = 3

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
        options = {"sizes": (), "examples": self.examples, "precision": policy, **more}
        return discoverer.run(self.model, task, made, **options)


def check_arguments(case: StrategyCase) -> str:
    """Check that the constructor's arguments are its configuration: typed, documented, kept, and checked.

    Returns:
        A remark, or nothing.

    Raises:
        ContractError: they are not.
        NotApplicableError: it has none.
    """
    strategy = case.make()
    kind, before = type(strategy), repr(vars(strategy))
    parameters = inspect.signature(kind).parameters
    if not parameters:
        raise NotApplicableError("its constructor has no arguments")
    for name, parameter in parameters.items():
        if parameter.annotation is parameter.empty:
            refuse(f"The argument {name!r} has no type.", "Annotate it: configurations are checked against the types.")
        if not any(name in (base.__doc__ or "") for base in kind.__mro__):
            refuse(f"The docstring of {kind.__name__} does not say what {name!r} is.", "Describe it under Args.")
        if not hasattr(strategy, name):
            refuse(
                f"{kind.__name__} has no attribute {name!r}, from which configurations are written.",
                f"Keep the argument as it was given: `self.{name} = {name}`.",
            )
        if parameter.annotation in (int, float):
            _check_number(kind, parameters, name, vars(strategy))
    if kind.__module__ in ("__main__", "builtins"):
        return "it is in no file: whether it can be made again from a configuration is not known"
    again: DiscoveryStrategy = specs.make("strategies", specs.describe(strategy))
    one, other = (specs.resolve("strategies", specs.describe(made)) for made in (strategy, again))
    if one != other:
        refuse(
            f"{strategy!r}, made again from its configuration, is {again!r}.",
            "Keep every argument under its own name, as plain data.",
        )
    if repr(vars(strategy)) != before:
        refuse("Describing the strategy changes it.", "Change no attribute outside of the constructor.")
    return ""


def _check_number(kind: type, parameters: Any, name: str, given: dict[str, Any]) -> None:
    """Give NaN, which no number of a configuration may be."""
    arguments = {key: given[key] for key in parameters if key in given}
    try:
        kind(**{**arguments, name: math.nan})
    except UsageError:
        return
    except Exception as error:
        refuse(
            f"{name}=nan is refused with {type(error).__name__} and not with a UsageError.",
            "Raise UsageError(problem, remedy), which the command line shows as one line.",
        )
    refuse(
        f"{name}=nan is accepted.", f"Check the range in the constructor: `if not 0 < {name}: raise UsageError(...)`."
    )


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
    _check_equal(one, other, "Two runs of one seed", "Take all randomness from `run.generator`.")
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


@dataclass
class Interrupting(Callback):
    """Counts reports of progress, and interrupts at one of them, as Ctrl-C would; at 0, before the first.

    Attributes:
        at: the report to interrupt at; None: never.
        seen: how many there were.
    """

    at: int | None = None
    seen: int = field(default=0, init=False)

    def on_discovery_start(self, run: Discovery) -> None:
        """See the class."""
        if self.at == 0:
            raise KeyboardInterrupt

    def on_progress(self, run: Discovery, done: int, total: int, unit: str, shown: dict[str, Any]) -> None:
        """See the class."""
        self.seen += 1
        if self.seen == self.at:
            raise KeyboardInterrupt


@contextmanager
def saving_always() -> Iterator[None]:
    """Let strategies save their state whenever they offer it, and not once a second."""
    before = discovery.SECONDS_BETWEEN_CHECKPOINTS
    discovery.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    try:
        yield
    finally:
        discovery.SECONDS_BETWEEN_CHECKPOINTS = before


def check_resuming(case: StrategyCase) -> dict[int, tuple[int, int]]:
    """Check that a run that is interrupted and resumed ends with the same circuit as one that is not, bit for bit.

    It is interrupted before its first report of progress, and at the first, a middle and the last.

    Returns:
        By the report of the interruption, how many the whole run had, and how many the resumed one.

    Raises:
        ContractError: the circuit is another, or an interrupted run leaves a result, or the model changed.
    """
    undisturbed, state, reports = Interrupting(), ModelState(case.model), {}
    whole = case.run(callbacks=[undisturbed]).circuit
    count = undisturbed.seen
    for at in sorted({0, min(1, count), (count + 1) // 2, count}):
        with tempfile.TemporaryDirectory() as parent, saving_always():
            folder = Path(parent) / "run"
            _interrupt(case, at, folder)
            if (folder / "result.json").exists():
                refuse("An interrupted run has a result.", "Let KeyboardInterrupt pass: catch no BaseException.")
            state.check()
            counter = Interrupting()
            resumed = case.run(out=folder, resume=True, callbacks=[counter]).circuit
        when = f"A run that was interrupted at report {at} of {count} and resumed, and one that was not,"
        remedy = "Save all that the rest depends on with `run.checkpoint`, and continue from `run.resumed`."
        _check_equal(whole, resumed, when, remedy)
        reports[at] = (count, counter.seen)
    state.check()
    return reports


def _interrupt(case: StrategyCase, at: int, folder: Path, strategy: DiscoveryStrategy | None = None) -> None:
    try:
        case.run(strategy, out=folder, callbacks=[Interrupting(at)])
    except KeyboardInterrupt:
        return
    refuse("KeyboardInterrupt does not end it.", "Let it pass: catch no BaseException.")


def check_forgetting(case: StrategyCase) -> None:
    """Check that the object keeps nothing of a run for the next: neither of an interrupted one nor of a resumed one.

    Raises:
        ContractError: it does.
    """
    strategy, undisturbed = case.make(), Interrupting()
    before = repr(vars(strategy))
    first, second = case.run(callbacks=[undisturbed]).circuit, case.run(prompts=case.others).circuit
    remedy = "Keep nothing of a run in the object: it may serve several. Use local variables, and `run.checkpoint`."
    with tempfile.TemporaryDirectory() as parent, saving_always():
        folder = Path(parent) / "run"
        _interrupt(case, (undisturbed.seen + 1) // 2, folder, strategy)
        for number, (expected, options) in enumerate(
            (
                (second, {"prompts": case.others}),
                (first, {"out": folder, "resume": True}),
                (second, {"prompts": case.others}),
                (first, {"out": Path(parent) / "other"}),
            ),
            2,
        ):
            found = case.run(strategy, **options).circuit  # type: ignore[arg-type]
            _check_equal(expected, found, f"A new object, and one in its run number {number},", remedy)
            if repr(vars(strategy)) != before:
                refuse("A run changes the attributes of the object.", remedy)


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
    """Check that a larger value at the operating point gives no larger circuit.

    Raises:
        ContractError: it does, or there is no such argument.
        NotApplicableError: the strategy declares none.
    """
    strategy = case.make()
    point = strategy.operating_point
    if point is None:
        raise NotApplicableError("it declares no `operating_point`: it ranks edges, or its circuits have one size")
    (value, *_) = strategy.operating_values()
    place = point.to_scale(value)
    edges = [
        int(case.run(strategy.at(point.from_scale(place * factor))).circuit.kept.sum()) for factor in (0.25, 1.0, 4.0)
    ]
    if edges[0] < edges[-1]:
        refuse(
            f"Circuits at rising values of {point.argument} have {edges} edges.",
            "A larger value must make circuits sparser; name another argument, or give the reciprocal.",
        )


def _check_equal(one: Circuit, other: Circuit, what: str, remedy: str) -> None:
    if not torch.equal(one.scores, other.scores):
        refuse(f"{what} give {int((one.scores != other.scores).sum())} edges another score.", remedy)
    if not torch.equal(one.kept, other.kept):
        refuse(f"{what} keep other edges: {int((one.kept != other.kept).sum())} differ.", remedy)


def rounded(model: CircuitModel) -> CircuitModel:
    """Round every parameter, in place, to values that bfloat16 can hold."""
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
    return model


def with_model(case: StrategyCase, model: CircuitModel) -> StrategyCase:
    """Return the case with another model."""
    return replace(case, model=model)
