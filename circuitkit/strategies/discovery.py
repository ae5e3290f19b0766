"""What a run gives a strategy: model, prompts, objective, and the engine's tools."""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.fabric import Fabric
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.score_source import ScoreSource
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine import memory
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.attribution.edge_scores import attribute_prompts
from circuitkit.engine.attribution.reader_gradients import CLEAN_RUN, Interpolation
from circuitkit.engine.editors.base import Editor
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.editors.replay import ReplayEditor
from circuitkit.engine.footprint import Footprints
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.memory import Need
from circuitkit.engine.prepared_batch import PreparedBatch, prepare_batches
from circuitkit.engine.processes import ALONE, Processes
from circuitkit.models.backward_rule import PLAIN, BackwardRule
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import PrecisionPolicy
from circuitkit.storage.state import SavedState, load_state, save_state

SECONDS_BETWEEN_CHECKPOINTS = 1.0
EditorKind = Literal["incremental", "replay"]
EDITORS: dict[EditorKind, type[IncrementalEditor] | type[ReplayEditor]] = {
    "incremental": IncrementalEditor,
    "replay": ReplayEditor,
}
_FOR_SCORES = 0.25  # the part of the budget that the scores of single prompts may take
_GATHERED = 64
"""How many prompts' scores are sent to the other processes at once."""

TRAIN_PROMPTS = "train_prompts"
"""The metric of a strategy that draws its prompts itself: how many different ones."""

_SAVED = ("metrics", "notes", "memory_budget", "resumptions", "score_intervals")
"""The attributes of a `Discovery` that are saved with the strategy's state."""


