"""Ablation: what a removed edge carries instead of its writer's output, the ablated output õ_w."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.engine.capture import capture
from circuitkit.errors import UsageError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.models.context import Context


class Ablation(ABC):
    """Computes every writer's ablated output on a batch."""

    per_prompt = True
    """True if every prompt has its own ablated outputs, which take memory."""
    is_run = False
    """True if they are those of one run of the model, so that a writer with ablated inputs has its ablated output."""
    length: int | None = None
    """The length of the only prompts that the fitted ablation is for; None: any."""

    def fit(self, model: CircuitModel, reference: Iterable[PromptBatch]) -> None:
        """Fit to reference prompts (the train split); by default, do nothing."""

    def check(self, batch: PromptBatch) -> None:
        """Refuse prompts that the fitted ablation is not for; by default, accept all.

        A run checks all its prompts before it begins.

        Raises:
            UsageError: a removed edge would carry what it carries anyway (the ablation uses the corrupted prompts, and
                none differs from its clean one), or there is no ablated output for prompts like these.
        """

    @abstractmethod
    def outputs(self, model: CircuitModel, batch: PromptBatch, context: Context) -> Tensor:
        """Compute ablated outputs, `[W, B, T, D]` or a shape that broadcasts to it."""

    def first_changed_position(self, batch: PromptBatch) -> int:
        """Return the first position at which a clean and an ablated output can differ, if attention is causal."""
        return 0


class Resample(Ablation):
    """The writer's output on the corrupted prompt."""

    is_run = True

    def check(self, batch: PromptBatch) -> None:
        """See the base class."""
        if batch.unchanged.all():
            raise UsageError(
                f"All {len(batch)} corrupted prompts are the same as their clean ones up to the answer, "
                "so that no edge matters.",
                "Give corrupted prompts that differ, or choose the ablation zero or mean.",
            )

    def first_changed_position(self, batch: PromptBatch) -> int:
        """Return where the first pair differs: before that, both runs are the same."""
        return int(batch.first_difference.min())

    def outputs(self, model: CircuitModel, batch: PromptBatch, context: Context) -> Tensor:
        """Compute the outputs of the corrupted run, `[W, B, T, D]`."""
        return capture(model, model.inputs(batch.corrupted, context), context)


class Zero(Ablation):
    """Zero instead of the writer's output."""

    per_prompt = False

    def outputs(self, model: CircuitModel, batch: PromptBatch, context: Context) -> Tensor:
        """Return zeros, `[W, 1, 1, D]`."""
        zero = torch.zeros(1, dtype=model.dtype, device=model.device)
        return zero.expand(model.graph.n_writers, 1, 1, model.family.width)


class Mean(Ablation):
    """The writer's mean output over the corrupted prompts of the reference set.

    Args:
        positions: `"each"`: a mean per position, for prompts of one length; `"pooled"`: one mean over all positions
            that are not padding; `"auto"`: `"each"` if all reference prompts have one length, otherwise `"pooled"`. The
            reference prompts decide for all others: with means per position, prompts of another length are refused.
    """

    per_prompt = False

    def __init__(self, positions: Literal["auto", "each", "pooled"] = "auto") -> None:
        if positions not in ("auto", "each", "pooled"):
            raise UsageError(f"positions={positions!r} is unknown.", "Choose 'auto', 'each' or 'pooled'.")
        self.positions = positions
        self._means: Tensor | None = None

    def fit(self, model: CircuitModel, reference: Iterable[PromptBatch]) -> None:
        """Average the outputs over the reference prompts.

        Raises:
            UsageError: `positions="each"`, and the prompts have several lengths.
        """
        pooled, each, tokens, prompts = None, None, 0, 0
        one_length = True
        for batch in reference:
            one_length &= not batch.padded and (each is None or each.shape[1] == batch.length)
            real, summed = _sum_outputs(model, batch, one_length and self.positions != "pooled")
            pooled = real if pooled is None else pooled + real
            tokens, prompts = tokens + int(batch.mask.sum()), prompts + len(batch)
            if summed is not None:
                each = summed if each is None else each + summed
        if pooled is None:
            raise UsageError("The mean ablation has no reference prompts.", "Give a train split that is not empty.")
        if self.positions == "each" and not one_length:
            raise UsageError("positions='each' needs prompts of one length.", "Choose 'auto' or 'pooled'.")
        if one_length and each is not None:
            self._means, self.length = (each / prompts).to(model.dtype)[:, None], each.shape[1]
        else:
            self._means, self.length = (pooled / tokens).to(model.dtype)[:, None, None], None

    def check(self, batch: PromptBatch) -> None:
        """Refuse prompts of another length than the means per position; see the base class."""
        lengths = batch.mask.sum(1)
        if self.length is not None and bool((others := lengths != self.length).any()):
            raise UsageError(
                f"The mean ablation has a mean for each of {self.length} positions, since all prompts of the train "
                f"split have {self.length} tokens, but another prompt has {int(lengths[others][0])}.",
                "Take one mean over all positions: positions='pooled' (--ablation.positions pooled).",
            )

    def outputs(self, model: CircuitModel, batch: PromptBatch, context: Context) -> Tensor:
        """Return means, `[W, 1, T, D]` or `[W, 1, 1, D]`.

        Raises:
            UsageError: there are means per position, and the batch has another length than the reference prompts.
        """
        if self._means is None:
            raise UsageError("The mean ablation has no means yet.", "Call fit(model, batches) first.")
        self.check(batch)
        return self._means


@torch.no_grad()
def _sum_outputs(model: CircuitModel, batch: PromptBatch, each: bool) -> tuple[Tensor, Tensor | None]:
    """Sum every writer's outputs on the corrupted prompts, a few writers at a time, in float64.

    Returns:
        The sums over prompts and positions that are not padding, `[W, D]`; with `each`, also those over prompts alone,
        `[W, T, D]`.
    """
    real, summed = [], []
    context = model.context(batch)
    for _, outputs, _ in model.run(model.inputs(batch.corrupted, context), context):
        real.append((outputs * batch.mask[..., None]).sum((1, 2)).double())
        if each:
            summed.append(outputs.sum(1).double())
    return torch.cat(real), torch.cat(summed) if each else None
