"""The check of a known circuit: the exact effect of every edge."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.config import specs
from circuitkit.data.objectives import LogitDifference
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.ablation import Ablation
from circuitkit.engine.circuit_run import CircuitRun
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import PreparedBatch, prepare_batches, reference_batches
from circuitkit.models.circuit_model import CircuitModel

MATTERS = 0.02
"""An edge matters if its removal changes the logit difference of the prompts, on average, by this part of its span."""


@dataclass(frozen=True)
class Confirmation:
    """What exact ablation says about a known circuit.

    All effects are relative to the span: the mean difference between the full and the ablated model's objective.

    Attributes:
        effects: of removing each edge alone from the full model: mean over the prompts of |change|, `[edges]`.
        joint: of each alternative, the effects of removing each of its edges from it alone, `[edges]`; 0 elsewhere.
        faithfulness: of each alternative alone.
        truth, alternatives: the known circuit.
    """

    effects: Tensor
    joint: list[Tensor]
    faithfulness: list[float]
    truth: Circuit
    alternatives: list[Circuit]

    @property
    def missing(self) -> list[str]:
        """Return the edges of the truth that do not matter.

        An edge matters by its effect in the full model or, if the program is redundant, in an alternative alone.
        """
        matters = self.effects >= MATTERS
        if len(self.alternatives) > 1:
            matters = matters | torch.stack([effects >= MATTERS for effects in self.joint]).any(0)
        return self._names(self.truth.kept & ~matters)

    @property
    def extra(self) -> list[str]:
        """Return the edges that matter and are not in the truth."""
        return self._names((self.effects >= MATTERS) & ~self.truth.kept)

    @property
    def agrees(self) -> bool:
        """Tell whether the truth is exactly what matters, and every alternative does what the full model does."""
        return not self.missing and not self.extra and all(abs(one - 1) < 0.1 for one in self.faithfulness)

    def _names(self, edges: Tensor) -> list[str]:
        return [self.truth.graph.names[edge] for edge in edges.nonzero()[:, 0].tolist()]


def confirm(
    model: CircuitModel, batch: PromptBatch, ablation: str, truth: Circuit, alternatives: Sequence[Circuit]
) -> Confirmation:
    """Measure the exact effect of every edge on the logit difference.

    Args:
        model, batch: prompts and the model that computes them.
        ablation: its name; fitted to these prompts.
        truth, alternatives: the known circuit.
    """
    removes: Ablation = specs.make("ablations", ablation)
    removes.fit(model, reference_batches(model, batch))
    removes.check(batch)
    prepared = prepare_batches(model, [batch], LogitDifference(), removes)
    nothing = torch.zeros(len(model.graph), dtype=torch.bool)
    full, ablated = _value(prepared, ~nothing), _value(prepared, nothing)
    span = ablated - full
    faithfulness = [1 - (_value(prepared, one.kept) - full) / span for one in alternatives]
    joint = [measure_effects(prepared, one.kept) / span for one in alternatives]
    return Confirmation(measure_effects(prepared) / span, joint, faithfulness, truth, list(alternatives))


def measure_effects(prepared: Sequence[PreparedBatch], kept: Tensor | None = None) -> Tensor:
    """Measure what removing each edge alone changes: mean over the prompts of |change|, float64 `[edges]`.

    Args:
        prepared: the prompts.
        kept: remove edges from this circuit, and no others; by default from the full model.
    """
    editor = IncrementalEditor(prepared, kept)
    graph, tested = editor.graph, editor.kept.clone()
    effects = torch.zeros(len(graph), dtype=torch.float64)
    for reader in reversed(range(graph.n_readers)):
        edges = graph.edges(reader)
        if not tested[edges].any():
            continue
        editor.open(reader)
        alone = torch.diag(tested[edges])[tested[edges]]
        values = editor.values_by_prompt(torch.cat([torch.zeros_like(alone[:1]), alone]))
        effects[edges][tested[edges]] = (values[1:] - values[0]).abs().mean(1)
    return effects


def _value(prepared: Sequence[PreparedBatch], kept: Tensor) -> float:
    values = [CircuitRun(one).values(kept) for one in prepared]
    return float(torch.cat(values).double().mean())
