"""Objectives: one value per prompt, lower is better.

A search removes an edge if its removal increases the objective by less than the threshold. So measures that are high
for a good model are negated: `LogitDifference` of a good model is a large *negative* value.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError


class Objective(ABC):
    """One value per prompt, lower for a model that does the task better."""

    needs_wrong_answers = False
    """True if the batch must have wrong answers."""
    needs_answers = True
    """True if the batch must have answers."""
    whole_vocabulary = True
    """True if `values` computes the logits of the whole vocabulary, which take memory."""
    zero_at_full_model = False
    """True if value and gradient are zero for the full model, so that first-order estimates are all zero."""

    def check(self, batch: PromptBatch) -> None:
        """Refuse a batch without the answers that this objective needs.

        Raises:
            UsageError: answers or wrong answers are missing.
        """
        for needed, tokens, what in (
            (self.needs_answers, batch.answers, "answers"),
            (self.needs_wrong_answers, batch.wrong_answers, "wrong answers"),
        ):
            missing = ~(tokens >= 0).any(-1) & (batch.answer_positions >= 0)
            if needed and missing.any():
                row = int(missing.any(-1).nonzero()[0])
                raise UsageError(
                    f"{type(self).__name__} needs {what}, and prompt {row} has none.",
                    "Add them to the prompts, or choose another objective.",
                )

    def reference(self, full: Logits) -> Tensor | None:
        """Compute what `values` needs from the full model's logits; None for most objectives."""
        return None

    @abstractmethod
    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """Compute one value per prompt, the mean over its answer positions.

        Args:
            logits: of the model with some edges removed, `[..., B, A, *]`.
            batch: the prompts, on the device of the logits.
            reference: what `reference` returned for these prompts.

        Returns:
            `[..., B]`, lower is better.
        """


class LogitDifference(Objective):
    """Minus (mean logit of the answers - mean logit of the wrong answers), in nats."""

    needs_wrong_answers = True
    whole_vocabulary = False

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """See the base class."""
        right = _mean(logits.of(batch.answers), batch.answers >= 0)
        wrong = _mean(logits.of(batch.wrong_answers), batch.wrong_answers >= 0)
        return -_over_positions(right - wrong, batch)


class ProbabilityDifference(Objective):
    """Minus (summed probability of the answers - summed probability of the wrong answers), as for greater-than."""

    needs_wrong_answers = True

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """See the base class."""
        probabilities = logits.all().softmax(-1)
        difference = _summed(probabilities, batch.answers) - _summed(probabilities, batch.wrong_answers)
        return -_over_positions(difference, batch)


class AnswerLogProbability(Objective):
    """Minus the log of the summed probability of the answers, in nats."""

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """See the base class."""
        everything = logits.all()
        of_answers = logits.of(batch.answers).masked_fill(batch.answers < 0, -torch.inf)
        return _over_positions(everything.logsumexp(-1) - of_answers.logsumexp(-1), batch)


class KLDivergence(Objective):
    """KL(full model || circuit), in nats; the full model is in full precision."""

    needs_answers = False
    zero_at_full_model = True

    def reference(self, full: Logits) -> Tensor:
        """Compute the full model's log-probabilities, `[B, A, V]`."""
        return full.all().log_softmax(-1)

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """See the base class."""
        assert reference is not None, "prepared batches carry the reference"
        log_probabilities = logits.all().log_softmax(-1)
        return _over_positions((reference.exp() * (reference - log_probabilities)).sum(-1), batch)


class SquaredError(Objective):
    """Squared difference of the logits from the full model's, summed over the vocabulary.

    For programs whose output is a number, and as in ACDC's code for those compiled by tracr.
    """

    needs_answers = False
    zero_at_full_model = True

    def reference(self, full: Logits) -> Tensor:
        """Return the full model's logits, `[B, A, V]`."""
        return full.all()

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """See the base class."""
        assert reference is not None, "prepared batches carry the reference"
        return _over_positions((logits.all() - reference).square().sum(-1), batch)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over the last dimension where `mask` is true; 0 if it is nowhere true."""
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def _summed(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Sum the probabilities of `tokens` `[B, A, n]` in `[..., B, A, V]`, `[..., B, A]`."""
    rows = tokens.clamp(min=0).expand(*probabilities.shape[:-1], -1)
    return torch.where(tokens >= 0, probabilities.gather(-1, rows), 0).sum(-1)


def _over_positions(values: Tensor, batch: PromptBatch) -> Tensor:
    """Average over the answer positions that a prompt has, `[..., B, A]` to `[..., B]`."""
    return _mean(values, batch.answer_positions >= 0)
