"""The check on load: the decomposed model computes what the wrapped one computes."""

from typing import Any

import torch
from torch import Tensor

from circuitkit.errors import CircuitKitError
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.prompts import PromptBatch

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4}
"""Allowed difference of the logits, relative to the largest; 5e-2 in half precision."""
HALF_TOLERANCE = 5e-2


@torch.no_grad()
def check_parity(model: CircuitModel) -> float:
    """Compare logits on two short prompts, one left-padded, with the transformers model's own.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        CircuitKitError: it exceeds the tolerance; the first layer that differs is named.
    """
    vocabulary = model.family.unembedding()[0].shape[0]
    generator = torch.Generator().manual_seed(0)
    limit = getattr(model.family.config, "max_position_embeddings", None) or 8
    prompts = [torch.randint(vocabulary, (min(n, limit),), generator=generator).tolist() for n in (8, 5)]
    batch = PromptBatch.from_ids(prompts, prompts, answers=[0, 0]).to(model.device)
    theirs = _their_run(model, batch, hidden_states=False).logits
    steps = model.run(model.embed(batch.clean), model.context(batch))
    streams = [stream for _, _, stream in steps][:: 1 + model.graph.mlps]
    ours = model.logits(streams[-1]).all()
    real = batch.mask
    largest = theirs[real].abs().max().item()
    difference = (ours - theirs)[real].abs().max().item() / max(largest, 1e-30)
    tolerance = TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    if not difference <= tolerance:  # a NaN fails too
        hidden_states = _their_run(model, batch, hidden_states=True).hidden_states
        raise CircuitKitError(
            f"The decomposed {model.family.config.model_type} model's logits differ from the model's own by "
            f"{difference:.1e} of the largest (allowed: {tolerance:.0e}), "
            f"{_first_difference(streams, hidden_states, real, tolerance)}.",
            "Its architecture has something this family does not represent (or its weights are not finite): "
            "choose another model.",
        )
    return float(difference)


def _their_run(model: CircuitModel, batch: PromptBatch, hidden_states: bool) -> Any:
    training = [module for module in model.model.modules() if module.training]
    model.model.eval()
    try:
        return model.model(
            input_ids=batch.clean,
            attention_mask=batch.mask.long(),
            position_ids=batch.positions,
            output_hidden_states=hidden_states,
            use_cache=False,
        )
    finally:
        for module in training:
            module.training = True


def _first_difference(ours: list[Tensor], theirs: tuple[Tensor, ...], real: Tensor, tolerance: float) -> str:
    # transformers' last hidden state is already normed: it is compared through the logits
    for layer, (one, other) in enumerate(zip(ours[:-1], theirs[:-1], strict=True)):
        scale = other[real].abs().max()
        if not (one - other)[real].abs().max() <= tolerance * scale:
            return "first in the embeddings" if layer == 0 else f"first in layer {layer - 1}"
    return "first in the last layer or the unembedding"
