"""Each check of strategies finds what it is for."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuitkit import (
    Circuit,
    CircuitModel,
    DiscoveryStrategy,
    UsageError,
)
from circuitkit.contracts import arguments
from circuitkit.contracts.outcome import ContractError, NotApplicableError
from circuitkit.contracts.prompts import random_prompts
from circuitkit.contracts.resuming import Interrupting, _interrupt, check_forgetting, check_resuming
from circuitkit.contracts.strategies import (
    StrategyCase,
    check_cost,
    check_operating_point,
    check_same_seed,
    check_scores,
)
from circuitkit.engine.search.cost_estimate import CostEstimate
from circuitkit.strategies.base import OperatingPoint


@pytest.fixture(scope="module")
def toy() -> CircuitModel:
    return CircuitModel.from_pretrained("toy")


class Faulty(DiscoveryStrategy):
    """EAP with a fault.

    Args:
        size: of the circuit.
    """

    def __init__(self, size: float = 0.5) -> None:
        self.size = size
        self._memory: list[float] = []

    def discover(self, run: Any) -> Circuit:
        return Circuit.from_scores(run.model.graph, run.attribution())


class Infinite(Faulty):
    """Infinite scores; size."""

    def discover(self, run: Any) -> Circuit:
        return Circuit.from_scores(run.model.graph, torch.full_like(run.attribution(), torch.inf))


class ChangesWeights(Faulty):
    """Changes weights; size."""

    def discover(self, run: Any) -> Circuit:
        scores = run.attribution()
        with torch.no_grad():
            next(run.model.model.parameters()).add_(1e-3)
        return Circuit.from_scores(run.model.graph, scores)


class LeavesHooks(Faulty):
    """Leaves a hook; size."""

    def discover(self, run: Any) -> Circuit:
        run.model.model.register_forward_hook(lambda *_: None)
        return Circuit.from_scores(run.model.graph, run.attribution())


class OwnDice(Faulty):
    """Randomness of its own; size."""

    def discover(self, run: Any) -> Circuit:
        noise = torch.rand(len(run.model.graph), generator=torch.Generator().manual_seed(id(run) % 2**31 + len(DICE)))
        DICE.append(0)
        return Circuit.from_scores(run.model.graph, run.attribution() + noise)


DICE: list[int] = []


class SharedDice(Faulty):
    """Torch's own generator; size."""

    def discover(self, run: Any) -> Circuit:
        state = torch.get_rng_state()
        noise = torch.rand(len(run.model.graph), dtype=torch.float64)
        torch.set_rng_state(state)  # so that nothing seems changed
        return Circuit.from_scores(run.model.graph, run.attribution() + noise)


class Leaves(Faulty):
    """Leaves global state as it must not; size."""

    change: Callable[[], object]

    def discover(self, run: Any) -> Circuit:
        scores = run.attribution()
        type(self).change()
        return Circuit.from_scores(run.model.graph, scores)


def leaving(change: Callable[[], object]) -> type[Faulty]:
    return type("Leaving", (Leaves,), {"change": staticmethod(change)})


class ChangesModules(Faulty):
    """Changes what is no parameter; size."""

    change: Callable[[Any], object]

    def discover(self, run: Any) -> Circuit:
        type(self).change(run.model.model)
        return Circuit.from_scores(run.model.graph, run.attribution())


def changing(change: Callable[[Any], object]) -> type[Faulty]:
    return type("Changing", (ChangesModules,), {"change": staticmethod(change)})


def replace_hook(module: Any) -> None:
    module.register_forward_pre_hook(lambda *_: None)
    module._forward_pre_hooks.pop(min(module._forward_pre_hooks))


class Remembers(Faulty):
    """Keeps the scores of the run before; size."""

    def discover(self, run: Any) -> Circuit:
        scores = run.attribution()
        self._memory.append(float(scores.sum()))
        return Circuit.from_scores(run.model.graph, scores + len(self._memory))


class RemembersInItsClass(Faulty):
    """Counts its runs; size."""

    runs = 0

    def discover(self, run: Any) -> Circuit:
        type(self).runs += 1
        return Circuit.from_scores(run.model.graph, run.attribution() + self.runs)


class ForgetsOnResume(Faulty):
    """Continues with a wrong state; size."""

    def discover(self, run: Any) -> Circuit:
        total = torch.zeros(len(run.model.graph), dtype=torch.float64)
        for step in range(3):
            total = total + run.attribution()
            run.checkpoint(lambda step=step: {"step": step})
        return Circuit.from_scores(run.model.graph, total * (2.0 if run.resumed else 1.0))


class ForgetsInSilence(Faulty):
    """Continues with a wrong state, and reports no progress; size."""

    def discover(self, run: Any) -> Circuit:
        total = torch.zeros(len(run.model.graph), dtype=torch.float64)
        (batch,) = run.batches
        for step in range(3):
            total = total + float(batch.clean[0, -1]) + step
            run.checkpoint(lambda step=step: {"step": step})
        return Circuit.from_scores(run.model.graph, total * (2.0 if run.resumed else 1.0))


class WritesTypesAsText(Faulty):
    """EAP with a type that is a text, as under `from __future__ import annotations`.

    Args:
        size: of the circuit.
    """

    def __init__(self, size: "float" = 0.5) -> None:
        super().__init__(size)


class Undescribed(Faulty):
    """EAP of any size, with one argument more: count is nowhere described as an argument."""

    def __init__(self, size: float = 0.5, count: bool = True) -> None:
        if not size > 0:
            raise UsageError("No size.", "Give one.")
        super().__init__(size)
        self.count = count


