"""Rotary positions by the model's own module, each prompt's as if it ran alone.

Some scalings depend on the longest prompt of a batch (longrope, dynamic NTK), and dynamic NTK also on what the module
ran before. Here, each prompt is scaled by its own length, whatever else is in the batch or was computed before: as the
model computes it for this prompt alone, when the model is new.
"""

from typing import Any

import torch
from torch import Tensor

from circuitkit.models.module_copy import copy_without_hooks


class RotaryPositions:
    """Computes cosines and sines.

    Args:
        module: the model's rotary module, which stays as it is.

    Attributes:
        scales_from: the length above which the scaling depends on a prompt's length; None: it never does.
    """

    def __init__(self, module: Any) -> None:
        twin: Any = copy_without_hooks(module)
        self._module = twin
        rule = str(getattr(module, "rope_type", ""))
        self.scales_from: int | None = None
        if rule == "longrope":
            self.scales_from = module.config.rope_parameters["original_max_position_embeddings"]
        elif "dynamic" in rule:
            self.scales_from = module.original_max_seq_len
        if self.scales_from is not None:  # it writes to its buffers whenever it runs
            twin._buffers = {name: buffer.clone() for name, buffer in module._buffers.items()}

    def __call__(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines `[B, T, rotated width]` of positions `[B, T]`, in the dtype of `like`."""
        if self.scales_from is None:
            cos, sin = self._module(like, position_ids=positions)
            return cos, sin
        found = []
        for row in positions.split(1):
            self._module(like, position_ids=torch.zeros_like(row))  # back to the frequencies of short prompts
            found.append(self._module(like, position_ids=row))
        return torch.cat([cos for cos, _ in found]), torch.cat([sin for _, sin in found])
