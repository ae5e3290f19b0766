"""Rotary positions by the model's own module, each prompt's as if it ran alone.

Some scalings depend on the longest prompt of a batch (longrope, dynamic NTK), and dynamic NTK also on what the module
ran before. Here, each prompt is scaled by its own length, whatever else is in the batch or was computed before: as the
model computes it for this prompt alone, when the model is new.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from circuitkit.models.module_copy import copy_without_hooks


class RotaryPositions:
    """Computes cosines and sines.

    Args:
        module: the model's rotary module, which stays as it is.
        kind: the type of layers, if the module computes other positions for each (Gemma 3).

    Attributes:
        scales_from: the length above which the scaling depends on a prompt's length; None: it never does.
    """

    def __init__(self, module: Any, kind: str | None = None) -> None:
        twin: Any = copy_without_hooks(module)
        self._module = twin if kind is None else partial(twin, layer_type=kind)
        rule = str(_of_kind(getattr(module, "rope_type", ""), kind))
        self.scales_from: int | None = None
        if rule == "longrope":
            parameters = _of_kind(module.config.rope_parameters, kind)
            self.scales_from = parameters["original_max_position_embeddings"]
        elif "dynamic" in rule:
            self.scales_from = module.original_max_seq_len
        if self.scales_from is not None:  # it writes to its buffers whenever it runs
            twin._buffers = {name: buffer.clone() for name, buffer in module._buffers.items()}

    def __call__(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines `[B, T, rotated width]` of positions `[B, T]`, in the dtype of `like`."""
        if self.scales_from is None:
            cos, sin = self._module(like, position_ids=positions)
            return cos.to(like.dtype), sin.to(like.dtype)  # OLMo 2 returns them in float32
        found = []
        for row in positions.split(1):
            self._module(like, position_ids=torch.zeros_like(row))  # back to the frequencies of short prompts
            found.append(self._module(like, position_ids=row))
        return torch.cat([cos for cos, _ in found]).to(like.dtype), torch.cat([sin for _, sin in found]).to(like.dtype)


def _of_kind(found: Any, kind: str | None) -> Any:
    return found if kind is None else found[kind]
