"""What a discovery method is, and what a run gives it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor

from circuitkit.circuit import Circuit
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.attribution import attribute
from circuitkit.engine.editor import Editor
from circuitkit.engine.incremental import IncrementalEditor
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.reader_gradients import CLEAN_RUN, Interpolation
from circuitkit.engine.replay import ReplayEditor
from circuitkit.engine.scene import Scene, make_scenes
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import Objective
from circuitkit.precision.policy import FullPrecision, PrecisionPolicy
from circuitkit.preflight import Estimate
from circuitkit.prompts import PromptBatch
from circuitkit.state_files import load_state, save_state

SECONDS_BETWEEN_CHECKPOINTS = 1.0
EditorKind = Literal["incremental", "replay"]
EDITORS: dict[EditorKind, type[IncrementalEditor] | type[ReplayEditor]] = {
    "incremental": IncrementalEditor,
    "replay": ReplayEditor,
}


@dataclass
class Discovery:
    """Everything a run gives a strategy.

    Attributes:
        model: under the run's precision policy.
        batches: the prompts of the train split, on the model's device.
        objective: one value an example, lower is better.
        ablation: what a removed edge carries; already fitted.
        policy: the precision policy. A strategy need not know it: editors and attribution tell it what they look at.
        fabric: launches, seeds, logs and calls the callbacks.
        generator: seeded by the run; the only source of randomness a strategy should use.
        metrics: what `log` was given; part of the result.
        memory_budget: bytes for the engine's largest buffers; None: half of what is free.
        checkpoint_file: where `checkpoint` saves; None: nowhere.
    """

    model: CircuitModel
    batches: Sequence[PromptBatch]
    objective: Objective
    ablation: Ablation
    policy: PrecisionPolicy
    fabric: Fabric
    generator: torch.Generator
    metrics: dict[str, Any] = field(default_factory=dict)
    memory_budget: int | None = None
    checkpoint_file: Path | None = None
    _saved: float = 0.0

    @property
    def prompts(self) -> int:
        """How many prompts there are in all batches."""
        return sum(map(len, self.batches))

    def scenes(self) -> list[Scene]:
        """The prompts made ready for the engine, in batches that fit into memory."""
        return make_scenes(self.model, self.batches, self.objective, self.ablation, self.policy, self.memory_budget)

    def attribution(
        self,
        rule: BackwardRule = PLAIN,
        interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
        own_writers: bool = False,
    ) -> Tensor:
        """First-order effect of removing each edge, mean over prompts, float64 `[edges]` on the CPU.

        Args:
            rule: what the backward follows.
            interpolations: the runs that gradients are averaged over; by default the clean run alone.
            own_writers: the gradients of an interpolation count for the edges out of its writers only.
        """
        total = torch.zeros(len(self.model.graph), dtype=torch.float64)
        done = 0
        for scene in self.scenes():
            total += attribute(scene, rule, interpolations, own_writers, self.memory_budget).double().cpu()
            done += len(scene.batch)
            self.report(done, self.prompts, "prompts")
        return total / self.prompts

    def editor(self, kept: Tensor | None = None, kind: EditorKind = "incremental") -> Editor:
        """A circuit under edit, with the values of every removal.

        Args:
            kept: the starting circuit, bool `[edges]`; by default the full model.
            kind: `"incremental"`, or the reference, `"replay"`.
        """
        return EDITORS[kind](self.scenes(), kept, self.memory_budget)

    def masked_runs(
        self, batches: Sequence[PromptBatch] | None = None, *, checkpoint: bool = False
    ) -> list[MaskedRun]:
        """Equation (1) for each batch of prompts, with gradients in the masks where autograd is on.

        Args:
            batches: other batches than the run's, such as the same prompts in smaller ones.
            checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        """
        prompts = self.batches if batches is None else batches
        scenes = make_scenes(self.model, prompts, self.objective, self.ablation, self.policy, self.memory_budget)
        return [MaskedRun(scene, rotate=True, checkpoint=checkpoint) for scene in scenes]

    def report(self, done: int, total: int, unit: str, **shown: Any) -> None:
        """Tell callbacks how far the run is: `done` of `total` units, and figures to show beside it."""
        self.fabric.call("on_progress", self, done, total, unit, shown)

    def checkpoint(self, strategy: "DiscoveryStrategy") -> None:
        """Save the strategy's state, so that a run that is killed can go on from here; at most once a second."""
        if self.checkpoint_file is None or time.monotonic() - self._saved < SECONDS_BETWEEN_CHECKPOINTS:
            return
        state = {
            "strategy": strategy.state_dict(),
            "metrics": self.metrics,
            "memory_budget": self.memory_budget,
            "generator": self.generator.get_state(),
        }
        self.checkpoint_file.parent.mkdir(exist_ok=True)
        save_state(self.checkpoint_file, state)
        self._saved = time.monotonic()

    def restore(self, strategy: "DiscoveryStrategy") -> None:
        """Go on from what `checkpoint` saved, if it did."""
        if self.checkpoint_file is None or not self.checkpoint_file.exists():
            return
        state = load_state(self.checkpoint_file)
        # The same batches, or the last bits would differ
        self.metrics, self.memory_budget = state["metrics"], state["memory_budget"]
        self.generator.set_state(state["generator"])
        strategy.load_state_dict(state["strategy"])

    def log(self, **values: Any) -> None:
        """Put figures into the result's metrics; numbers also go to the loggers."""
        self.metrics.update(values)
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if numbers:
            self.fabric.log_dict(numbers)


class DiscoveryStrategy(ABC):
    """Finds the edges of a model that a task needs.

    A subclass implements `discover`; its constructor arguments are its configuration: typed, documented, and
    validated there. It is registered by an entry point in the group `circuitkit.strategies`.
    """

    @abstractmethod
    def discover(self, run: Discovery) -> Circuit | Sequence[Circuit]:
        """Find the circuit, or several: one a threshold or target.

        Args:
            run: model, prompts, objective, and the engine's tools.

        Returns:
            Circuits on `run.model.graph`. A method that only scores keeps every edge; sizes come from ranking.
        """

    def setup(self, run: Discovery) -> None:
        """Called before `discover`; the place to refuse what cannot work."""

    def teardown(self, run: Discovery) -> None:
        """Called after `discover`, also after an exception."""

    def preflight(self, run: Discovery) -> Estimate:
        """What `discover` would hold and take on the prompts of `run`; by default that is not known.

        A dry run calls it instead, with a few of the prompts, and scales what it says to all of them.
        """
        return Estimate()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on after an interruption: tensors and plain values; see `Discovery.checkpoint`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called before `discover` with what `state_dict` gave, in a run that is resumed."""

    def default_precision(self) -> PrecisionPolicy:
        """The policy of a run that names none."""
        return FullPrecision()
