"""The inputs of attention and MLPs for a batch, other than the stream."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.attention import Rotary
from circuitkit.models.families.base import Family


@dataclass(frozen=True)
class Context:
    """The inputs of attention and MLPs for a batch, other than the stream.

    `CircuitModel.attention_mask` and `CircuitModel.rotary` return those of a layer.

    Attributes:
        positions: `[B, T]`.
        attention_masks: for each window (None: unlimited) an additive mask `[B, T, T]`, 0 where a query may attend to a
            key. Nothing attends to a padded position but itself, so that its values are finite and affect no other.
        rotary: for each kind (`Family.rotary_kind`) cosines and sines `[B, T, *]`, or None.
    """

    positions: Tensor
    attention_masks: dict[int | None, Tensor]
    rotary: dict[str | None, Rotary]

    def tensors(self) -> Iterator[Tensor]:
        """Yield masks, cosines and sines."""
        yield from self.attention_masks.values()
        for rotary in self.rotary.values():
            yield from rotary or ()


def make_context(family: Family, batch: PromptBatch, dtype: torch.dtype) -> Context:
    """Compute positions, attention masks and rotary positions of a batch, on its device.

    Args:
        family: of the model.
        batch: the prompts.
        dtype: of masks, cosines and sines.
    """
    device, layers = batch.mask.device, range(family.layers)
    index = torch.arange(batch.length, dtype=torch.int64, device=device)
    back = index[:, None] - index  # [T, T]
    visible = (back >= 0) | (not family.causal)
    masks = {}
    for window in {family.window(layer) for layer in layers}:
        near = visible if window is None else visible & (back < window)
        seen = (near & batch.mask[:, None, :]) | (back == 0)
        mask = torch.zeros(seen.shape, dtype=dtype, device=device)
        masks[window] = mask.masked_fill_(~seen, torch.finfo(dtype).min)
    like = torch.empty(0, dtype=dtype, device=device)
    kinds = {family.rotary_kind(layer) for layer in layers}
    return Context(batch.positions, masks, {kind: family.rotary_of_kind(kind, batch.positions, like) for kind in kinds})
