"""FP8 rows, sparse attention and the batch-invariant plan without a GPU."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threefs.compute_kernels import flash_mla, jit
from threefs.compute_kernels.errors import DeviceUnavailable, InvalidInput
from threefs.compute_kernels.flash_mla.dense_decode import reference_decode
from threefs.compute_kernels.flash_mla.gather_decode import gather_source, reference_sparse
from threefs.compute_kernels.flash_mla.plan import fixed_plan_source, reference_fixed_plan
from threefs.compute_kernels.jit import sass

pytestmark = pytest.mark.kernels


def test_rows_keep_values_within_e4m3s_precision() -> None:
    torch.manual_seed(1)
    rows = torch.randn(5, 576) * torch.tensor([1e-3, 1.0, 100.0, 0.0, 5.0])[:, None]
    packed = flash_mla.quantise_rows(rows)
    assert packed.shape == (5, 656)
    back = flash_mla.dequantise_rows(packed)
    assert torch.equal(back[:, 512:], rows[:, 512:].to(torch.bfloat16).half().double())
    groups = rows[:, :512].double().reshape(5, 4, 128)
    error = (back[:, :512].reshape(5, 4, 128) - groups).abs()
    step = 2.0**-25  # half of fp16's smallest step: what a small scale may be off, times values of at most 448
    assert bool((error <= groups.abs() / 15 + groups.abs().amax(-1, keepdim=True) * 2**-17 + 449 * step).all())


def test_sparse_over_all_keys_is_dense() -> None:
    torch.manual_seed(1)
    q, kv = torch.randn(1, 2, 4, 576, dtype=torch.float64), torch.randn(4, 16, 1, 576, dtype=torch.float64)
    table = torch.arange(4, dtype=torch.int32)[None]
    out, lse = reference_decode(q, kv, table, torch.tensor([50], dtype=torch.int32), 0.1, False)
    order = torch.cat([torch.randperm(50), torch.tensor([-1, 64])]).int()[None].repeat(2, 1)
    sparse, top, sparse_lse = reference_sparse(q[0], kv.flatten(0, 2), order, torch.tensor([52, 52]), 0.1)
    assert torch.allclose(sparse, out[0])
    assert torch.allclose(sparse_lse, lse[0].T)
    assert bool((top <= sparse_lse).all())
    sink = torch.full((4,), 3.0)
    damped, _, _ = reference_sparse(q[0], kv.flatten(0, 2), order, torch.tensor([52, 52]), 0.1, sink)
    assert torch.allclose(damped, sparse * (sparse_lse.exp() / (sparse_lse.exp() + sink.exp()))[..., None])


@given(lengths=st.lists(st.integers(0, 30_000), min_size=1, max_size=40), parts=st.integers(1, 132))
@settings(max_examples=60)
def test_fixed_pieces_cover_every_block_once(lengths: list[int], parts: int) -> None:
    rows, splits = reference_fixed_plan(lengths, parts)
    seen: dict[int, list[tuple[int, int]]] = {}
    for first, last, begin, end, _ in rows:
        for request in range(first, last + 1):
            blocks = -(-lengths[request] // 64)
            start, stop = begin if request == first else 0, end if request == last else blocks
            assert start % 32 == 0
            assert stop % 32 == 0 or stop == blocks
            seen.setdefault(request, []).append((start, stop))
    for request, length in enumerate(lengths):
        blocks = -(-length // 64)
        assert seen[request][0][0] == 0
        assert seen[request][-1][1] == blocks
        assert all(a[1] == b[0] for a, b in pairwise(seen[request]))
        assert splits[request + 1] - splits[request] == max(-(-blocks // 32), 1)


def _fp8_call(**changes: object) -> object:
    arguments: dict[str, object] = {
        "q": torch.zeros(2, 1, 16, 576, dtype=torch.bfloat16),
        "k_cache": torch.zeros(4, 64, 1, 656, dtype=torch.uint8),
        "block_table": torch.zeros(2, 2, dtype=torch.int32),
        "cache_seqlens": torch.ones(2, dtype=torch.int32),
        "head_dim_v": 512,
        "tile_scheduler_metadata": flash_mla.get_mla_metadata()[0],
        "is_fp8_kvcache": True,
    }
    return flash_mla.flash_mla_with_kvcache(**(arguments | changes))  # type: ignore[arg-type]


_INDICES = torch.zeros(2, 1, 64, dtype=torch.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 1, 16, 576, dtype=torch.float16)}, "with an FP8 cache it must be torch.bfloat16"),
        ({"k_cache": torch.zeros(4, 64, 1, 576, dtype=torch.uint8)}, r"must be contiguous \(blocks, page, 1, 644\)"),
        ({"k_cache": torch.zeros(4, 64, 1, 656)}, "an FP8 cache is bytes"),
        ({"block_table": None}, "block_table and cache_seqlens are needed"),
        ({"indices": _INDICES, "causal": True}, "pass causal=False"),
        ({"indices": _INDICES.long()}, "indices is torch.int64"),
        ({"indices": _INDICES, "attn_sink": torch.zeros(8)}, r"attn_sink has shape \(8,\); it must be \(16,\)"),
        ({"tile_scheduler_metadata": flash_mla.get_mla_metadata(batch_invariant=True)[0]}, "bf16 and fp16 caches"),
        ({"tile_scheduler_metadata": torch.zeros(1, 8, dtype=torch.int32)}, "needs the lazy plan"),
        ({"is_fp8_kvcache": False, "indices": _INDICES}, "indices is given; it needs is_fp8_kvcache=True"),
    ],
)
def test_wrong_calls_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _fp8_call(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_correct_calls_say_what_is_missing() -> None:
    q, kv = torch.zeros(3, 16, 576, dtype=torch.bfloat16), torch.zeros(9, 1, 576, dtype=torch.bfloat16)
    for call in (
        _fp8_call,
        lambda: _fp8_call(indices=_INDICES, block_table=None, cache_seqlens=None),
        lambda: flash_mla.flash_mla_sparse_fwd(q, kv, torch.zeros(3, 1, 64, dtype=torch.int32), 0.1),
    ):
        with pytest.raises(DeviceUnavailable, match="no CUDA device is visible"):
            call()


@pytest.mark.parametrize("kind", [1, 2], ids=["sparse decode", "prefill"])
def test_gathering_kernels_compile(kind: int) -> None:
    compiled = jit.build(gather_source(kind))
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    assert "warning" not in compiled.log.lower()
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    assert found["HGMMA.64x64x16"] == 2 * 36
    assert found["HGMMA.64x256x16"] == 2 * 2 * 4
    assert found["USETMAXREG"] == 2
    assert found["HMMA"] == 0
    assert found["LDGSTS" if kind == 2 else "F2FP"] > 0


def test_the_fixed_plan_compiles_without_spills() -> None:
    compiled = jit.build(fixed_plan_source())
    assert compiled.spill_bytes == compiled.stack_bytes == 0
