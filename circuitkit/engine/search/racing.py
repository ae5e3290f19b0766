"""Racing: decisions are taken on a few prompts, and on more of them only while they are in doubt.

Most edges have no effect on any prompt; a few are near the threshold. So the prompts of a search are divided into
stages. A decision is taken on the prompts of the first stage if the mean effect's distance from the threshold is larger
than z standard errors; otherwise on those of the first two stages; and so on, up to all prompts. Effects of one edge on
different prompts are paired differences, and the prompts are a sample without replacement of all N, so the standard
error of the mean on n of them is

    sd / sqrt(n) * sqrt(1 - n / N).

Effects are skewed, so that on few prompts this is no exact level; `benchmarks/racing.py` counts the decisions that
come out otherwise.

This is the mechanism of rechecking close decisions (`rechecks.py`) for sampling instead of rounding, and has the same
*audit*: early decisions, spread evenly over the search, are repeated on all prompts. The share of them that comes out
otherwise estimates how many early decisions are wrong.

Each stage has an editor on its own prompts. The first is the search's. A later one is opened at a reader when a
decision there needs it, on the circuit that the first one was opened on (`removals.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from circuitkit.engine.editors.base import Editor
from circuitkit.engine.search.items import Item
from circuitkit.engine.search.measurement import Margin, Measurement
from circuitkit.engine.search.removals import Follower, Removal
from circuitkit.storage.state import SavedState

AUDITS = 64
"""The largest number of early decisions that the audit repeats on all prompts."""
AUDIT_COST = 0.25
"""The most prompts that the audit may take, relative to those of a search on the first stage alone.

In a search of a few hundred decisions, 64 audits on 128 prompts take longer than everything else. An audit takes twice
as long as its prompts say, since an effect is a difference of two values.
"""
LEAST_DEVIATION = 0.5
"""The smallest standard deviation of an effect over prompts, relative to what the effect is compared with.

It costs nothing with 16 prompts, and keeps a few prompts that happen to be alike from deciding.
"""
LEVEL = 0.95
"""Of the interval of the audit's flip rate (Wilson)."""
_COUNTS = ("decisions", "prompts", "early", "escalated", "flipped", "audited", "audits_flipped")


@dataclass
class Trial:
    """The test of one item of a batch, on the prompts of one or more stages.

    Attributes:
        place: of the hypothesis that removes it: 1 for the first row of the batch.
        base: of the hypothesis that it is compared with; 0 is the current circuit.
        item: the edge, or the group: from its effect, the sum of its estimates is subtracted.
        margin: how far an effect is above what it is compared with.
        stage: the last one so far.
        sample: its effect on each prompt so far.
        mean, error: of the sample, and the standard error of the mean.
        at_first: whether the effect on the first stage alone is below.
    """

    place: int
    base: int
    item: Item
    margin: Margin
    stage: int = -1
    sample: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    mean: float = 0.0
    error: float = math.inf
    at_first: bool = False

    @property
    def is_below(self) -> bool:
        """Tell whether the effect is below what it is compared with."""
        return self.margin(self.mean) < 0


