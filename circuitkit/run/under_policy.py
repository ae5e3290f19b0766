"""Work under a precision policy, which gives the model's weights back whatever happens."""

from collections.abc import Callable
from typing import TypeVar

from circuitkit.interrupts import run_then
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.weights import ModuleWeights
from circuitkit.strategies.base import DiscoveryStrategy
from circuitkit.strategies.discovery import Discovery

T = TypeVar("T")


def under_policy(strategy: DiscoveryStrategy, run: Discovery, work: Callable[[], T]) -> T:
    """Prepare policy and strategy, and run `work`; then close both, whatever happens.

    No signal can prevent the policy from giving the weights back, not even one that follows another.
    """

    def prepare_and_work() -> T:
        try:
            run.policy.prepare(run.model)
            _see_changed_parameters(run.model)
            run.fabric.call("on_discovery_start", run)
            strategy.setup(run)
            return work()
        except BaseException as exception:
            run.fabric.call("on_exception", run, exception)
            raise
        finally:
            strategy.teardown(run)

    def close(_: bool) -> None:
        run.policy.close()
        _see_changed_parameters(run.model)

    return run_then(prepare_and_work, close)


def _see_changed_parameters(model: CircuitModel) -> None:
    """Let the engine see parameters that a policy has changed, unless the policy provides the weights itself."""
    if isinstance(model.weights, ModuleWeights):
        model.refresh()
