"""bf16 products, weight gradients and indexer logits without a GPU: references, refusals, and what is compiled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threefs.compute_kernels import deep_gemm, jit
from threefs.compute_kernels.deep_gemm import layout
from threefs.compute_kernels.deep_gemm.bf16_gemm import choose_bf16, reference_bf16_gemm
from threefs.compute_kernels.deep_gemm.fp8_wgrad import reference_wgrad, splits_tail, wgrad_source
from threefs.compute_kernels.deep_gemm.mqa_logits import mqa_source, reference_mqa_logits
from threefs.compute_kernels.deep_gemm.tilings import choose_contiguous
from threefs.compute_kernels.errors import DeviceUnavailable, InvalidInput
from threefs.compute_kernels.jit import sass
from threefs.compute_kernels.jit.driver import SHARED_MEMORY_BYTES_MAX

pytestmark = pytest.mark.kernels


def _bf16(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.bfloat16)


def _fp8(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape).to(torch.float8_e4m3fn)


@given(
    m=st.integers(1, 9000),
    n=st.integers(1, 4000),
    layout=st.sampled_from([0, 1, 2]),
    groups=st.integers(1, 300),
    b_mn=st.booleans(),
)
@settings(max_examples=60)
def test_every_bf16_shape_gets_a_tile_that_fits(m: int, n: int, layout: int, groups: int, b_mn: bool) -> None:
    tiling = choose_bf16(m, n * 8, layout, 132, groups, b_mn=b_mn)
    assert not (b_mn and tiling.block_n % 64), "whole boxes"
    assert tiling.shared_bytes(groups) <= SHARED_MEMORY_BYTES_MAX
    assert tiling.stages >= 3
    assert tiling.block_m in (64, 128), "a tile stays inside a group"


def test_groups_may_begin_at_multiples_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_contiguous_alignment", 128)
    deep_gemm.set_mk_alignment_for_contiguous_layout(64)
    assert deep_gemm.get_m_alignment_for_contiguous_layout() == 64
    for m, n in ((64, 2112), (32768, 7168)):
        assert choose_bf16(m, n, 1, 132, 8).block_m == 64
        tiling = choose_contiguous(m, n, 132, 64)
        assert tiling.block_m == 64
        assert tiling.is_valid(0)
    with pytest.raises(InvalidInput, match="the alignment is 32; it may be 64 or 128"):
        deep_gemm.set_mk_alignment_for_contiguous_layout(32)


def test_references_agree_with_loops() -> None:
    torch.manual_seed(1)
    a, b = torch.randn(3, 40).to(torch.bfloat16), torch.randn(5, 40).to(torch.bfloat16)
    product = reference_bf16_gemm(a, b)
    assert float(product[2, 4]) == pytest.approx(sum(float(x) * float(y) for x, y in zip(a[2], b[4], strict=True)))
    (qa, sa), (qb, sb) = (deep_gemm.per_token_cast_to_fp8(torch.randn(rows, 272)) for rows in (3, 5))
    wanted = sum(
        float(qa[1, k].double() * sa[1, k // 128].double() * qb[2, k].double() * sb[2, k // 128].double())
        for k in range(272)
    )
    assert float(reference_wgrad(qa, sa, qb, sb)[1, 2]) == pytest.approx(wanted)
    q, keys = torch.randn(2, 16, 32).to(torch.float8_e4m3fn), torch.randn(7, 32).to(torch.float8_e4m3fn)
    scales, weights = torch.rand(7), torch.randn(2, 16)
    logits = reference_mqa_logits(q, keys, scales, weights, torch.tensor([0, 2]), torch.tensor([7, 5]))
    value = sum(
        float(weights[1, h]) * max(float(q[1, h].double() @ keys[3].double()), 0.0) * float(scales[3])
        for h in range(16)
    )
    assert float(logits[1, 3]) == pytest.approx(value)
    assert torch.isneginf(logits[1]).tolist() == [True, True, False, False, False, True, True]


def test_wrong_operands_are_named() -> None:
    out = _bf16(16, 24)
    wrong = [
        (lambda: deep_gemm.bf16_gemm_nt(_bf16(16, 32).half(), _bf16(24, 32), out), "a is torch.float16"),
        (lambda: deep_gemm.bf16_gemm_nt(_bf16(16, 32), _bf16(24, 40), out), "a has k = 32 and b has k = 40"),
        (lambda: deep_gemm.bf16_gemm_nt(_bf16(16, 36), _bf16(24, 36), out), "multiple of 8 values"),
        (lambda: deep_gemm.bf16_gemm_nn(_bf16(16, 32), _bf16(24, 32), out), "a has k = 32 and b has k = 24"),
        (lambda: deep_gemm.bf16_gemm_nt(_bf16(16, 32), _bf16(24, 32), out, out), "a bf16 output cannot accumulate"),
        (
            lambda: deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt(
                (_fp8(16, 128), torch.ones(16, 1)), (_fp8(24, 128), torch.ones(1, 1)), torch.zeros(16, 24)
            ),
            r"rhs scales has shape \(1, 1\); for these operands it must be \(24, 1\)",
        ),
        (
            lambda: deep_gemm.k_grouped_wgrad_gemm_fp8_fp8_fp32_nt(
                (_fp8(16 * 100), torch.ones(1, 16)), (_fp8(24 * 100), torch.ones(1, 24)), torch.zeros(1, 16, 24), [100]
            ),
            r"the k's are \[100\]; each must be a multiple of 16",
        ),
        (
            lambda: deep_gemm.k_grouped_fp8_gemm_nt_contiguous(
                (_fp8(16), torch.ones(1, 1)), (_fp8(16), torch.ones(1, 1)), torch.zeros(1, 1, 1), [16], recipe=(1, 1, 1)
            ),
            "recipe",
        ),
        (
            lambda: deep_gemm.fp8_mqa_logits(
                _fp8(4, 48, 128), (_fp8(8, 128), torch.ones(8)), torch.ones(4, 48), torch.zeros(4), torch.zeros(4)
            ),
            "q has 48 heads of 128",
        ),
        (
            lambda: deep_gemm.k_grouped_bf16_gemm_tn_contiguous(
                _bf16(96, 16), _bf16(96, 24), torch.zeros(2, 16, 24), [64, 32], torch.zeros(2, dtype=torch.int32)
            ),
            r"the k's are \[64, 32\]; each must be a multiple of 64",
        ),
        (
            lambda: deep_gemm.k_grouped_bf16_gemm_tn_contiguous(
                _bf16(128, 16), _bf16(64, 24), torch.zeros(2, 16, 24), [64, 64], torch.zeros(2, dtype=torch.int32)
            ),
            r"b has shape \(64, 24\); the k's \[64, 64\] are 128 rows",
        ),
        (lambda: deep_gemm.get_paged_mqa_logits_metadata(torch.ones(2, dtype=torch.int32), 32, 4), "block_kv is 32"),
    ]
    for call, message in wrong:
        with pytest.raises(InvalidInput, match=message):
            call()


@pytest.mark.parametrize(
    ("m", "n", "k", "splits"),
    [(7168, 2048, 8192, True), (4096, 4096, 8192, False), (4096, 7168, 4096, False), (300, 136, 4112, True)],
)
def test_tiles_of_a_last_round_are_split_where_two_blocks_have_one(m: int, n: int, k: int, splits: bool) -> None:
    tiles = -(-m // 256) * -(-n // 128)
    assert splits_tail(tiles, -(-k // 128), 132) == splits
    assert not splits_tail(tiles, 15, 132), "too short"
    assert not splits_tail(132, 64, 132), "nothing is left over"


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_correct_calls_say_what_is_missing() -> None:
    calls = [
        lambda: deep_gemm.bf16_gemm_nt(_bf16(16, 32), _bf16(24, 32), _bf16(16, 24)),
        lambda: deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt(
            (_fp8(16, 128), torch.ones(16, 1)), (_fp8(24, 128), torch.ones(24, 1)), torch.zeros(16, 24)
        ),
    ]
    for call in calls:
        with pytest.raises(DeviceUnavailable, match="no CUDA device is visible"):
            call()


@pytest.mark.parametrize(
    ("source", "instruction", "count"),
    [
        (choose_bf16(4096, 7168, 0, 132).source(0), "HGMMA.64x256x16", 8),
        (choose_bf16(4096, 7168, 0, 132).source(0, a_mn=True, b_mn=True, out_float=True), "HGMMA.64x256x16", 8),
        (choose_bf16(64, 2112, 2, 132, 4).source(2), "HGMMA", 4),
        (choose_bf16(4096, 2112, 0, 132).source(0), "HGMMA.64x176x16", 8),
        (wgrad_source(4), "QGMMA.64x128x32", 16),
        (wgrad_source(1, True), "QGMMA.64x128x32", 16),
        (mqa_source(64, 4, 128, False), "QGMMA.64x128x32", 32),
        (mqa_source(64, 2, 128, True), "QGMMA.64x128x32", 32),
        (choose_bf16(4096, 7168, 3, 132, 4).source(3, a_mn=True, b_mn=True, out_float=True), "HGMMA.64x256x16", 8),
    ],
    ids=[
        "bf16 nt",
        "bf16 tn float",
        "bf16 masked",
        "bf16 narrow",
        "wgrad",
        "wgrad split",
        "logits",
        "paged logits",
        "bf16 k-grouped",
    ],
)
def test_kernels_compile_without_spills(source: jit.KernelSource, instruction: str, count: int) -> None:
    compiled = jit.build(source)
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    assert "warning" not in compiled.log.lower()
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    assert found[instruction] == count
    assert found["HMMA"] == found["LDL"] == found["STL"] == 0
    assert found["UTMALDG"] >= 2
    if source.entry == "fp8_wgrad":
        assert found["UTMAREDG"] > 0, "the copy engine adds"
