"""Faithfulness of circuits by size (MIB: Mueller et al. 2025, arXiv 2504.13151).

    faithfulness = (L(circuit) - L(ablated)) / (L(full) - L(ablated))

where L is the mean of the objective over held-out prompts. CPR is the area under faithfulness over the fraction of
edges kept, with edges ranked by signed score. CMD is the area between that curve and 1, with edges ranked by absolute
score. Both are integrated by the trapezoidal rule over the fractions, on a linear scale. A circuit of a given fraction
takes int(fraction * edges) edges and then drops those that are not connected; both counts are reported. No value is
clamped.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import same_edges
from circuitkit.config import specs
from circuitkit.data.objectives import Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.footprint import Footprints
from circuitkit.engine.masked_run import MaskedRun
from circuitkit.engine.memory import Need
from circuitkit.engine.prepared_batch import PreparedBatch, prepare_batches, reference_batches
from circuitkit.errors import UsageError
from circuitkit.evaluation.measures import SIZES, Evaluation, Point, Ranking, check_sizes, mib_area
from circuitkit.interrupts import taking_turns
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision
from circuitkit.tasks.base import Split, Task
from circuitkit.torch_state import usual_torch_state

IDENTITY_TOLERANCE = 1e-3
"""Tolerated error of faithfulness: with all edges kept it should be 1, with none 0."""


@taking_turns()
@usual_torch_state()
def evaluate(
    model: CircuitModel | str | Path | Mapping[str, str],
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
    """Measure the faithfulness of a circuit on held-out prompts, in full precision.

    Args:
        model: the model that the circuit was found in, loaded or by name as in `discover`.
        circuit: its rankings are evaluated at every size, and its kept edges too unless it is a mere ranking.
        task: object or name; a `PromptBatch` is used as it is.
        sizes: fractions of the edges, rising.
        objective, ablation: object or name.
        examples: maximum number of prompts.
        seed: seed of the task's splits and of the random control.
        split: the split to evaluate on.

    Raises:
        UsageError: an unknown name, sizes that are not rising fractions, a circuit of another graph.
    """
    check_sizes(sizes)
    if not isinstance(model, CircuitModel):
        named = specs.model_spec(model, kv=circuit.graph.kv)
        model = CircuitModel.from_pretrained(named["name"], kv=named["kv"], dtype=named["dtype"])  # type: ignore[arg-type]
    evaluator = make_evaluator(
        model,
        specs.make("tasks", task),
        specs.make("objectives", objective),
        specs.make("ablations", ablation),
        examples=examples,
        seed=seed,
        split=split,
    )
    evaluation = evaluator.evaluate(circuit, sizes)
    for note in evaluation.notes:
        warnings.warn(note, stacklevel=2)
    return evaluation


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
    """Make an evaluator for a model on one split of a task; the ablation is fitted on the train split."""
    train, held_out = (make_prompts(model, task, name, examples, seed) for name in ("train", split))
    ablation.check(held_out)
    ablation.fit(model, reference_batches(model, train))
    need = evaluation_need(model, held_out, objective, ablation)
    prepared = prepare_batches(model, [held_out], objective, ablation, need=need)
    return Evaluator(prepared, split_name(task, split), seed, held_out.notes)


def evaluation_need(model: CircuitModel, batch: PromptBatch, objective: Objective, ablation: Ablation) -> Need:
    """Count what an `Evaluator` needs per prompt."""
    return Footprints(model, batch, objective, ablation, FullPrecision()).masked_run()


def make_prompts(model: CircuitModel, task: Task | PromptBatch, split: Split, examples: int, seed: int) -> PromptBatch:
    """Make a task's prompts of one split, on the model's device; a `PromptBatch` is used as it is.

    Every run begins here: the model's weights of this moment are taken, and the prompts are checked against the model.
    """
    model.synchronize()
    batch = task if isinstance(task, PromptBatch) else task.prompts(model.tokenizer, split, examples, seed)
    model.check_prompts(batch)
    return batch.to(model.device)


def prompt_notes(batches: Mapping[str, PromptBatch]) -> list[str]:
    """Return the notes of the prompts of several splits, each once, with its split unless it is true of all."""
    found = []
    for note in dict.fromkeys(note for batch in batches.values() for note in batch.notes):
        where = [split for split, batch in batches.items() if note in batch.notes]
        found.append(note if len(where) == len(batches) else f"In the {' and '.join(where)} split: {note}")
    return found


def split_name(task: Task | PromptBatch, split: Split) -> str:
    """Return what an evaluation calls its prompts: the split's name, or a text for a `PromptBatch`."""
    return "the prompts themselves" if isinstance(task, PromptBatch) else split


