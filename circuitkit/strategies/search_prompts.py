"""The prompts of a greedy search: of every layer, and of every stage of a race."""

import math
from collections.abc import Callable

import torch

from circuitkit.data.hashes import hash_prompts
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.editors.base import Editor
from circuitkit.engine.search.measurement import Measurement
from circuitkit.engine.search.racing import Race, stages
from circuitkit.errors import UsageError
from circuitkit.strategies.discovery import TRAIN_PROMPTS, Discovery, EditorKind


def check_count(name: str, number: int | None, example: int, optional: bool = False) -> None:
    """Refuse a number of prompts that is not a positive integer or, if it is optional, None.

    Raises:
        UsageError: it is not.
    """
    if optional and number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise UsageError(f"{name}={number!r} is not a positive whole number.", f"Give one such as {example}.")


def count_prompts(run: Discovery, per_layer: int) -> int:
    """Return how many prompts all layers have together; see `SearchPrompts`."""
    return (run.model.graph.layers + 1) * per_layer


class SearchPrompts:
    """Makes the editors of greedy searches.

    Args:
        run: model, prompts, objective.
        per_layer: every layer (the logits count as one) has this many prompts of its own, drawn without replacement
            from all that the task can make; where there are too few, they are used again in the same order. None: all
            layers have the run's prompts.
        race: None, or how many standard errors decide early; infinitely many: all decisions are taken on all prompts.
        race_start: the number of prompts of the first stage.

    Attributes:
        fresh: whether every layer has prompts of its own.
        totals: the number of prompts of a layer up to each stage.
        content: a hash of all prompts.

    Raises:
        UsageError: a layer or a stage has fewer prompts than there are processes.
    """

    def __init__(
        self,
        run: Discovery,
        per_layer: int | None = None,
        race: float | None = None,
        race_start: int = 16,
    ) -> None:
        self._run, self._layers = run, run.model.graph.layers
        self.fresh = per_layer is not None
        self._z = race
        (self._prompts,) = run.batches
        if per_layer is not None:
            self._prompts = run.distinct_prompts(count_prompts(run, per_layer))
            if TRAIN_PROMPTS not in run.metrics:  # as it is in a resumed run
                run.log(**{TRAIN_PROMPTS: len(self._prompts)})
        self.content = hash_prompts(self._prompts)
        count = len(self._prompts) if per_layer is None else min(per_layer, len(self._prompts))
        if per_layer is not None and count < per_layer:
            run.note(f"prompts_per_layer={per_layer}, but there are {count} prompts: all layers use all of them.")
        self.totals = [count] if race is None or math.isinf(race) else stages(count, race_start)
        if race is not None and not math.isinf(race) and len(self.totals) == 1:
            run.note(
                f"race={race:g} has no effect: {count} prompts are fewer than twice those of the first stage "
                f"(race_start={race_start}), so that every decision is taken on all of them."
            )
        if self.totals[0] < run.processes.count:
            name, number = ("race_start", race_start) if len(self.totals) > 1 else ("prompts_per_layer", per_layer)
            raise UsageError(
                f"{name}={number} is less than the number of processes, {run.processes.count}.",
                "Give every process at least one prompt.",
            )

    def editor(
        self, layer: int, stage: int = 0, *, kind: EditorKind = "incremental", start: torch.Tensor | None = None
    ) -> Editor:
        """Make the editor of a stage of a layer.

        Args:
            layer: its number; the number of layers stands for the logits.
            stage: of the race.
            kind: of editor.
            start: the starting circuit, bool `[edges]`; None: the full model.
        """
        if not self.fresh and len(self.totals) == 1:
            return self._run.editor(start, kind)
        own = self._of(layer, stage)
        return self._run.editor(start, kind, [own], beside=self.totals[-1] - len(own))

    def measurement(self, make: Callable[[int, int], Editor]) -> Measurement:
        """Make what measures the effects of a search; `make` makes the editor of a layer's stage."""
        return Measurement() if self._z is None else Race(self._z, self.totals, make, self.fresh)

    def _of(self, layer: int, stage: int) -> PromptBatch:
        count = self.totals[-1]
        numbers = torch.arange(count, dtype=torch.int64)
        if self.fresh:
            numbers = (numbers + (self._layers - layer) * count) % len(self._prompts)
        if len(self.totals) > 1:  # tasks may take turns between templates; a stage is a random sample
            shuffling = torch.Generator().manual_seed(self._run.generator.initial_seed())
            numbers = numbers[torch.randperm(count, generator=shuffling, dtype=torch.int64)]
        first = self.totals[stage - 1] if stage else 0
        return self._prompts[numbers[first : self.totals[stage]]].trim()
