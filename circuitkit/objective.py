"""What is optimised: one value an example, lower is better.

A search removes an edge when that does not make the objective worse by the threshold, so the objectives that a
model maximises are negated here: the logit difference of a good model is a large *negative* value.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.errors import UsageError
from circuitkit.prompts import PromptBatch


@dataclass(frozen=True)
class Logits:
    """Logits at the answer positions, computed as far as they are asked for.

    Attributes:
        hidden: normed final stream at the answer positions, `[..., B, A, D]`.
        weight: rows of the unembedding, `[V, D]`.
        bias: `[V]` or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def all(self) -> Tensor:
        """The whole vocabulary, `[..., B, A, V]`."""
        return torch.nn.functional.linear(self.hidden, self.weight, self.bias)

    def of(self, tokens: Tensor) -> Tensor:
        """The logits of given tokens `[B, A, n]` only, `[..., B, A, n]`; those of a token -1 mean nothing."""
        rows = tokens.clamp(min=0)
        logits = (self.weight[rows] @ self.hidden.unsqueeze(-1)).squeeze(-1)
        return logits if self.bias is None else logits + self.bias[rows]


class Objective(ABC):
    """A number for each example that is lower the better the model does the task."""

    needs_wrong_answers = False
    """Whether the batch must name wrong answers."""
    needs_answers = True
    """Whether the batch must name answers."""
    zero_at_full_model = False
    """Whether value and gradient vanish at the full model, where a first-order estimate then says nothing."""

    def check(self, batch: PromptBatch) -> None:
        """Refuse a batch that lacks what this objective needs.

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
        """What the objective needs to know of the full model; None for most."""
        return None

    @abstractmethod
    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """One value an example, mean over its answer positions.

        Args:
            logits: of the model under investigation, `[..., B, A, *]`.
            batch: the prompts, on the device of the logits.
            reference: what `reference` returned for these prompts.

        Returns:
            `[..., B]`, lower is better.
        """


class LogitDifference(Objective):
    """Minus (mean logit of the answers - mean logit of the wrong answers), in nats."""

    needs_wrong_answers = True

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """`[..., B]`, see the base class."""
        right = _mean(logits.of(batch.answers), batch.answers >= 0)
        wrong = _mean(logits.of(batch.wrong_answers), batch.wrong_answers >= 0)
        return -_over_positions(right - wrong, batch)


class ProbabilityDifference(Objective):
    """Minus (summed probability of the answers - summed probability of the wrong answers), as in greater-than."""

    needs_wrong_answers = True

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """`[..., B]`, see the base class."""
        probabilities = logits.all().softmax(-1)
        difference = _summed(probabilities, batch.answers) - _summed(probabilities, batch.wrong_answers)
        return -_over_positions(difference, batch)


class AnswerLogProbability(Objective):
    """Minus the log of the summed probability of the answers, in nats."""

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """`[..., B]`, see the base class."""
        everything = logits.all()
        of_answers = logits.of(batch.answers).masked_fill(batch.answers < 0, -torch.inf)
        return _over_positions(everything.logsumexp(-1) - of_answers.logsumexp(-1), batch)


class KLDivergence(Objective):
    """KL(full model || model), in nats; the base is the full model in full precision."""

    needs_answers = False
    zero_at_full_model = True

    def reference(self, full: Logits) -> Tensor:
        """The full model's log-probabilities, `[B, A, V]`."""
        return full.all().log_softmax(-1)

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """`[..., B]`, see the base class."""
        assert reference is not None, "prepared batches carry the reference"
        log_probabilities = logits.all().log_softmax(-1)
        return _over_positions((reference.exp() * (reference - log_probabilities)).sum(-1), batch)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension where `mask`; 0 where it is nowhere true."""
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp(min=1)


def _summed(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Summed probability of `tokens` `[B, A, n]` under `[..., B, A, V]`, `[..., B, A]`."""
    rows = tokens.clamp(min=0).expand(*probabilities.shape[:-1], -1)
    return torch.where(tokens >= 0, probabilities.gather(-1, rows), 0).sum(-1)


def _over_positions(values: Tensor, batch: PromptBatch) -> Tensor:
    """Mean over the answer positions that a prompt has, `[..., B, A]` to `[..., B]`."""
    return _mean(values, batch.answer_positions >= 0)