class Race(Measurement):
    """The stages of a search, and how its decisions came about.

    Args:
        z: how many standard errors make a decision early.
        totals: the number of prompts up to each stage, ascending; the last is all prompts.
        make: makes the editor of a layer's stage (0 is the first) on the starting circuit.
        fresh: every layer has prompts of its own.

    Attributes:
        decisions: tests of edges, groups and whole readers.
        prompts: the sum over decisions of the prompts that they were taken on (without the audit's).
        early: decisions that were not taken on all prompts.
        escalated: decisions that were in doubt at the first stage; flipped: how many of them came out otherwise than
            the first stage alone would have decided.
        audited: early decisions that were repeated on all prompts; audits_flipped: how many came out otherwise.
    """

    def __init__(self, z: float, totals: Sequence[int], make: Callable[[int, int], Editor], fresh: bool) -> None:
        super().__init__()
        self.z, self.totals, self.fresh = z, list(totals), fresh
        self._make = make
        self._later: dict[int, Follower] = {}
        self._opened: dict[int, Editor] = {}
        self._slopes: dict[int, Tensor] = {}
        self._kept = torch.zeros(0, dtype=torch.bool)  # at the layer's start
        self._removals: Sequence[Removal] = []
        self._before = 0  # the number of removals before the open reader's
        self._rows, self._trials = torch.zeros(0, 0, dtype=torch.bool), list[Trial]()
        self._forwards = 0.0
        self._layer = -1
        self.decisions = self.prompts = self.early = self.escalated = self.flipped = 0
        self.audited = self.audits_flipped = 0

    def start_layer(self, layer: int, kept: Tensor, removals: Sequence[Removal]) -> None:
        """See the base class; if the layer has prompts of its own, let go of the later stages' editors."""
        super().start_layer(layer, kept, removals)
        self._layer, self._kept, self._removals = layer, kept, removals
        self._opened = {}
        self._later = {} if self.fresh else {stage: Follower(later.editor) for stage, later in self._later.items()}

    def open(self, editor: Editor, reader: int, screened: bool) -> None:
        """See the base class; `editor` is that of the first stage."""
        super().open(editor, reader, screened)
        for stage in self._opened.keys() & self._later.keys():
            self._later[stage].reached = len(self._removals)
        self._opened, self._slopes, self._screened = {0: editor}, {}, screened
        self._before = len(self._removals)

    def commit(self, removed: Tensor) -> None:
        """Remove edges of the open reader, bool `[U]`."""
        for editor in self._opened.values():
            editor.commit(removed)

    def estimates(self) -> Tensor:
        """Estimate the effect of every edge of the open reader on the prompts of the first stage, `[U]`."""
        if not self._screened:
            return super().estimates()
        self._slopes[0] = self._opened[0].gradient_by_prompt()
        return self._slopes[0].mean(1)

    def run(self, rows: Tensor, before: list[int], items: list[Item], margins: Sequence[Margin]) -> int:
        """Test a batch, each item on as many stages as it needs; what follows a wrong guess needs no more stages."""
        self._rows = torch.cat([torch.zeros_like(rows[:1]), rows])  # by place
        self._trials = [
            Trial(place, base, item, margin)
            for place, (base, item, margin) in enumerate(zip(before, items, margins, strict=True), start=1)
        ]
        due, computed = self._trials, 0
        for stage in range(len(self.totals)):
            computed += self._extend(due, stage)
            due = [trial for trial in self._needed() if trial.stage == stage and not self._is_clear(trial)]
            if not due:
                break
        return computed

    def settle(self, number: int, progress: float) -> float:
        """Record the decision of an item of the batch, and repeat it on all prompts if the audit is due."""
        trial = self._trials[number]
        is_early = trial.stage < len(self.totals) - 1
        self.decisions += 1
        self.prompts += self.totals[trial.stage]
        self.early += is_early
        self.escalated += trial.stage > 0
        self.flipped += trial.is_below != trial.at_first
        if is_early and self._is_audit_due(progress):
            before = trial.is_below
            for stage in range(trial.stage + 1, len(self.totals)):
                self._extend([trial], stage)
            self.audited += 1
            self.audits_flipped += trial.is_below != before
        return trial.mean

    def _is_audit_due(self, progress: float) -> bool:
        affordable = self.audited * self.totals[-1] <= AUDIT_COST * self.totals[0] * self.decisions
        return affordable and self.audited < AUDITS and self.audited <= AUDITS * progress

    def full_effect(self, number: int, removals: Tensor) -> float:
        """See the base class."""
        stages = range(self._trials[number].stage + 1)
        values = torch.cat([self._values(stage, removals, full=True) for stage in stages], dim=1).mean(1)
        return float(values[1] - values[0])

    def _needed(self) -> list[Trial]:
        """List the trials up to the first clear one that is not as expected."""
        for count, trial in enumerate(self._trials, start=1):
            if trial.is_below != trial.item.expect_removal and self._is_clear(trial):
                return self._trials[:count]
        return self._trials

    def is_clear(self, number: int) -> bool:
        """See the base class."""
        return self._is_clear(self._trials[number])

    def _is_clear(self, trial: Trial) -> bool:
        last = trial.stage == len(self.totals) - 1
        return last or abs(trial.margin(trial.mean)) > self.z * trial.error

    def _extend(self, trials: list[Trial], stage: int) -> int:
        """Test trials that have reached the stage before on the prompts of this one; return the number of values."""
        places = sorted({place for trial in trials for place in (trial.place, trial.base)})
        values = self._values(stage, self._rows[places])
        at = {place: number for number, place in enumerate(places)}
        for trial in trials:
            effects = values[at[trial.place]] - values[at[trial.base]]
            if trial.item.joint:
                effects = effects - self._slopes[stage][trial.item.writers].sum(0)
            trial.sample, trial.stage = torch.cat([trial.sample, effects]), stage
        samples = torch.stack([trial.sample for trial in trials])
        limits = torch.tensor([trial.margin(0.0) for trial in trials], dtype=torch.float64)
        errors = standard_errors(samples, self.totals[-1], limits)
        for trial, mean, error in zip(trials, samples.mean(1).tolist(), errors.tolist(), strict=True):
            trial.mean, trial.error = mean, error
            if not stage:
                trial.at_first = trial.is_below
        return len(values)

    def _values(self, stage: int, removals: Tensor, full: bool = False) -> Tensor:
        editor = self._opened[stage] if stage in self._opened else self._open_later(stage)
        before = editor.forward_equivalents
        values = editor.values_by_prompt(removals, full)
        if stage:
            self._forwards += (editor.forward_equivalents - before) * editor.prompts / self.totals[-1]
        return values

    def _open_later(self, stage: int) -> Editor:
        """Open the open reader in the editor of a later stage, in the circuit as it is."""
        later = self._follower(stage)
        later.follow(self._kept, self._removals[: self._before])
        editor = self._opened[stage] = later.editor
        editor.open(self._opened[0].reader)
        if self._screened:
            self._slopes[stage] = editor.gradient_by_prompt()
        for _, removed in self._removals[self._before :]:
            editor.commit(removed)
        return editor

    def _follower(self, stage: int) -> Follower:
        if stage not in self._later:
            self._later[stage] = Follower(self._make(self._layer, stage))
        return self._later[stage]

    def forward_equivalents(self, editor: Editor) -> float:
        """See the base class; `editor` is that of the first stage."""
        return editor.forward_equivalents * editor.prompts / self.totals[-1] + self._forwards

    def footprint(self, editor: Editor) -> dict[str, int]:
        """Count the bytes of all stages by part; `editor` is the first stage's."""
        parts: dict[str, int] = {}
        for one in (editor, *(later.editor for later in self._later.values())):
            parts |= {name: parts.get(name, 0) + size for name, size in one.footprint().items()}
        return parts

    def counts(self) -> dict[str, int]:
        """See the base class."""
        return {f"race_{name}": getattr(self, name) for name in _COUNTS}

    def summarize(self, counts: Mapping[str, float]) -> dict[str, float]:
        """See `summarize`."""
        return summarize(counts)

    def state_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "totals": self.totals,
            "forwards": self._forwards,
            "later": [[stage, *place] for stage, place in self._places().items()],
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def _places(self) -> dict[int, tuple[int, int]]:
        """Return where the later stages' editors are in this layer: the attributes of `Follower`."""
        now = len(self._removals)
        return {
            stage: (later.built, now if stage in self._opened else later.reached)
            for stage, later in self._later.items()
            if later.built is not None
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See the base class."""
        saved = SavedState(state, "the race", self.state_dict().keys())
        saved.expect("totals", saved["totals"] == self.totals, f"the stages of this run, {self.totals}")
        self._forwards = saved.number("forwards")
        self.decisions = saved.count("decisions")
        self.prompts = saved.count("prompts", most=self.decisions * self.totals[-1])
        self.early = saved.count("early", most=self.decisions)
        self.escalated = saved.count("escalated", most=self.decisions)
        self.flipped = saved.count("flipped", most=self.escalated)
        self.audited = saved.count("audited", most=min(AUDITS, self.early))
        self.audits_flipped = saved.count("audits_flipped", most=self.audited)
        for item in saved.items("later"):
            fits = isinstance(item, list) and len(item) == 3 and all(type(number) is int for number in item)
            saved.expect("later", fits, "a stage and two numbers of removals each")
            stage, built, reached = item
            fits = 0 < stage < len(self.totals) and 0 <= built <= reached <= len(self._removals)
            saved.expect("later", fits, "stages of this run, and removals of this layer")
            self._follower(stage).resume(built, reached, self._kept, self._removals)


def standard_errors(samples: Tensor, prompts: int, limits: Tensor | float) -> Tensor:
    """Estimate the standard errors of means over samples of prompts; infinite of one prompt.

    Args:
        samples: of n prompts each, `[k, n]`.
        prompts: from which the samples are drawn without replacement.
        limits: what the means are compared with, `[k]` or one for all.
    """
    count = samples.shape[1]
    if count < 2 and count < prompts:
        return torch.full((len(samples),), math.inf, dtype=torch.float64)
    if count == prompts:
        return torch.zeros(len(samples), dtype=torch.float64)
    deviations = torch.maximum(samples.std(1), LEAST_DEVIATION * torch.as_tensor(limits, dtype=torch.float64).abs())
    return deviations * math.sqrt((1 - count / prompts) / count)


def stages(prompts: int, first: int) -> list[int]:
    """Return the number of prompts up to each stage: `first`, then at least twice as many each, up to all.

    Args:
        prompts: all.
        first: of the first stage.
    """
    totals = []
    while 2 * first <= prompts:
        totals.append(first)
        first *= 2
    return [*totals, prompts]


def summarize(counts: Mapping[str, float]) -> dict[str, float]:
    """Compute what the counts of a race, or their sums over several, say.

    Returns:
        `prompts_per_decision`; `race_flip_rate`, the share of audited decisions that flipped, with the ends of its
        Wilson interval, `_low` and `_high`; and `race_missed`, the number of wrong early decisions that it means. The
        latter four only if decisions were audited.
    """
    found = {"prompts_per_decision": counts["race_prompts"] / max(counts["race_decisions"], 1)}
    if audited := int(counts["race_audited"]):
        flipped = int(counts["race_audits_flipped"])
        interval = stats.binomtest(flipped, audited).proportion_ci(LEVEL, method="wilson")
        rate = flipped / audited
        found |= {"race_flip_rate": rate, "race_flip_rate_low": interval.low, "race_flip_rate_high": interval.high}
        found["race_missed"] = rate * (counts["race_early"] - audited)
    return found
