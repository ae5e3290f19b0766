"""An objective outside the package: the logit difference, as far as it matters.

pip install examples/my_objective
circuitkit list objectives
circuitkit discover --model toy --task ioi --strategy eap --objective margin --objective.margin 10
"""

import torch
from torch import Tensor

from circuitkit import Objective, PromptBatch, UsageError
from circuitkit.data.logits import Logits


class Margin(Objective):
    """How much the best answer's logit lacks to be `margin` above the best wrong answer's, in nats; at least 0.

    Args:
        margin: beyond it, a better answer does not count.
    """

    needs_wrong_answers = True

    def __init__(self, margin: float = 5.0) -> None:
        if not margin > 0:
            raise UsageError(f"margin={margin!r} is not a positive number.", "Give one such as 5.")
        self.margin = margin

    def values(self, logits: Logits, batch: PromptBatch, reference: Tensor | None) -> Tensor:
        """Compute one value per prompt, the mean over its answer positions."""
        best, other = (
            logits.of(tokens).masked_fill(tokens < 0, -torch.inf).amax(-1)  # -1 fills sets of unequal sizes
            for tokens in (batch.answers, batch.wrong_answers)
        )
        asked = batch.answer_positions >= 0
        lacking = (self.margin - (best - other)).clamp(min=0).where(asked, 0)
        return lacking.sum(-1) / asked.sum(-1)
