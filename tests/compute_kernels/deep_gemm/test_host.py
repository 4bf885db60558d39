"""What the products decide and refuse before anything reaches a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threefs.compute_kernels import deep_gemm
from threefs.compute_kernels.deep_gemm import layout
from threefs.compute_kernels.deep_gemm.checks import check_fp8_operands, check_groups, check_output
from threefs.compute_kernels.deep_gemm.fp8_gemm import CONTIGUOUS, DENSE, MASKED, Tiling, launch_shape, reference_gemm
from threefs.compute_kernels.deep_gemm.tilings import choose_contiguous, choose_dense, choose_masked
from threefs.compute_kernels.errors import DeviceUnavailable, InvalidInput

pytestmark = pytest.mark.kernels


def _operands(
    m: int = 130, n: int = 264, k: int = 272
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(m + n + k)
    return deep_gemm.per_token_cast_to_fp8(torch.randn(m, k)), deep_gemm.per_block_cast_to_fp8(torch.randn(n, k))


@given(m=st.integers(1, 70), n=st.integers(1, 300), k=st.integers(1, 300), seed=st.integers(0, 2**20))
@settings(max_examples=25)
def test_casts_keep_values_within_e4m3s_precision(m: int, n: int, k: int, seed: int) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(m, k), torch.randn(n, k) * 100
    (qa, sa), (qb, sb) = deep_gemm.per_token_cast_to_fp8(a), deep_gemm.per_block_cast_to_fp8(b)
    assert sa.shape == (m, -(-k // 128))
    assert sb.shape == (-(-n // 128), -(-k // 128))
    wide_a = qa.float() * sa.repeat_interleave(128, 1)[:, :k]
    wide_b = qb.float() * sb.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    # Half a step of three mantissa bits, or half of the least denormal.
    assert bool(((wide_a - a).abs() <= a.abs() / 16 * 1.001 + sa.repeat_interleave(128, 1)[:, :k] * 2**-10).all())
    block = sb.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1)[:, :k]
    assert bool(((wide_b - b).abs() <= b.abs() / 16 * 1.001 + block * 2**-10).all())


def test_an_all_zero_matrix_casts_to_zeros_and_finite_scales() -> None:
    values, scale = deep_gemm.per_block_cast_to_fp8(torch.zeros(130, 130))
    assert bool((values.float() == 0).all())
    assert bool((scale > 0).all())


def test_current_names_take_the_originals_arguments() -> None:
    lhs, rhs = _operands()
    out = torch.empty(130, 264, dtype=torch.bfloat16)
    with pytest.raises(DeviceUnavailable):  # all else is right
        deep_gemm.fp8_gemm_nt(
            lhs, rhs, out, None, (1, 128, 128), (1, 128), (128, 128), compiled_dims="", disable_ue8m0_cast=True
        )
    with pytest.raises(InvalidInput, match=r"recipe_a is \(1, 32\)"):
        deep_gemm.fp8_gemm_nt(lhs, rhs, out, recipe_a=(1, 32))
    grouped = rhs[0][None], rhs[1][None]
    ids = torch.zeros(130, dtype=torch.int32)
    with pytest.raises(InvalidInput, match=r"ends of groups are torch.int32 \(130,\)"):
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, grouped, out, ids, use_psum_layout=True)


def test_the_reference_agrees_with_a_loop_over_blocks() -> None:
    (a, sa), (b, sb) = _operands(5, 264, 272)
    wanted = torch.zeros(5, 264, dtype=torch.float64)
    for block in range(3):
        part = slice(block * 128, min(block * 128 + 128, 272))
        product = a[:, part].double() @ b[:, part].double().T
        wanted += product * sa[:, block, None].double() * sb[:, block].double().repeat_interleave(128)[:264]
    assert torch.allclose(reference_gemm(a, sa, b, sb), wanted, rtol=1e-12, atol=1e-9)


def test_calc_diff() -> None:
    x = torch.randn(100)
    assert deep_gemm.calc_diff(x, x) == pytest.approx(0.0, abs=1e-12)
    assert deep_gemm.calc_diff(x, -x) == pytest.approx(2.0)
    assert deep_gemm.calc_diff(torch.zeros(3), torch.zeros(3)) == 0.0


@pytest.mark.parametrize("shape", [(1, 3), (7, 2), (8, 5), (3, 7, 2), (2, 8, 4)])
def test_scale_layout_keeps_values_and_pads_the_stride(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape)
    moved = deep_gemm.get_col_major_tma_aligned_tensor(x)
    assert torch.equal(moved, x)
    assert moved.stride(-2) == 1
    assert moved.stride(-1) == deep_gemm.get_tma_aligned_size(shape[-2], 4)
    assert moved.stride(-1) * 4 % 16 == 0
    assert deep_gemm.get_col_major_tma_aligned_tensor(moved) is moved, "already laid out: no copy"


def test_sizes_and_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deep_gemm.get_tma_aligned_size(5, 4) == 8
    assert deep_gemm.get_tma_aligned_size(17, 1) == 32
    assert deep_gemm.ceil_div(129, 128) == deep_gemm.cell_div(129, 128) == 2
    with pytest.raises(InvalidInput, match="element_size is 3"):
        deep_gemm.get_tma_aligned_size(5, 3)
    with pytest.raises(InvalidInput, match="float32"):
        deep_gemm.get_col_major_tma_aligned_tensor(torch.zeros(3, 3, dtype=torch.float16))
    monkeypatch.setattr(layout, "_sms_limit", None)
    deep_gemm.set_num_sms(100)
    assert deep_gemm.get_num_sms() == 100
    for wrong in (0, 3, 134):
        with pytest.raises(InvalidInput, match=f"num_sms is {wrong}"):
            deep_gemm.set_num_sms(wrong)


@given(m=st.integers(1, 9000), n=st.integers(1, 5000), k=st.integers(1, 2000), sms=st.sampled_from([2, 78, 132]))
@settings(max_examples=80)
def test_every_shape_gets_a_valid_tiling_and_a_grid(m: int, n: int, k: int, sms: int) -> None:
    n, k = n * 8, k * 16
    for layout_kind, tiling, groups in (
        (DENSE, choose_dense(m, n, k, sms), 1),
        (CONTIGUOUS, choose_contiguous(m, n, sms, 128, 4), 4),
        (MASKED, choose_masked(4, m, n, k, sms), 4),
    ):
        assert tiling.is_valid(groups if layout_kind == MASKED else 0), tiling
        row_blocks = -(-m // tiling.block_m)
        launch = launch_shape(tiling, layout_kind, row_blocks, n, groups, sms)
        assert launch.grid[0] % launch.cluster == 0
        assert launch.grid[0] >= 1
        if tiling.split_k > 1:
            assert launch.grid[0] == row_blocks * -(-n // tiling.block_n) * tiling.split_k, (
                "a split tile has its own cluster"
            )
        else:
            assert launch.grid[0] <= sms * tiling.blocks_per_sm
    assert choose_contiguous(m, n, sms, 128, 4).block_m in (128, 256), "at most two groups a tile"
    assert choose_contiguous(m, n, sms, 64, 4).block_m == 64


def test_contiguous_groups_get_tall_tiles_where_few_tiles_hold_two_groups() -> None:
    for m, n, groups, rows in ((32768, 4096, 4, 256), (32768, 4096, 256, 128), (4096, 4096, 8, 128)):
        assert choose_contiguous(m, n, 132, 128, groups).block_m == rows, (m, n, groups)


@pytest.mark.parametrize(
    "tiling",
    [
        Tiling(264),
        Tiling(100),
        Tiling(144, waves=2),
        Tiling(128, stages=8),
        Tiling(128, math_groups=2, blocks_per_sm=2),
        Tiling(64, cluster=2, split_k=2),
        Tiling(136, cluster=2, share_a=False),
        Tiling(64, math_groups=1, turns=3),
    ],
)
def test_impossible_tilings_are_known(tiling: Tiling) -> None:
    assert not tiling.is_valid()


def test_wrong_operands_are_named_with_what_they_must_be() -> None:
    lhs, rhs = _operands()
    assert check_fp8_operands(lhs, rhs, lhs_dims=2, rhs_dims=2) == (130, 264, 272)
    wrong = [
        ((lhs[0].float(), lhs[1]), rhs, "lhs is torch.float32; it must be torch.float8_e4m3fn"),
        ((lhs[0].t(), lhs[1]), rhs, r"lhs \(272, 130\) has strides \(1, 272\); call .contiguous"),
        ((lhs[0][None], lhs[1]), rhs, "must have 2 dimensions"),
        ((lhs[0][:, :256].contiguous(), lhs[1][:, :2]), rhs, "lhs has k = 256 and rhs has k = 272"),
        ((lhs[0][:, :264].contiguous(), lhs[1]), rhs, "k = 264; rows must be a multiple of 16"),
        ((lhs[0], lhs[1][:, :2]), rhs, r"lhs scales has shape \(130, 2\); for these operands it must be \(130, 3\)"),
        ((lhs[0], lhs[1].double()), rhs, "lhs scales is torch.float64"),
        (lhs, (rhs[0][:260].contiguous(), rhs[1]), "n is 260; it must be a multiple of 8"),
        (lhs, (rhs[0], rhs[1].t().contiguous().t()), "rhs scales have strides"),
    ]
    for left, right, message in wrong:
        with pytest.raises(InvalidInput, match=message):
            check_fp8_operands(left, right, lhs_dims=2, rhs_dims=2)
    cpu = torch.device("cpu")
    with pytest.raises(InvalidInput, match=r"out is torch\.float16"):
        check_output(torch.zeros(2, 8, dtype=torch.float16), (2, 8), cpu)
    with pytest.raises(InvalidInput, match=r"out has shape \(2, 8\); it must be \(3, 8\)"):
        check_output(torch.zeros(2, 8, dtype=torch.bfloat16), (3, 8), cpu)
    with pytest.raises(InvalidInput, match=r"masked_m is torch\.int64"):
        check_groups("masked_m", torch.zeros(4, dtype=torch.int64), 4, cpu)
    with pytest.raises(InvalidInput, match="recipe"):
        deep_gemm.fp8_gemm_nt(lhs, rhs, torch.zeros(130, 264, dtype=torch.bfloat16), recipe=(1, 1, 128))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_a_correct_call_says_what_is_missing() -> None:
    lhs, rhs = _operands()
    with pytest.raises(DeviceUnavailable, match="no CUDA device is visible"):
        deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, rhs, torch.zeros(130, 264, dtype=torch.bfloat16))
