"""Low-precision matrices, by bitsandbytes.

`int8` has one scale per row, as in LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339). `nf4` (Dettmers et al. 2023,
arXiv 2305.14314) and `fp4` have one scale per block of 64 values. No scale is shared by two matrices. `bf16` is a plain
cast.

Relative error of a Gaussian matrix, in the Frobenius norm: bf16 0.2%, int8 0.6%, nf4 9%, fp4 12%.

Quantization always runs on the CPU, so that the low-precision weights are the same bits on every device (on CUDA,
bitsandbytes would round to float16 before it rounds to int8).
"""

import logging
from functools import cache
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Mode = Literal["int8", "nf4", "fp4", "bf16"]
MODES: tuple[Mode, ...] = get_args(Mode)
BLOCK = 64
"""The number of values that share a scale in 4 bits."""


class LowMatrices(Protocol):
    """Several matrices of one shape in low precision."""

    @property
    def nbytes(self) -> int:
        """Return the bytes held, scales included."""

    def dequantize(self) -> Tensor:
        """Make new tensors `[n, rows, columns]` in the original dtype, all in one call."""


def quantize(matrices: Tensor, mode: Mode, device: torch.device) -> LowMatrices:
    """Round matrices to low precision.

    Args:
        matrices: `[n, rows, columns]` on the CPU.
        mode: the precision.
        device: where to keep and dequantize them.
    """
    if mode == "bf16":
        return _BFloat16(matrices, device)
    if mode == "int8":
        return _Int8Rows(matrices, device)
    return _FourBitBlocks(matrices, mode, device)


class _BFloat16:
    def __init__(self, matrices: Tensor, device: torch.device) -> None:
        self._values = matrices.to(device, torch.bfloat16, copy=True)
        self._dtype = matrices.dtype
        self.nbytes = self._values.nbytes

    def dequantize(self) -> Tensor:
        return self._values.to(self._dtype, copy=True)


class _Int8Rows:
    def __init__(self, matrices: Tensor, device: torch.device) -> None:
        self._shape, self._dtype = matrices.shape, matrices.dtype
        codes, scales, _ = _bitsandbytes().int8_vectorwise_quant(matrices.flatten(0, 1).float())
        self._codes, self._scales = codes.to(device), scales.to(device)
        self.nbytes = self._codes.nbytes + self._scales.nbytes

    def dequantize(self) -> Tensor:
        rows: Tensor = _bitsandbytes().int8_vectorwise_dequant(self._codes, self._scales)
        return rows.to(self._dtype).view(self._shape)


class _FourBitBlocks:
    """Each matrix is padded with zeros to whole blocks, which does not change any scale.

    In an incomplete block, bitsandbytes divides by the scale on a CPU, and multiplies by its reciprocal elsewhere: a
    value on the border of two codes would depend on that.
    """

    def __init__(self, matrices: Tensor, mode: Mode, device: torch.device) -> None:
        self._shape, self._dtype = matrices.shape, matrices.dtype
        flat = matrices.flatten(1).float()
        blocks = F.pad(flat, (0, -flat.shape[1] % BLOCK)).reshape(-1, BLOCK)
        packed, self._state = _bitsandbytes().quantize_4bit(blocks, blocksize=BLOCK, quant_type=mode)
        self._state.dtype = torch.float32 if self._dtype == torch.float64 else self._dtype
        self._state.to(device)
        self._packed = packed.to(device)
        self.nbytes = self._packed.nbytes + self._state.absmax.nbytes

    def dequantize(self) -> Tensor:
        blocks: Tensor = _bitsandbytes().dequantize_4bit(self._packed, self._state)
        count, rows, columns = self._shape
        flat = blocks.to(self._dtype).view(count, -1)[:, : rows * columns]
        matrices: Tensor = flat.unflatten(1, (rows, columns))
        return matrices


@cache
def _bitsandbytes() -> Any:
    """`bitsandbytes.functional`; imported when first needed, since that takes seconds."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns about an optional kernel that is not used here
    try:
        import bitsandbytes.functional
    finally:
        logger.setLevel(level)
    return bitsandbytes.functional
