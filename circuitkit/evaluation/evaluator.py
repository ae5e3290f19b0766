"""Faithfulness of circuits by size (MIB: Mueller et al. 2025, arXiv 2504.13151).

    faithfulness = (L(circuit) - L(ablated)) / (L(full) - L(ablated))

where L is the mean of an objective over the prompts of one split. CPR is the area under faithfulness over the fraction
of edges kept, with edges ranked by signed score. CMD is the area between that curve and 1, with edges ranked by
absolute score. Both are integrated by the trapezoidal rule over the fractions, on a linear scale. A circuit of a given
fraction takes int(fraction * edges) edges and then drops those that are not connected; both counts are reported. No
value is clamped. One run of a circuit gives its value on every prompt, in every measure (see `measures`); `intervals`
says how sure a mean over prompts is.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.circuit.graph import same_edges
from circuitkit.config import registry, specs
from circuitkit.config.checks import check_examples, check_seed
from circuitkit.data.logits import Logits
from circuitkit.data.objectives import KLDivergence, Objective
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.footprint import Footprints
from circuitkit.engine.memory import Need
from circuitkit.engine.prepared_batch import PreparedBatch, prepare_batches, reference_batches
from circuitkit.errors import UsageError, quote
from circuitkit.evaluation.evaluation import CURVES, Evaluation, Point, Ranking, compute_areas, measure_rows
from circuitkit.evaluation.measured_batch import MeasuredBatch
from circuitkit.evaluation.measures import Values
from circuitkit.evaluation.minimality import check_minimality, edge_effects, remove_each, sample_edges
from circuitkit.evaluation.prompts import make_prompts
from circuitkit.evaluation.sizes import SIZES, check_sizes, choose_edges
from circuitkit.interrupts import taking_turns
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.precision.base import FullPrecision
from circuitkit.tasks.base import Split, Task, own_objective
from circuitkit.torch_state import usual_torch_state

IDENTITY_TOLERANCE = 1e-3
"""Tolerated error of faithfulness: with all edges kept it should be 1, with none 0."""
GIVEN = "given prompts"
"""What an evaluation calls the split of a `PromptBatch`."""
_MOST_STREAMS = 64  # more than an evaluation has points; not those of every edge of `minimality`
_OF_SIZES: tuple[Ranking, ...] = ("signed", "absolute", "greedy", "random")


@taking_turns()
@usual_torch_state()
def evaluate(
    model: CircuitModel | str | Path | Mapping[str, str],
    circuit: Circuit,
    task: Task | PromptBatch | str,
    *,
    sizes: Sequence[float] = SIZES,
    rankings: Sequence[Ranking] = CURVES,
    objective: Objective | str | None = None,
    ablation: Ablation | str = "resample",
    examples: int | Sequence[int] = 32,
    seed: int = 0,
    split: Split = "test",
    minimality: int = 0,
) -> Evaluation:
    """Measure the faithfulness of a circuit on held-out prompts, in full precision.

    Args:
        model: the model that the circuit was found in, loaded or by name as in `discover`; by name it is on the CPU.
        circuit: its rankings are evaluated at every size, and its kept edges too unless it is a mere ranking.
        task: object or name; a `PromptBatch` is used as it is.
        sizes: fractions of the edges, rising; empty: only the circuit's own edges.
        rankings: how circuits of these sizes are chosen: any of `signed`, `absolute`, `greedy` and `random` (see
            `Point`).
        objective: object or name; by default the task's own, as in `discover`.
        ablation: object or name.
        examples: maximum number of prompts per split, one number for all or three, for train, validation and test.
        seed: seed of the task's splits, the random control and the sample of edges: that of the discovery, since
            another seed deals other splits, whose test prompts may be among those that the circuit was found on.
        split: the split to evaluate on.
        minimality: how many edges to sample from the circuit, all if it has fewer; each is removed alone.

    Raises:
        UsageError: an unknown name, sizes that are not rising fractions, a circuit of another graph, or `minimality`
            for a mere ranking.
    """
    if not isinstance(circuit, Circuit):
        raise UsageError(f"{quote(circuit)} is no circuit.", "Give a Circuit, such as `result.circuit`.")
    check_curves(sizes, rankings)
    check_minimality(minimality, [circuit])
    examples = check_examples(examples)
    check_seed(seed)
    if not isinstance(model, CircuitModel):
        named = specs.model_spec(model, kv=circuit.graph.kv, positions=circuit.graph.positions)
        model = CircuitModel.from_pretrained(**named)  # type: ignore[arg-type]
    made = specs.make("tasks", task)
    if not isinstance(made, PromptBatch):
        specs.check_object("tasks", "task", made)
    chosen = specs.make("objectives", own_objective(made) if objective is None else objective)
    specs.check_object("objectives", "objective", chosen)
    removes = specs.make("ablations", ablation)
    specs.check_object("ablations", "ablation", removes)
    evaluator = make_evaluator(
        model,
        made,
        chosen,
        removes,
        examples=examples,
        seed=seed,
        split=split,
    )
    evaluation = evaluator.evaluate(circuit, sizes, rankings, minimality)
    for note in evaluation.notes:
        warnings.warn(note, stacklevel=2)
    return evaluation


def check_curves(sizes: Sequence[float], rankings: Sequence[str] = CURVES) -> list[float]:
    """Check what is to be evaluated; return the sizes as plain numbers.

    Raises:
        UsageError: the sizes are not rising fractions, there is no such ranking, or one is named twice.
    """
    if not isinstance(rankings, list | tuple) or len(set(rankings)) != len(rankings):
        problem = f"The rankings {rankings!r} are not a list of different rankings."
        raise UsageError(problem, "Give a list such as ['signed', 'random'].")
    for ranking in rankings:
        if ranking not in _OF_SIZES:
            raise registry.unknown_name("ranking", ranking, list(_OF_SIZES))
    return [] if isinstance(sizes, list | tuple) and not sizes else check_sizes(sizes)


def make_evaluator(
    model: CircuitModel,
    task: Task | PromptBatch,
    objective: Objective,
    ablation: Ablation,
    *,
    examples: int | Sequence[int],
    seed: int,
    split: Split = "test",
    memory_budget: int | None = None,
) -> "Evaluator":
    """Make an evaluator for a model on one split of a task; the ablation is fitted on the train split."""
    numbers = check_examples(examples)
    train, held_out = (make_prompts(model, task, name, numbers.of(name), seed) for name in ("train", split))
    ablation.fit(model, reference_batches(model, train, memory_budget))
    ablation.check(held_out)
    name = GIVEN if isinstance(task, PromptBatch) else split
    return Evaluator.prepare(
        model, held_out, objective, ablation, name, seed, memory_budget=memory_budget, notes=held_out.notes
    )


@dataclass(frozen=True)
class _Chosen:
    """The edges of a point to measure; the other attributes are those of `Point`."""

    ranking: Ranking
    fraction: float
    edges_asked: int
    kept: Tensor


class Evaluator:
    """Evaluates circuits on the same prompts; captures, the ends of the scale and the random control are shared.

    Args:
        prepared_batches: the prompts of one split.
        split: its name, for the result.
        seed: seed of the random control and of the sample of edges.
        notes: notes on the prompts, for every evaluation.
    """

    @torch.no_grad()
    def __init__(
        self, prepared_batches: Sequence[PreparedBatch], split: str, seed: int = 0, notes: Sequence[str] = ()
    ) -> None:
        started = time.perf_counter()
        self.split = split
        self._seed = seed
        self._prompt_notes = list(notes)
        self.graph = prepared_batches[0].model.graph
        self.prompts = sum(len(prepared.batch) for prepared in prepared_batches)
        self._templates = tuple(label for prepared in prepared_batches for label in prepared.batch.templates)
        self._parts = [MeasuredBatch(prepared) for prepared in prepared_batches]
        self._control = Circuit.from_scores(
            self.graph, torch.rand(len(self.graph), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        )
        self._known: dict[bytes, Values] = {}
        self._streams: dict[bytes, list[Tensor]] = {}  # of the last evaluation's circuits
        self.full = _join([part.full for part in self._parts])
        self.ablated = _join([part.ablated for part in self._parts])
        self.objective = next(iter(self.full))
        everything, nothing = (
            self.value(torch.full((len(self.graph),), state, dtype=torch.bool)) for state in (True, False)
        )
        full, ablated = self.full[self.objective].mean(), self.ablated[self.objective].mean()
        span = float(abs(full - ablated))
        error = float(max(abs(everything - full), abs(nothing - ablated)))
        self.identity_error = error / span if span else error
        self._seconds = time.perf_counter() - started

    @classmethod
    def prepare(
        cls,
        model: CircuitModel,
        batch: PromptBatch,
        objective: Objective,
        ablation: Ablation,
        split: str,
        seed: int = 0,
        *,
        memory_budget: int | None = None,
        notes: Sequence[str] = (),
    ) -> "Evaluator":
        """Make an evaluator for prompts, in batches that fit into memory.

        Args:
            model, objective, ablation: of the run; the ablation is fitted.
            batch: the prompts.
            split, seed, notes: as for the class.
            memory_budget: bytes; by default half of what is free.

        Raises:
            CircuitKitError: not even batches of one prompt fit.
        """
        need = evaluation_need(model, batch, objective, ablation)
        prepared = prepare_batches(model, [batch], objective, ablation, memory_budget=memory_budget, need=need)
        return cls(prepared, split, seed, notes)

    @torch.no_grad()
    def measure(self, kept: Tensor) -> Values:
        """Measure a circuit on every prompt: float64 `[prompts]` by measure, the searched objective first.

        Args:
            kept: the circuit, bool `[edges]`; a circuit that was measured before is not run again.
        """
        key = _key(kept)
        if key not in self._known:
            streams = [part.run.final(kept) for part in self._parts]
            self._known[key] = _join([part.of(stream) for part, stream in zip(self._parts, streams, strict=True)])
            if len(self._streams) < _MOST_STREAMS:
                self._streams[key] = streams
        return self._known[key]

    @torch.no_grad()
    def logits(self, kept: Tensor | None = None) -> list[tuple[PromptBatch, Logits]]:
        """Return every batch of the prompts with the logits of a circuit, bool `[edges]`, or of the full model.

        A circuit that the last evaluation measured is not run again.
        """
        if kept is None:
            return [(part.prepared.batch, part.logits) for part in self._parts]
        streams = self._streams.get(_key(kept)) or [part.run.final(kept) for part in self._parts]
        prepared = [part.prepared for part in self._parts]
        return [(one.batch, one.model.logits(stream)) for one, stream in zip(prepared, streams, strict=True)]

    def value(self, kept: Tensor) -> float:
        """Compute the mean of the searched objective over the prompts with only these edges kept, bool `[edges]`."""
        return float(self.measure(kept)[self.objective].mean())

    def faithfulness(self, value: float) -> float | None:
        """Scale an objective value: 0 for the ablated model's, 1 for the full model's; None if these are equal."""
        full, ablated = self.full[self.objective].mean(), self.ablated[self.objective].mean()
        return float((value - ablated) / (full - ablated)) if full != ablated else None

    def evaluate(
        self,
        circuit: Circuit,
        sizes: Sequence[float] = SIZES,
        rankings: Sequence[Ranking] = CURVES,
        minimality: int = 0,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """Evaluate rankings at every size, the circuit's own edges, and all others (the complement).

        Args:
            circuit: on the evaluator's graph.
            sizes: fractions of the edges, rising; empty: only the circuit's own edges and the others.
            rankings: any of `signed`, `absolute`, `greedy` and `random`.
            minimality: how many of the circuit's edges to sample, all if it has fewer, and to remove alone.
            report: called after each run of a circuit with the numbers of finished runs and of all.

        Raises:
            UsageError: sizes that are not rising fractions, an unknown ranking, a circuit of another graph, or
                `minimality` for a mere ranking.
        """
        if not same_edges(circuit.graph, self.graph):
            raise UsageError(
                f"The circuit belongs to {circuit.graph}, not to this model's {self.graph}.",
                "Evaluate it in the model it was found in, loaded with the same kv.",
            )
        sizes = check_curves(sizes, rankings)
        check_minimality(minimality, [circuit])
        started = time.perf_counter()
        self._streams.clear()
        chosen = [*self._curves(circuit, sizes, rankings), *_own(circuit)]
        sampled = sample_edges(circuit, minimality, self._seed)
        runs = [*(one.kept for one in chosen), *remove_each(circuit, sampled)]
        rows = []
        for done, kept in enumerate(runs, 1):
            rows.append(self.measure(kept))
            report(done, len(runs))
        rows += [self.full, self.ablated]
        values = {name: np.stack([row[name] for row in rows]) for name in self.full}
        measured = {name: measure_rows(name, found, found[-2], found[-1]) for name, found in values.items()}
        points = [
            Point(
                one.ranking,
                one.fraction,
                one.edges_asked,
                len(replace(circuit, kept=one.kept).prune()),
                {name: figures[number] for name, figures in measured.items()},
            )
            for number, one in enumerate(chosen)
        ]
        own, searched = self.measure(circuit.kept)[self.objective], values[self.objective]
        names = [self.graph.names[edge] for edge in sampled]
        return Evaluation(
            split=self.split,
            prompts=self.prompts,
            points=points,
            full={name: figures[-2].value for name, figures in measured.items()},
            ablated={name: figures[-1].value for name, figures in measured.items()},
            areas=compute_areas(points, searched),
            identity_error=self.identity_error,
            seconds=self._take_seconds() + time.perf_counter() - started,
            notes=self._notes(),
            templates=self._templates,
            minimality=edge_effects(names, own, searched[len(chosen) : -2], searched[-2], searched[-1]),
            values=values,
        )

    def _curves(self, circuit: Circuit, sizes: Sequence[float], rankings: Sequence[Ranking]) -> Iterator[_Chosen]:
        for ranking in rankings:
            source = self._control if ranking == "random" else circuit
            for size in sizes:
                asked = int(size * len(self.graph))
                yield _Chosen(ranking, size, asked, choose_edges(source, ranking, asked))

    def _take_seconds(self) -> float:
        """Return the time that the captures took, for the first evaluation; 0 for later ones."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _notes(self) -> list[str]:
        notes = list(self._prompt_notes)
        full, ablated = self.full[self.objective].mean(), self.ablated[self.objective].mean()
        if full == ablated:
            notes.append("The full and the ablated model do equally well: faithfulness is not defined.")
        elif full > ablated:
            notes.append(
                "The full model does worse than the ablated one on these prompts: higher faithfulness is worse."
            )
        if self.identity_error > IDENTITY_TOLERANCE:
            notes.append(f"Rounding moves faithfulness by {self.identity_error:.1e}: too much to trust these figures.")
        return notes


def evaluation_need(model: CircuitModel, batch: PromptBatch, objective: Objective, ablation: Ablation) -> Need:
    """Count what an `Evaluator` needs per prompt; its KL divergence takes the logits of the whole vocabulary."""
    widest = objective if objective.whole_vocabulary else KLDivergence()
    return Footprints(model, batch, widest, ablation, FullPrecision()).circuit_run()


def _own(circuit: Circuit) -> Iterator[_Chosen]:
    """Yield a circuit's own edges and all others, unless it is a mere ranking."""
    if not circuit.is_ranking:
        kept = int(circuit.kept.sum())
        yield _Chosen("own", kept / len(circuit.graph), kept, circuit.kept)
        yield _Chosen("complement", 1 - kept / len(circuit.graph), len(circuit.graph) - kept, ~circuit.kept)


def _key(kept: Tensor) -> bytes:
    return np.packbits(kept.numpy()).tobytes()


def _join(parts: Sequence[Mapping[str, Tensor]]) -> Values:
    """Join the values of all batches, of the measures that each batch has."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in names}
