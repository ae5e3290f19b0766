"""The base class of discovery methods."""

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.data.objectives import Objective
from circuitkit.engine.memory import Need
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.errors import UsageError
from circuitkit.precision.base import FullPrecision, PrecisionPolicy
from circuitkit.strategies.discovery import Discovery


def as_list(name: str, given: float | Sequence[float], accepts: Callable[[float], bool], advice: str) -> list[float]:
    """List the operating points of a strategy (thresholds, targets, ...), given as one number or several.

    Args:
        name: of the argument.
        given: its value.
        accepts: whether a finite number is in range.
        advice: what to give instead, for the error message.

    Raises:
        UsageError: there is no value, or one is not a finite number in range.
    """
    values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not values:
        raise UsageError(f"{name} is empty.", advice)
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UsageError(f"{name}={value!r} is not a finite number.", advice)
        if not accepts(value):
            raise UsageError(f"{name}={value!r} is out of range.", advice)
    return values


def time_discovery(strategy: "DiscoveryStrategy", run: Discovery) -> CostEstimate:
    """Estimate the time of a strategy whose work is proportional to the number of prompts, by doing it for a few.

    Args:
        strategy: its second call counts, since the first one starts threads and fills caches. Its circuits are on the
            CPU, so that nothing is left to wait for.
        run: with the few prompts.
    """
    for _ in range(2):
        started = time.perf_counter()
        strategy.discover(run)
        seconds = time.perf_counter() - started
    return CostEstimate(search_s=(seconds, seconds))


class ZeroGradientError(UsageError):
    """An objective whose gradient is zero at the full model, with a method that takes gradients only there."""


def refuse_zero_gradient(objective: Objective, method: str) -> None:
    """Refuse the objective if its gradient is zero at the full model, for a method that takes gradients only there.

    Raises:
        ZeroGradientError: the gradient is zero.
    """
    if objective.zero_at_full_model:
        raise ZeroGradientError(
            f"{method} with the objective {type(objective).__name__} would score every edge zero: "
            "its gradient vanishes at the full model.",
            "Choose logit_difference, or a strategy that also takes gradients at other points than the full model.",
        )


def check_distinct_prompts(run: Discovery, count: int) -> None:
    """Refuse `run.distinct_prompts(count)` before any work, if it could be that the ablation is not for all of them.

    Raises:
        UsageError: it is not.
    """
    if run.ablation.length is not None:
        run.distinct_prompts(count)


@dataclass(frozen=True)
class OperatingPoint:
    """The constructor argument of a strategy that sets the size of its circuit; a larger value gives a sparser one.

    A run with a faithfulness to reach tries other values of it, multiplied and divided by factors on a scale of
    positive numbers (`to_scale`).

    Attributes:
        argument: its name; the strategy has an attribute of this name.
        fraction: True for a fraction of the edges to remove, between 0 and 1; False for any positive number.
    """

    argument: str
    fraction: bool = False

    def to_scale(self, value: float) -> float:
        """Return the place of a value: itself, or 1 / (1 - value) - 1 of a fraction, removed edges per kept one."""
        return value / (1 - value) if self.fraction else value

    def from_scale(self, place: float) -> float:
        """Return the value of a place, the inverse of `to_scale`."""
        return place / (1 + place) if self.fraction else place


class DiscoveryStrategy(ABC):
    """Finds the edges of a model that a task needs.

    A subclass implements `discover`. Its constructor arguments are its configuration: typed, documented, and validated
    in the constructor. It is registered by an entry point in the group `circuitkit.strategies`.

    Attributes:
        operating_point: the argument that sets the size of its circuit; None: the strategy ranks edges, or its
            circuits have the size that they have.
    """

    operating_point: OperatingPoint | None = None

    @abstractmethod
    def discover(self, run: Discovery) -> Circuit | Sequence[Circuit]:
        """Find one circuit, or several: one per threshold or target.

        Args:
            run: model, prompts, objective, and the engine's tools.

        Returns:
            Circuits on `run.model.graph`. A method that only scores edges keeps all of them; users choose a size by
            ranking.
        """

    def setup(self, run: Discovery) -> None:
        """Prepare for `discover`; raise an error here if the strategy cannot work with this run."""

    def teardown(self, run: Discovery) -> None:
        """Clean up after `discover`, also if it raised an exception."""

    def estimate_cost(self, run: Discovery) -> CostEstimate:
        """Estimate the memory and time of `discover` on the prompts of `run`; by default there is no estimate.

        A dry run calls it with a few of the prompts, and scales the result to all of them.
        """
        return CostEstimate()

    def footprint(self, run: Discovery) -> Need | None:
        """Count the memory that `discover` needs besides the weights (see `Discovery.footprints`); None: unknown."""
        return None

    def at(self, value: float) -> Self:
        """Make a copy with another value at the operating point."""
        assert self.operating_point is not None
        return self.with_arguments(**{self.operating_point.argument: value})

    def operating_values(self) -> Sequence[float]:
        """List the values of the operating point."""
        assert self.operating_point is not None
        given = getattr(self, self.operating_point.argument)
        return given if isinstance(given, Sequence) else [given]

    def with_arguments(self, **changed: Any) -> Self:
        """Make a copy with other constructor arguments; the rest are read from their attributes."""
        names = inspect.signature(type(self)).parameters
        arguments = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return type(self)(**{**arguments, **changed})

    @property
    def searches(self) -> Sequence[tuple["DiscoveryStrategy", float]]:
        """List the strategies whose searches make up this one's work, for a dry run; by default it does its own.

        Each comes with a number: how long all its searches take, relative to one on all prompts. They run one after the
        other, so that the largest determines the memory.
        """
        return ()

    @property
    def proposal(self) -> "DiscoveryStrategy | None":
        """Return the strategy whose circuit this one starts from, whatever the operating point; None: there is none."""
        return None

    @property
    def starting_folders(self) -> list[Path]:
        """List the folders whose circuits this strategy, or one within it, starts from.

        A run is identified by what they hold, too.
        """
        within = [*(strategy for strategy, _ in self.searches), *([self.proposal] if self.proposal else [])]
        return [folder for strategy in within for folder in strategy.starting_folders]

    def starting_from(self, circuit: Circuit) -> Self:
        """Make a copy that starts from what its proposal has found, for several searches from one proposal.

        By default, return the strategy itself, which finds its proposal again in every search.
        """
        return self

    def __repr__(self) -> str:
        return specs.to_call(self)

    def default_precision(self) -> PrecisionPolicy:
        """Return the policy to use in a run whose config names none."""
        return FullPrecision()