class Evaluator:
    """Evaluates circuits on the same prompts; the ends of the scale and the random control are computed once.

    Args:
        prepared_batches: the held-out prompts.
        split: the name of their split, for the result.
        seed: seed of the random control.
        notes: notes on the prompts, for every evaluation.
    """

    def __init__(
        self, prepared_batches: Sequence[PreparedBatch], split: str, seed: int = 0, notes: Sequence[str] = ()
    ) -> None:
        self.split = split
        self._prompt_notes = list(notes)
        self.graph = prepared_batches[0].model.graph
        self.prompts = sum(len(prepared.batch) for prepared in prepared_batches)
        self._runs = [MaskedRun(prepared) for prepared in prepared_batches]
        self._control = Circuit.from_scores(
            self.graph, torch.rand(len(self.graph), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        )
        self._control_points: dict[float, Point] = {}
        self.full, self.ablated = self._ends()
        everything, nothing = (
            self.value(torch.full((len(self.graph),), state, dtype=torch.bool)) for state in (True, False)
        )
        span = abs(self.full - self.ablated)
        error = max(abs(everything - self.full), abs(nothing - self.ablated))
        self.identity_error = error / span if span else error

    @torch.no_grad()
    def value(self, kept: Tensor) -> float:
        """Compute the mean objective over the prompts with only these edges kept, bool `[edges]`."""
        total = sum(float(run.values(kept[None]).double().sum()) for run in self._runs)
        return total / self.prompts

    def faithfulness(self, value: float) -> float | None:
        """Scale an objective value: 0 for the ablated model's, 1 for the full model's; None if these are equal."""
        span = self.full - self.ablated
        return (value - self.ablated) / span if span else None

    def evaluate(self, circuit: Circuit, sizes: Sequence[float] = SIZES) -> Evaluation:
        """Evaluate both rankings and the random control at every size, and the circuit's own edges.

        Raises:
            UsageError: sizes that are not rising fractions, or a circuit of another graph.
        """
        if not same_edges(circuit.graph, self.graph):
            raise UsageError(
                f"The circuit belongs to {circuit.graph}, not to this model's {self.graph}.",
                "Evaluate it in the model it was found in, loaded with the same kv.",
            )
        fractions = check_sizes(sizes)
        signed = [self._point(circuit, "signed", size) for size in fractions]
        absolute = [self._point(circuit, "absolute", size) for size in fractions]
        random = [self._random_point(size) for size in fractions]
        own = []
        if not circuit.is_ranking:
            value = self.value(circuit.kept)
            kept = int(circuit.kept.sum())
            own = [Point("own", kept / len(self.graph), kept, kept, value, self.faithfulness(value))]
        return Evaluation(
            points=[*signed, *absolute, *random, *own],
            full=self.full,
            ablated=self.ablated,
            cpr=mib_area(signed),
            cmd=mib_area(absolute, from_one=True),
            random_cpr=mib_area(random),
            random_cmd=mib_area(random, from_one=True),
            identity_error=self.identity_error,
            prompts=self.prompts,
            split=self.split,
            notes=self._notes(),
        )

    def _notes(self) -> list[str]:
        notes = list(self._prompt_notes)
        if self.full == self.ablated:
            notes.append("The full and the ablated model do equally well: faithfulness is not defined.")
        elif self.full > self.ablated:
            notes.append(
                "The full model does worse than the ablated one on these prompts: higher faithfulness is worse."
            )
        if self.identity_error > IDENTITY_TOLERANCE:
            notes.append(f"Rounding moves faithfulness by {self.identity_error:.1e}: too much to trust these figures.")
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
        """Compute the objective of the full model by a plain run, and of the ablated one from all ablated outputs."""
        full = ablated = 0.0
        for run in self._runs:
            prepared = run.prepared
            full += float(prepared.values(prepared.model.final_stream(prepared.batch)).double().sum())
            stream = prepared.ablated.sum(0) + prepared.model.constant(prepared.context)
            for layer in range(self.graph.layers):
                stream = stream + prepared.model.attention_constant(layer)
            shape = (len(prepared.batch), prepared.batch.length, stream.shape[-1])
            final = prepared.model.at_answers(stream.expand(shape), prepared.batch)
            ablated += float(prepared.values(final).double().sum())
        return full / self.prompts, ablated / self.prompts
