"""Weights rounded by bitsandbytes, one matrix at a time."""

import bitsandbytes.functional as bnb
import torch
from torch import Tensor


def by_bitsandbytes(matrix: Tensor, mode: str) -> Tensor:
    """Round one matrix alone by bitsandbytes: in float32, whatever its dtype, and back.

    In 4 bits, it multiplies a block by the reciprocal of its scale, but divides by the scale in an incomplete last
    block, on a CPU only. So that a tie between two codes falls alike everywhere, all blocks are complete.
    """
    if mode == "bf16":
        return matrix.bfloat16().to(matrix.dtype)
    if mode == "int8":
        return bnb.int8_vectorwise_dequant(*bnb.int8_vectorwise_quant(matrix.float())[:2]).to(matrix.dtype)
    values = matrix.flatten() if matrix.dtype.itemsize < 8 else matrix.flatten().float()
    padded = torch.cat([values, values.new_zeros(-len(values) % 64)])
    found = bnb.dequantize_4bit(*bnb.quantize_4bit(padded, blocksize=64, quant_type=mode))
    return found.flatten()[: len(values)].view(matrix.shape).to(matrix.dtype)