@dataclass
class Discovery:
    """Everything that a run gives a strategy.

    Where several processes run one discovery, each has its part of the prompts: `prepared_batches` and what is made of
    them hold this process's only. `attribution` and editors return means over all prompts. A strategy that adds up
    something over prompts itself passes it to `sum`.

    Attributes:
        model: under the run's precision policy.
        batches: the prompts of the train split, on the model's device; all of them in every process.
        objective: one value per prompt, lower is better.
        ablation: what a removed edge carries; already fitted.
        policy: the precision policy. Strategies rarely need it: editors and attribution tell it what they investigate.
        fabric: launches, seeds, logs, and calls the callbacks.
        generator: seeded by the run; the only source of randomness a strategy should use.
        metrics: the figures given to `log`; part of the result.
        notes: the caveats given to `note`; part of the result.
        memory_budget: bytes for the engine's largest buffers; None: half of what is free.
        given_budget: what the user gave as memory budget; None: nothing, so that a saved one is kept.
        checkpoint_file: where `checkpoint` saves; None: nowhere.
        folder: the run's folder, if it has one.
        resumed: in a resumed run, the state that the strategy last gave to `checkpoint`; otherwise None.
        resumptions: how often the run was resumed from a saved state.
        processes: those that run this discovery.
        prompt_scores: after `rank_edges`, every prompt's score of every edge, bfloat16 `[prompts, edges]` on the CPU,
            the same in every process; None: there was no memory for them.
        score_intervals: `low` and `high` end of every edge's score, float64 `[edges]`; empty: they are not known.
        supply: makes up to a given number of different prompts of the train split; None: there are only `batches`.
    """

    model: CircuitModel
    batches: Sequence[PromptBatch]
    objective: Objective
    ablation: Ablation
    policy: PrecisionPolicy
    fabric: Fabric
    generator: torch.Generator
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    memory_budget: int | None = None
    given_budget: int | None = None
    checkpoint_file: Path | None = None
    folder: Path | None = None
    resumed: dict[str, Any] | None = None
    resumptions: int = 0
    processes: Processes = ALONE
    prompt_scores: Tensor | None = None
    score_intervals: dict[str, Tensor] = field(default_factory=dict)
    supply: Callable[[int], PromptBatch] | None = None
    _saved: float = -math.inf
    _started: float = field(default_factory=time.perf_counter)
    _seconds: float = 0.0

    @property
    def prompts(self) -> int:
        """Return the number of prompts in all batches and processes."""
        return sum(map(len, self.batches))

    def distinct_prompts(self, count: int) -> PromptBatch:
        """Return up to `count` different prompts of the train split, on the model's device, the same in every process.

        Those of `batches`, as many as the user asked for (`examples`), come first. Where the task can make more, others
        follow: for methods that use every prompt once or a few times, so that their number costs no time or memory.
        """
        (own,) = self.batches
        return own[:count] if self.supply is None or count <= len(own) else self.supply(count)

    def part(self, name: str) -> Self:
        """Make the `Discovery` of a search within this one, such as another strategy that proposes a circuit.

        It has metrics and notes of its own, a new generator of the same seed and, where this one has a checkpoint, a
        folder `name` in it for its own state.
        """
        file = self.checkpoint_file
        return replace(
            self,
            metrics={},
            notes=[],
            prompt_scores=None,
            score_intervals={},
            resumed=None,
            _started=time.perf_counter(),
            _seconds=0.0,
            generator=torch.Generator().manual_seed(self.generator.initial_seed()),
            checkpoint_file=None if file is None else file.parent / name / file.name,
        )

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over the processes: a total over this one's prompts becomes one over all prompts."""
        return self.processes.sum(x)

    @property
    def footprints(self) -> Footprints:
        """Return what the engine's tools need per prompt, for the longest prompts."""
        longest = max(self.batches, key=lambda batch: batch.length)
        return Footprints(self.model, longest, self.objective, self.ablation, self.policy)

    def prepared_batches(
        self, need: Need | None = None, batches: Sequence[PromptBatch] | None = None
    ) -> list[PreparedBatch]:
        """Prepare this process's prompts for the engine, in batches that fit into memory.

        Args:
            need: of the tool that uses them (see `footprints`); by default captures and a run under autograd.
            batches: to use instead of the run's.
        """
        prompts = self.batches if batches is None else batches
        found = prepare_batches(
            self.model, prompts, self.objective, self.ablation, self.policy, self.memory_budget, need, self.processes
        )
        return [prepared for prepared in found if prepared.share]

    def batches_in_turn(self, need: Need) -> Iterator[PreparedBatch]:
        """Prepare the prompts one batch after the other; report each, and free it before the next one."""
        waiting, done = deque(self.prepared_batches(need)), 0
        prompts = sum(len(prepared.batch) for prepared in waiting)
        while waiting:
            yield (prepared := waiting.popleft())
            done += len(prepared.batch)
            del prepared
            self.report(done, prompts, "prompts")

    def attribution(
        self,
        rule: BackwardRule = PLAIN,
        interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
        own_writers: bool = False,
    ) -> Tensor:
        """Estimate the effect of removing each edge to first order, mean over prompts, float64 `[edges]` on the CPU.

        Args:
            rule: the backward rule of the gradients.
            interpolations: the runs over which gradients are averaged; by default the clean run alone.
            own_writers: use the gradients of an interpolation only for the edges out of its writers.
        """
        return self._attribution(self.footprints.attribution(rule), None, rule, interpolations, own_writers)

    def rank_edges(
        self,
        rule: BackwardRule = PLAIN,
        interpolations: Sequence[Interpolation] = (CLEAN_RUN,),
        own_writers: bool = False,
    ) -> Circuit:
        """Rank all edges by `attribution`, for a strategy whose result this is; arguments as there.

        Where memory allows, the scores of single prompts are kept (`prompt_scores`), from which the run computes
        intervals of the scores.
        """
        need = self.ranking_need(rule)
        kept = None
        if need.held:
            own = len(range(self.processes.rank, self.prompts, self.processes.count))
            kept = torch.empty(own, len(self.model.graph), dtype=torch.bfloat16)
        scores = self._attribution(need, kept, rule, interpolations, own_writers)
        self.prompt_scores = None if kept is None else self._gather_prompts(kept)
        return Circuit.from_scores(self.model.graph, scores, score_sources=ScoreSource.ESTIMATED)

    def ranking_need(self, rule: BackwardRule = PLAIN, steps: int = 1) -> Need:
        """Count the memory of `rank_edges`; arguments as of `Footprints.attribution`."""
        need = self.footprints.attribution(rule, steps, keep=True)
        available = self.memory_budget or memory.budget(self.model.device)
        own = -(-self.prompts // self.processes.count)
        kept = own + (self.prompts if self.processes.count > 1 else 0)  # at last, every process has those of all
        enough = kept * sum(need.held.values()) <= available * _FOR_SCORES and need.fits(own, available)
        if self.processes.smallest(enough):
            return need
        return replace(need, held={})

    def _attribution(
        self,
        need: Need,
        kept: Tensor | None,
        rule: BackwardRule,
        interpolations: Sequence[Interpolation],
        own_writers: bool,
    ) -> Tensor:
        """Compute `attribution`, and write the scores of this process's prompts into `kept`."""
        total, done = torch.zeros(len(self.model.graph), dtype=torch.float64), 0
        for prepared in self.batches_in_turn(need):
            found = attribute_prompts(prepared, rule, interpolations, own_writers, self.memory_budget)
            total += found.sum(0, dtype=torch.float64).cpu()
            if kept is not None:
                kept[done : done + len(found)] = found
                done += len(found)
            del prepared, found
        return self.sum(total) / self.prompts

    def _gather_prompts(self, own: Tensor) -> Tensor:
        """Put the rows of all processes in the order of the prompts; each has every n-th row (see `processes`)."""
        rank, count = self.processes.rank, self.processes.count
        if count == 1:
            return own
        gathered = torch.empty(self.prompts, own.shape[1], dtype=own.dtype)
        for start in range(0, self.prompts, _GATHERED):
            part = torch.zeros(min(_GATHERED, self.prompts - start), own.shape[1], dtype=torch.float32)
            rows = range(rank, self.prompts, count)
            inside = [number for number, row in enumerate(rows) if start <= row < start + len(part)]
            part[[rows[number] - start for number in inside]] = own[inside].float()
            gathered[start : start + len(part)] = self.sum(part)
        return gathered

    def editor(
        self,
        kept: Tensor | None = None,
        kind: EditorKind = "incremental",
        batches: Sequence[PromptBatch] | None = None,
        beside: int = 0,
    ) -> Editor:
        """Make an editor: a circuit under edit, with the objective's value for removals.

        Args:
            kept: the starting circuit, bool `[edges]`; by default the full model.
            kind: `"incremental"`, or the reference, `"replay"`.
            batches: to use instead of the run's.
            beside: the number of other prompts that editors hold at the same time.

        Raises:
            CircuitKitError: all these prompts do not fit into memory.
        """
        footprints = self.footprints
        if batches is not None:
            footprints = replace(footprints, batch=max(batches, key=lambda batch: batch.length))
        need = footprints.replay() if kind == "replay" else footprints.editor()
        run, others = self, -(-beside // self.processes.count)
        if others and self.memory_budget is not None:
            need.largest_batch(others + 1, self.memory_budget)  # refuses in words
            run = replace(self, memory_budget=self.memory_budget - others * sum(need.held.values()))
        return EDITORS[kind](run.prepared_batches(need, batches), kept, run.memory_budget)

    def masked_runs(
        self, batches: Sequence[PromptBatch] | None = None, *, need: Need | None = None, checkpoint: bool = False
    ) -> Iterator[MaskedRun]:
        """Make masked runs (equation (1)) of this process's prompts, differentiable in the masks.

        They come one after the other, and each is let go before the next.

        Args:
            batches: to use instead of the run's.
            need: `footprints.masked_run(checkpoint)`, if there is one for these prompts; it takes a while to measure.
            checkpoint: compute each layer again in the backward pass instead of keeping it: less memory, more time.
        """
        waiting = deque(self.prepared_batches(need or self.footprints.masked_run(checkpoint), batches))
        while waiting:
            with torch.no_grad():  # the captures; only the mask has a gradient
                masked_run = MaskedRun(waiting.popleft(), rotate=True, checkpoint=checkpoint)
            yield masked_run
            del masked_run

    def report(self, done: int, total: int, unit: str, **shown: Any) -> None:
        """Report progress to the callbacks: `done` of `total` units, and figures to show with them."""
        self.fabric.call("on_progress", self, done, total, unit, shown)

    def seconds(self) -> float:
        """Return the seconds since the clock was started, with those before an interruption."""
        return self._seconds + time.perf_counter() - self._started

    def restart_clock(self, seconds: float = 0.0) -> None:
        """Start the clock of `seconds` again, such as when a part of the work begins that is timed for itself."""
        self._seconds, self._started = seconds, time.perf_counter()

    def checkpoint(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save the strategy's state, so that a killed run can resume from here; at most once per second.

        A resumed run finds it in `resumed`. A strategy object keeps no state of its own: it may serve several runs.

        Args:
            state: makes the state: tensors and plain values in dictionaries and lists.
        """
        if time.monotonic() - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
            self.save(state())

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the strategy's state now; see `checkpoint`. Process 0 does it for all."""
        if self.checkpoint_file is None or self.processes.rank:
            return
        of_callbacks: dict[str, Any] = {}
        self.fabric.call("on_save_checkpoint", self, of_callbacks)
        saved = {
            "strategy": dict(state),
            "callbacks": of_callbacks,
            "generator": self.generator.get_state(),
            "processes": self.processes.count,
            "seconds": self.seconds(),
            **{name: getattr(self, name) for name in _SAVED},
        }
        self.checkpoint_file.parent.mkdir(parents=True, exist_ok=True)
        save_state(self.checkpoint_file, saved)
        self._saved = time.monotonic()

    def resume(self, callbacks: bool = True) -> None:
        """Resume from the saved state, if there is one.

        A memory budget that the user gave replaces the saved one, with a note, since with other batches the last bits
        differ.

        Args:
            callbacks: whether callbacks resume too; not if they have resumed from a later state of the run.

        Raises:
            CircuitKitError: the state cannot be read, or does not fit.
        """
        if (found := self.processes.broadcast(self._load())) is None:
            return
        names = ("strategy", "callbacks", "generator", "processes", "seconds", *_SAVED)
        saved = SavedState(found, "the state", names)
        self.metrics, self.notes = saved.mapping("metrics"), saved.texts("notes")
        self.memory_budget = saved.count("memory_budget", least=1)
        self.resumptions = saved.count("resumptions") + 1
        self.score_intervals = self._read_intervals(saved.mapping("score_intervals"))
        self.restart_clock(saved.number("seconds"))
        generator = self.generator.get_state()
        self.generator.set_state(saved.tensor("generator", generator.dtype, generator.shape))
        self.resumed = saved.mapping("strategy")
        if self.given_budget not in (None, self.memory_budget):
            self.memory_budget = self.given_budget
            self.notes.append("The run was resumed with another memory budget, so that the last bits may differ.")
        if saved.count("processes", least=1) != self.processes.count:
            self.notes.append("The run was resumed by another number of processes, so that the last bits may differ.")
        of_callbacks = saved.mapping("callbacks")
        if callbacks:
            self.fabric.call("on_load_checkpoint", self, of_callbacks)

    def _read_intervals(self, found: dict[str, Any]) -> dict[str, Tensor]:
        if not found:
            return {}
        ends = SavedState(found, "the intervals of the scores", ("low", "high"))
        return {end: ends.tensor(end, torch.float64, [len(self.model.graph)]) for end in ("low", "high")}

    def _load(self) -> dict[str, Any] | None:
        """Read the saved state in process 0, so that the others cannot find a newer one."""
        if self.processes.rank or self.checkpoint_file is None or not self.checkpoint_file.exists():
            return None
        return load_state(self.checkpoint_file)

    def note(self, text: str) -> None:
        """Add a caveat to the result's notes, unless it is there already; in Python it is also a warning."""
        if text not in self.notes:
            self.notes.append(text)
            warnings.warn(text, stacklevel=2)

    def log(self, **values: Any) -> None:
        """Add figures to the result's metrics; numbers also go to the loggers."""
        self.metrics.update(values)
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if numbers:
            self.fabric.log_dict(numbers)
