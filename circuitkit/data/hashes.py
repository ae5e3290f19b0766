"""Hashes of tensors and prompts, by which a resumed run recognizes what it was started with."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields

import torch
from torch import Tensor

from circuitkit.data.prompt_batch import PromptBatch


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hash names, dtypes, shapes and values."""
    hashed = hashlib.sha256()
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        hashed.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def hash_prompts(batch: PromptBatch) -> str:
    """Hash prompts and answers, not notes and labels."""
    found = ((field.name, getattr(batch, field.name)) for field in fields(batch))
    return hash_tensors((name, value) for name, value in found if isinstance(value, Tensor))