class SwallowsInterrupts(Faulty):
    """Goes on after Ctrl-C; size."""

    def discover(self, run: Any) -> Circuit:
        try:
            scores = run.attribution()
        except KeyboardInterrupt:
            scores = torch.zeros(len(run.model.graph), dtype=torch.float64)
        return Circuit.from_scores(run.model.graph, scores)


class Nonsense(Faulty):
    """Negative time; size."""

    def estimate_cost(self, run: Any) -> CostEstimate:
        return CostEstimate(search_s=(-1.0, 1.0))


class GrowsWithSize(Faulty):
    """Larger at larger values of size."""

    operating_point = OperatingPoint("size", fraction=True)

    def discover(self, run: Any) -> Circuit:
        graph = run.model.graph
        return Circuit.from_scores(graph, run.attribution()).top(int(self.size * len(graph)))


class IgnoresSize(Faulty):
    """The same circuit at all values of size."""

    operating_point = OperatingPoint("size")


class Wavers(Faulty):
    """A middle value of size makes the smallest circuit."""

    operating_point = OperatingPoint("size", fraction=True)

    def discover(self, run: Any) -> Circuit:
        graph = run.model.graph
        edges = 9 if 0.4 < self.size < 0.6 else 20 if self.size < 0.4 else 15
        return Circuit.from_scores(graph, run.attribution()).top(edges)


Check = Callable[[StrategyCase], Any]


def check_arguments(case: StrategyCase) -> str:
    return arguments.check_arguments(case.make, "strategies")


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        (Faulty, check_arguments, "size=nan is accepted"),
        (WritesTypesAsText, check_arguments, "size=nan is accepted"),
        (Undescribed, check_arguments, "does not say what 'count' is"),
        (IgnoresSize, check_operating_point, "Circuits at values of size from .* all have"),
        (Wavers, check_operating_point, r"rising values of size have \[20, 9, 15\] edges"),
        (Infinite, check_scores, "not finite"),
        (ChangesWeights, check_scores, "parameter transformer.wte.weight is not as it was"),
        (LeavesHooks, check_scores, "other hooks"),
        (leaving(lambda: torch.set_grad_enabled(False)), check_scores, "The grad mode is not as it was"),
        (leaving(lambda: torch.set_default_dtype(torch.float64)), check_scores, "default dtype is not"),
        (leaving(lambda: torch.manual_seed(0)), check_scores, "state of torch's generator is not"),
        (leaving(random.random), check_scores, "state of Python's generator is not"),
        (leaving(lambda: np.random.seed(5)), check_scores, "state of numpy's generator is not"),  # noqa: NPY002
        (changing(lambda module: module.train()), check_scores, "in another mode than before"),
        (changing(lambda module: module.register_buffer("own", torch.zeros(1))), check_scores, "buffer own is not"),
        (changing(lambda module: module.register_full_backward_pre_hook(print)), check_scores, "other hooks"),
        (changing(replace_hook), check_scores, "other hooks"),
        (SharedDice, check_same_seed, "Two runs of one seed give"),
        (OwnDice, check_same_seed, "Two runs of one seed give"),
        (Remembers, check_forgetting, "A run changes the attributes"),
        (RemembersInItsClass, check_forgetting, "in its run number 2"),
        (ForgetsOnResume, check_resuming, "resumed, and one that was not, give"),
        (ForgetsInSilence, check_resuming, "interrupted after state 1 of 3 was saved, and resumed"),
        (SwallowsInterrupts, check_resuming, "KeyboardInterrupt does not end it"),
        (Nonsense, check_cost, "negative or not finite"),
        (GrowsWithSize, check_operating_point, "Circuits at rising values of size have"),
    ],
)  # fmt: skip
def test_a_check_of_strategies_finds_its_fault(kind: type[Faulty], check: Check, said: str) -> None:
    model = CircuitModel.from_pretrained("toy")  # one of its own: a fault changes it
    model.model.register_forward_pre_hook(lambda *_: None)
    case = StrategyCase(kind, model, random_prompts(model), random_prompts(model, 1))
    with pytest.raises(ContractError, match=said):
        check(case)


def test_an_exception_out_of_a_class_is_a_failure_that_names_its_line() -> None:
    class Raises(Faulty):
        """Raises; size."""

        def discover(self, run: Any) -> Circuit:
            raise KeyError("nothing here")

    from circuitkit.contracts.outcome import run_check

    model = CircuitModel.from_pretrained("toy")
    case = StrategyCase(Raises, model, random_prompts(model), random_prompts(model))
    state = run_check("runs", lambda: check_scores(case))
    assert state.state == "failed"
    assert "It raised KeyError: 'nothing here' (test_faulty_strategies.py, line" in state.text


def test_an_interruption_by_the_user_ends_the_check(toy: CircuitModel, tmp_path: Path) -> None:
    class CtrlC(Faulty):
        """Interrupted from outside; size."""

        def discover(self, run: Any) -> Circuit:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _interrupt(StrategyCase(CtrlC, toy, random_prompts(toy), "ioi"), Interrupting(1), tmp_path / "run")


def test_not_applicable_says_why(toy: CircuitModel) -> None:
    class Plain(DiscoveryStrategy):
        def discover(self, run: Any) -> Circuit:
            raise UsageError("Nothing.", "Nothing.")

    case = StrategyCase(Plain, toy, random_prompts(toy), random_prompts(toy))
    for check, said in ((check_arguments, "no arguments"), (check_operating_point, "declares no `operating_point`")):
        with pytest.raises(NotApplicableError, match=said):
            check(case)
