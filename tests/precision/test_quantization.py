"""Low-precision matrices: bitsandbytes' own of each matrix, in every dtype, for all sizes."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.weights import by_bitsandbytes

from circuitkit.precision.quantization import MODES, quantize

CPU = torch.device("cpu")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(MODES),
    st.sampled_from(DTYPES),
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40)),
    st.integers(0, 10**6),
)
@example("fp4", torch.bfloat16, (4, 4, 7), 436366)  # a value on the border of two codes
def test_each_matrix_is_rounded_alone(mode, dtype, shape, seed):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1
    matrices = (matrices * torch.logspace(-3, 3, shape[0])[:, None, None]).to(dtype)  # a shared scale would be far off
    before = matrices.clone()
    low = quantize(matrices, mode, CPU)
    found = low.dequantize()
    assert found.dtype == dtype
    assert found.shape == shape
    assert torch.equal(matrices, before)
    for one, matrix in zip(found, matrices, strict=True):
        assert torch.equal(one, by_bitsandbytes(matrix, mode))


@pytest.mark.parametrize("mode", MODES)
def test_what_it_gives_out_is_new(mode):
    """The investigated unit is written into it."""
    matrices = torch.randn(3, 4, 16).bfloat16()
    low = quantize(matrices, mode, CPU)
    first = low.dequantize()
    kept = first.clone()
    first.zero_()
    assert torch.equal(low.dequantize(), kept)
    assert matrices.abs().sum() > 0


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_zeros_stay_zeros(mode):
    matrices = torch.randn(2, 4, 64)
    matrices[1, 2:] = 0
    found = quantize(matrices, mode, CPU).dequantize()
    assert found.isfinite().all()
    assert not found[1, 2:].any()


@pytest.mark.parametrize(("mode", "bits"), [("int8", 8 + 32 / 576), ("nf4", 4.5), ("fp4", 4.5), ("bf16", 16)])
def test_bytes_held(mode, bits):
    matrices = torch.randn(3, 64, 576)
    assert quantize(matrices, mode, CPU).nbytes == matrices.numel() * bits / 8


def test_documented_errors():
    torch.manual_seed(0)
    matrices = torch.randn(1, 512, 512)
    errors = {m: (quantize(matrices, m, CPU).dequantize() - matrices).norm() / matrices.norm() for m in MODES}
    assert {mode: round(float(error), 3) for mode, error in errors.items()} == {
        "int8": pytest.approx(0.007, abs=2e-3),
        "nf4": pytest.approx(0.09, abs=5e-3),
        "fp4": pytest.approx(0.12, abs=5e-3),
        "bf16": pytest.approx(0.002, abs=1e-3),
    }
