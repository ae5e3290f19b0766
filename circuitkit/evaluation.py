"""How faithful a circuit is, over sizes (Mueller et al. 2025, arXiv 2504.13151: MIB).

    faithfulness = (L(circuit) - L(ablated)) / (L(full) - L(ablated))

with L the mean of the objective over held-out prompts. CPR is the area under faithfulness over the fraction of edges
kept, ranking edges by signed score; CMD is the area between that curve and 1, ranking by absolute score; both by
trapezoid over the linear fractions. A circuit of a fraction has int(fraction * edges) edges and then loses what is
not connected; both counts are reported. Nothing is clamped.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from circuitkit import specs
from circuitkit.circuit import Circuit
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.masked import MaskedRun
from circuitkit.engine.scene import Scene, make_scenes
from circuitkit.errors import UsageError
from circuitkit.graph import same_edges
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.objective import Objective
from circuitkit.prompts import PromptBatch
from circuitkit.tasks.base import Split, Task

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's fractions of the edges."""
IDENTITY_TOLERANCE = 1e-3
"""How far the faithfulness of all edges may be from 1, and that of none from 0."""

Ranking = Literal["signed", "absolute", "random", "own"]


@dataclass(frozen=True)
class Point:
    """Faithfulness at one size.

    Attributes:
        ranking: how the edges were chosen: by signed or absolute score, at random, or by the method itself (`own`).
        fraction: of the edges, as asked for.
        edges_asked: the number of edges that is.
        edges: how many were left when what is not connected was dropped.
        value: the objective, lower is better.
        faithfulness: 1 for the full model, 0 for the ablated one; None where these two do not differ.
    """

    ranking: Ranking
    fraction: float
    edges_asked: int
    edges: int
    value: float
    faithfulness: float | None


@dataclass(frozen=True)
class Evaluation:
    """A circuit's faithfulness on held-out prompts.

    Attributes:
        points: the curves (signed, absolute, random), and the circuit's own point where it has one.
        full: the objective of the full model; ablated: of the ablated one.
        cpr: area under the signed curve; cmd: between the absolute curve and 1; random_cpr, random_cmd: of the random
            control.
        identity_error: how far the masked run with all edges is from the plain run, and with none from the ablated
            one, as faithfulness.
        prompts: how many were used; split: of which split.
    """

    points: list[Point]
    full: float
    ablated: float
    cpr: float | None
    cmd: float | None
    random_cpr: float | None
    random_cmd: float | None
    identity_error: float
    prompts: int
    split: str
    notes: list[str] = field(default_factory=list)

    def curve(self, ranking: Ranking) -> list[Point]:
        """The points of one ranking, from the smallest circuit to the largest."""
        return [point for point in self.points if point.ranking == ranking]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def evaluate(
    model: CircuitModel,
    circuit: Circuit,
    task: Task | PromptBatch | str,
    *,
    sizes: Sequence[float] = SIZES,
    objective: Objective | str = "logit_difference",
    ablation: Ablation | str = "resample",
    examples: int = 32,
    seed: int = 0,
    split: Split = "test",
) -> Evaluation:
    """Faithfulness of a circuit on held-out prompts, in full precision.

    Args:
        model: the model the circuit was found in.
        circuit: scores, and kept edges where the method decides.
        task: object or name; a `PromptBatch` is used as it is.
        sizes: fractions of the edges, rising.
        objective, ablation: object or name.
        examples: at most so many prompts.
        seed: of the task's splits and of the random control.
        split: which split to evaluate on.

    Raises:
        UsageError: an unknown name, sizes that are not rising fractions, a circuit of another graph.
    """
    evaluator = make_evaluator(
        model,
        specs.make("tasks", task),
        specs.make("objectives", objective),
        specs.make("ablations", ablation),
        examples=examples,
        seed=seed,
        split=split,
    )
    return evaluator.evaluate(circuit, sizes)


def make_evaluator(
    model: CircuitModel,
    task: Task | PromptBatch,
    objective: Objective,
    ablation: Ablation,
    *,
    examples: int,
    seed: int,
    split: Split = "test",
) -> "Evaluator":
    """What evaluates circuits of a model on a split; the ablation is fitted on the train split."""
    train, held_out = (prompts(model, task, name, examples, seed) for name in ("train", split))
    ablation.fit(model, [train])
    return Evaluator(make_scenes(model, [held_out], objective, ablation), split_name(task, split), seed)


def prompts(model: CircuitModel, task: Task | PromptBatch, split: Split, examples: int, seed: int) -> PromptBatch:
    """A task's prompts of one split on the model's device; a `PromptBatch` is used as it is."""
    batch = task if isinstance(task, PromptBatch) else task.prompts(model.tokenizer, split, examples, seed)
    return batch.to(model.device)


def split_name(task: Task | PromptBatch, split: Split) -> str:
    """What the prompts of a split are, for an evaluation."""
    return "the prompts themselves" if isinstance(task, PromptBatch) else split


