"""The kept edges of a circuit as a short text: packed bits, compressed, in base 64."""

import base64
import zlib

import numpy as np
import torch
from torch import Tensor


def to_text(kept: Tensor) -> str:
    """Encode bool `[edges]`."""
    return base64.b64encode(zlib.compress(np.packbits(kept.numpy()).tobytes(), 9)).decode()


def from_text(text: str, edges: int) -> Tensor:
    """Decode what `to_text` encoded."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(packed, count=edges).astype(bool))
