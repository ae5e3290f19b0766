"""The check on load: the decomposed model computes the same logits as the wrapped one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Allowed difference of the logits, relative to the largest logit, by dtype."""
HALF_TOLERANCE = 5e-2
"""Allowed difference in half precision."""


def parity_batch(vocabulary: int, longest: int) -> PromptBatch:
    """Make two random prompts, of at most `longest` tokens, one of them left-padded."""
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(vocabulary, (min(n, longest),), generator=generator, dtype=torch.int64).tolist() for n in (8, 5)
    ]
    return PromptBatch.from_ids(prompts, prompts, answers=[0, 0])


@torch.no_grad()
def check_parity(model: PreTrainedModel, batch: PromptBatch, streams: Sequence[Tensor], logits: Tensor) -> float:
    """Compare the decomposed model's logits with the transformers model's own.

    Args:
        model: the transformers model.
        batch: the prompts.
        streams: the decomposed model's stream after the embeddings and after each layer, `[B, T, D]` each.
        logits: the decomposed model's, `[B, T, V]`.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        CircuitKitError: it exceeds the tolerance; the message names the first layer that differs.
    """
    theirs = _run(model, batch, hidden_states=False).logits
    real = batch.mask
    largest = theirs[real].abs().max().item()
    difference = (logits - theirs)[real].abs().max().item() / max(largest, 1e-30)
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    if not difference <= tolerance:  # a NaN fails too
        hidden_states = _run(model, batch, hidden_states=True).hidden_states
        raise CircuitKitError(
            f"The decomposed {model.config.model_type} model's logits differ from the model's own by "
            f"{difference:.1e} of the largest (allowed: {tolerance:.0e}), "
            f"{_first_difference(streams, hidden_states, real, tolerance)}.",
            "Its architecture has something this family does not represent (or its weights are not finite): "
            "choose another model.",
        )
    return float(difference)


def _run(model: PreTrainedModel, batch: PromptBatch, hidden_states: bool) -> Any:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        return model(
            input_ids=batch.clean,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions,
            output_hidden_states=hidden_states,
            use_cache=False,
        )
    finally:
        for module in training:
            module.training = True


def _first_difference(ours: Sequence[Tensor], theirs: tuple[Tensor, ...], real: Tensor, tolerance: float) -> str:
    # transformers' last hidden state is already normed: it is compared through the logits
    for layer, (one, other) in enumerate(zip(ours[:-1], theirs[:-1], strict=True)):
        scale = other[real].abs().max()
        if not (one - other)[real].abs().max() <= tolerance * scale:
            return "first in the embeddings" if layer == 0 else f"first in layer {layer - 1}"
    return "first in the last layer or the unembedding"
