"""Accuracy: on what share of the answers a model is right."""

import torch
from torch import Tensor

from circuitkit.data.logits import Logits
from circuitkit.data.prompt_batch import PromptBatch


def accuracy(logits: Logits, batch: PromptBatch) -> Tensor:
    """Compute the share of a prompt's answer positions at which the model is right; see `find_right`.

    Args:
        logits: of the model with some edges removed, `[..., B, A, *]`.
        batch: the prompts, on the device of the logits.

    Returns:
        `[..., B]`, from 0 to 1, in the dtype of the logits or float32 if that has fewer bits; NaN for a prompt without
        answers.
    """
    asked = (batch.answers >= 0).any(-1)
    right = find_right(logits, batch).to(torch.promote_types(logits.hidden.dtype, torch.float32))
    return right.sum(-1) / asked.sum(-1)  # 0 / 0 is NaN


def find_right(logits: Logits, batch: PromptBatch) -> Tensor:
    """Find the positions at which the best answer has a larger logit than the best wrong answer.

    Where a position has no wrong answers, every token that is not an answer is one. A tie is not right.

    Args:
        logits, batch: as for `accuracy`.

    Returns:
        bool `[..., B, A]`; False where there is no answer.
    """
    best_answer = _best(logits, batch.answers)
    best_wrong = _best(logits, batch.wrong_answers)
    alone = ~(batch.wrong_answers >= 0).any(-1) & (batch.answers >= 0).any(-1)
    if alone.any():  # the logits of the whole vocabulary take memory
        best_wrong = torch.where(alone, _best_other(logits, batch.answers), best_wrong)
    return best_answer > best_wrong


def _best(logits: Logits, tokens: Tensor) -> Tensor:
    """Return the largest logit of the tokens `[B, A, n]`, `[..., B, A]`; -inf where there is none."""
    missing = torch.full((*tokens.shape[:-1], 1), -1, dtype=torch.long, device=tokens.device)
    padded = torch.cat([tokens, missing], -1)  # n may be 0, of which there is no largest
    return logits.of(padded).masked_fill(padded < 0, -torch.inf).amax(-1)


def _best_other(logits: Logits, tokens: Tensor) -> Tensor:
    """Return the largest logit of all tokens but these, `[..., B, A]`."""
    vocabulary = logits.weight.shape[0]
    columns = torch.where(tokens >= 0, tokens, vocabulary)  # one more column, for those that are missing
    excluded = torch.zeros((*tokens.shape[:-1], vocabulary + 1), dtype=torch.bool, device=tokens.device)
    excluded.scatter_(-1, columns, value=True)
    return logits.all().masked_fill(excluded[..., :-1], -torch.inf).amax(-1)
