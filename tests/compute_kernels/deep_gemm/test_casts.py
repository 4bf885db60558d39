"""Casts to e4m3: the kernel, run on the CPU or on a GPU, has the bits of the plain tensors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.emulator.emulator import EmulatedKernel, emulated_products

from threefs.compute_kernels import deep_gemm, jit
from threefs.compute_kernels.deep_gemm import casts
from threefs.compute_kernels.deep_gemm.casts import cast_source, fused_cast, plain_cast
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import sass

__all__ = ["emulated_products"]
pytestmark = pytest.mark.kernels
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROWS = [1, 128]
_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")]


def _matrix(m: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of all magnitudes; a group of zeros, one of subnormals, values halfway between two of e4m3."""
    x = torch.randn(m, k) * torch.logspace(-6, 4, m)[:, None]
    x[m // 3] = 0.0
    x[m // 2, : k // 2] = 1e-40
    x[0] = (torch.randint(-15, 16, (k,)) * 2 + 1) * 0.25
    x[0, k - 1] = 448.0
    return x.to(dtype)


def _check(x: torch.Tensor, rows: int) -> None:
    values, scale = fused_cast(x, rows)
    wanted, wanted_scale = plain_cast(x.cpu(), rows, 128)
    assert values.dtype == torch.float8_e4m3fn
    assert values.is_contiguous()
    assert torch.equal(scale.cpu().nan_to_num(7.0), wanted_scale.nan_to_num(7.0))
    assert torch.equal(scale.isnan().cpu(), wanted_scale.isnan())
    bits, wanted_bits = (v.cpu().view(torch.uint8) for v in (values, wanted))
    both_nan = (bits & 127 == 127) & (wanted_bits & 127 == 127)  # whose sign is nobody's
    assert torch.equal(bits.masked_fill(both_nan, 127), wanted_bits.masked_fill(both_nan, 127))


def _shapes(device: str, rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for m, k in ((1, 128), (3, 272), (131, 264), (128, 101), (257, 130)):
        _check(_matrix(m, k, dtype).to(device), rows)
    wide = _matrix(130, 300, dtype).to(device)
    for x in (wide[:, :256], wide[:, 1:201], wide[1:, 8:136], wide.t(), wide[:, :1], wide[::2, :160]):
        _check(x, rows)
    odd = _matrix(140, 384, dtype)
    odd[3, 5], odd[4, 200], odd[5, 300] = torch.inf, -torch.inf, torch.nan
    odd[7, 1] = torch.finfo(dtype).max
    _check(odd.to(device), rows)
    for empty in ((0, 256), (5, 0), (0, 0)):
        values, scale = fused_cast(torch.empty(empty, dtype=dtype, device=device), rows)
        assert values.shape == empty
        assert scale.shape == (-(-empty[0] // rows), -(-empty[1] // 128))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.usefixtures("emulated_products")
def test_the_kernels_bits_are_those_of_plain_tensors(rows: int, dtype: torch.dtype) -> None:
    _shapes("cpu", rows, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=_gpu)])
def test_on_a_gpu_too(device: str, rows: int, dtype: torch.dtype) -> None:
    _shapes(device, rows, dtype)
    _check(torch.randn(4096, 7168, device=device).to(dtype), rows)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=_gpu)])
def test_public_casts_use_it_and_repeat(device: str) -> None:
    x = torch.randn(300, 520, device=device, dtype=torch.bfloat16)
    for _ in range(3):  # the second call repeats the first one's launch
        _, scale = deep_gemm.per_token_cast_to_fp8(x)
        assert deep_gemm.get_col_major_tma_aligned_tensor(scale) is scale
        assert torch.equal(scale.cpu(), plain_cast(x.cpu(), 1, 128)[1])
        x.mul_(2.0)


@settings(max_examples=30, deadline=None)
@given(
    m=st.integers(1, 140),
    k=st.integers(1, 280),
    offset=st.integers(0, 9),
    rows=st.sampled_from(ROWS),
    dtype=st.sampled_from(DTYPES),
    spread=st.floats(-3.0, 3.0),
    seed=st.integers(0, 2**20),
)
def test_random_matrices(m: int, k: int, offset: int, rows: int, dtype: torch.dtype, spread: float, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(m, k + offset) * torch.exp(spread * torch.randn(m, k + offset))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(casts, "loaded", EmulatedKernel)
        patch.setattr(casts.replay, "run_allocating", lambda kind, tensors, prepare: _once(prepare()))
        _check(x.to(dtype)[:, offset:], rows)


def _once(work: casts.replay.Work) -> casts.replay.Results:
    results = work.allocate()
    work.launch(results)
    return results


@pytest.mark.usefixtures("emulated_products")
def test_the_products_take_the_scales_as_they_are() -> None:
    _, scale = fused_cast(torch.randn(70, 300), 1)
    assert deep_gemm.get_col_major_tma_aligned_tensor(scale) is scale


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_kernels_compile_without_spills(rows: int, dtype: torch.dtype, vector: bool) -> None:
    compiled = jit.build(cast_source(dtype, rows, vector))
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    assert compiled.registers <= 128
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    if vector:
        assert found["LDG"] == 128 * 128 * dtype.itemsize // 16 // 256, "each byte is read once"
        assert found["FCHK"] == 1, "one division a group, none a value"


def test_channels_are_columns_of_128_rows() -> None:
    x = torch.randn(260, 40)
    values, scale = deep_gemm.per_channel_cast_to_fp8(x)
    wanted, wanted_scale = deep_gemm.per_token_cast_to_fp8(x.t().contiguous())
    assert torch.equal(scale, wanted_scale.t())
    assert torch.equal(values.view(torch.uint8), wanted.t().contiguous().view(torch.uint8))


@pytest.mark.parametrize("name", ["per_token", "per_block", "per_channel"])
def test_what_is_no_matrix_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"x has shape \(2, 3, 4\)"):
        partial(getattr(deep_gemm, f"{name}_cast_to_fp8"), torch.zeros(2, 3, 4))()