class Evaluator:
    """Evaluates circuits on the same prompts; what they have in common is computed once.

    Args:
        scenes: the held-out prompts.
        split: what they are, for the result.
        seed: of the random control.
    """

    def __init__(self, scenes: Sequence[Scene], split: str, seed: int = 0) -> None:
        self.split = split
        self.graph = scenes[0].model.graph
        self.prompts = sum(len(scene.batch) for scene in scenes)
        self._runs = [MaskedRun(scene) for scene in scenes]
        self._control = Circuit.from_scores(
            self.graph, torch.rand(len(self.graph), generator=torch.Generator().manual_seed(seed))
        )
        self._control_points: dict[float, Point] = {}
        self.full, self.ablated = self._ends()
        everything, nothing = (self.value(torch.full((len(self.graph),), state)) for state in (True, False))
        span = abs(self.full - self.ablated)
        error = max(abs(everything - self.full), abs(nothing - self.ablated))
        self.identity_error = error / span if span else error

    @torch.no_grad()
    def value(self, kept: Tensor) -> float:
        """The objective of the model with these edges, bool `[edges]`; mean over the prompts."""
        total = sum(float(run.values(kept[None]).double().sum()) for run in self._runs)
        return total / self.prompts

    def faithfulness(self, value: float) -> float | None:
        """0 for the ablated model's value, 1 for the full model's; None where these do not differ."""
        span = self.full - self.ablated
        return (value - self.ablated) / span if span else None

    def evaluate(self, circuit: Circuit, sizes: Sequence[float] = SIZES) -> Evaluation:
        """Both rankings and the random control at every size, and the circuit's own edges.

        Raises:
            UsageError: sizes that are not rising fractions, or a circuit of another graph.
        """
        if not same_edges(circuit.graph, self.graph):
            raise UsageError(
                f"The circuit belongs to {circuit.graph}, not to this model's {self.graph}.",
                "Evaluate it in the model it was found in, loaded with the same kv.",
            )
        fractions = list(sizes)
        if not fractions or any(not 0 < size <= 1 for size in fractions) or fractions != sorted(set(fractions)):
            raise UsageError(f"The sizes {fractions} are not rising fractions of the edges.", "Give 0.01, 0.1, 1.")
        signed = [self._point(circuit, "signed", size) for size in fractions]
        absolute = [self._point(circuit, "absolute", size) for size in fractions]
        random = [self._random_point(size) for size in fractions]
        own = []
        if not bool(circuit.kept.all()):
            value = self.value(circuit.kept)
            kept = int(circuit.kept.sum())
            own = [Point("own", kept / len(self.graph), kept, kept, value, self.faithfulness(value))]
        return Evaluation(
            points=[*signed, *absolute, *random, *own],
            full=self.full,
            ablated=self.ablated,
            cpr=_area(signed),
            cmd=_area(absolute, from_one=True),
            random_cpr=_area(random),
            random_cmd=_area(random, from_one=True),
            identity_error=self.identity_error,
            prompts=self.prompts,
            split=self.split,
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = []
        if self.full == self.ablated:
            notes.append("The full and the ablated model do equally well: faithfulness is not defined.")
        elif self.full > self.ablated:
            notes.append("The full model does worse than the ablated one on these prompts: 1 is not the better end.")
        if self.identity_error > IDENTITY_TOLERANCE:
            notes.append(f"Rounding moves faithfulness by {self.identity_error:.1e}: too much to trust these figures.")
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return notes

    def _point(self, circuit: Circuit, ranking: Ranking, size: float) -> Point:
        asked = int(size * len(self.graph))
        kept = circuit.top(asked, absolute=ranking != "signed").prune().kept
        value = self.value(kept)
        return Point(ranking, size, asked, int(kept.sum()), value, self.faithfulness(value))

    def _random_point(self, size: float) -> Point:
        if size not in self._control_points:
            self._control_points[size] = self._point(self._control, "random", size)
        return self._control_points[size]

    @torch.no_grad()
    def _ends(self) -> tuple[float, float]:
        """Full and ablated model, without the masked run: a plain run, and the sum of all ablated outputs."""
        full = ablated = 0.0
        for run in self._runs:
            scene = run.scene
            full += float(scene.values(scene.model.final_stream(scene.batch)).double().sum())
            stream = scene.ablated.sum(0) + scene.model.constant(scene.context)
            for layer in range(self.graph.layers):
                stream = stream + scene.model.attention_constant(layer)
            shape = (len(scene.batch), scene.batch.length, stream.shape[-1])
            final = scene.model.at_answers(stream.expand(shape), scene.batch)
            ablated += float(scene.values(final).double().sum())
        return full / self.prompts, ablated / self.prompts


def _area(points: Sequence[Point], from_one: bool = False) -> float | None:
    heights = [point.faithfulness for point in points]
    if len(points) < 2 or any(height is None for height in heights):
        return None
    curve = np.array(heights, dtype=float)
    return float(np.trapezoid(np.abs(1 - curve) if from_one else curve, [point.fraction for point in points]))
