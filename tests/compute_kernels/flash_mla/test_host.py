"""Plans, checks and references of decode, without a GPU; and that its kernels compile as meant."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from threefs.compute_kernels import flash_mla, jit
from threefs.compute_kernels.errors import DeviceUnavailable, InvalidInput
from threefs.compute_kernels.flash_mla.dense_decode import DecodeShape, combine_source, decode_source, reference_decode
from threefs.compute_kernels.flash_mla.plan import plan_source, reference_plan
from threefs.compute_kernels.jit import sass

pytestmark = pytest.mark.kernels

_LENGTH = st.one_of(st.sampled_from([0, 1, 63, 64, 65]), st.integers(0, 20_000))


@given(lengths=st.lists(_LENGTH, min_size=1, max_size=200), parts=st.integers(1, 132))
@settings(max_examples=150)
def test_a_plan_covers_every_block_once_and_in_order(lengths: list[int], parts: int) -> None:
    rows, splits = reference_plan(lengths, parts)
    assert len(rows) == parts
    pieces: list[list[tuple[int, int, int]]] = [[] for _ in lengths]
    for first, last, begin, end, split in rows:
        for request in range(first, last + 1):
            blocks = -(-lengths[request] // 64)
            start, stop = begin if request == first else 0, end if request == last else blocks
            assert stop > start or blocks == 0
            pieces[request].append((start, stop, split if request == first else 0))
    for request, found in enumerate(pieces):
        assert found[0][0] == 0
        assert found[-1][1] == -(-lengths[request] // 64)
        assert all(a[1] == b[0] for a, b in pairwise(found))
        assert [piece[2] for piece in found] == list(range(splits[request + 1] - splits[request]))
    assert splits[-1] <= len(lengths) + parts, "as many slots as the host allocates"


@given(lengths=st.lists(_LENGTH, min_size=1, max_size=60), parts=st.integers(1, 132))
@settings(max_examples=60)
def test_no_part_holds_much_more_than_its_share(lengths: list[int], parts: int) -> None:
    rows, _ = reference_plan(lengths, parts)
    blocks = [-(-length // 64) for length in lengths]
    share = sum(3 + max(count, 1) for count in blocks) / parts
    for first, last, begin, end, _ in rows:
        held = sum(blocks[first : last + 1]) - (begin + blocks[last] - end if first <= last else 0)
        assert held <= share + 2 + 8


def test_equal_requests_are_not_split_and_small_batches_get_equal_pieces() -> None:
    assert reference_plan([4096] * 128, 66)[1] == list(range(129))
    rows, splits = reference_plan([4096] * 16, 66)
    assert splits == [4 * i for i in range(17)]
    assert {row[3] - row[2] for row in rows[:64]} == {16}


def test_the_reference_is_softmax_attention_over_the_pages() -> None:
    torch.manual_seed(1)
    q = torch.randn(2, 2, 4, 576, dtype=torch.float64)
    cache = torch.randn(6, 16, 2, 576, dtype=torch.float64)
    table = torch.tensor([[5, 2, 99], [0, 99, 99]], dtype=torch.int32)
    out, lse = reference_decode(q, cache, table, torch.tensor([21, 1], dtype=torch.int32), 0.1, True)
    keys = torch.cat([cache[5], cache[2]])[:21].repeat_interleave(2, 1)
    for position in range(2):
        visible = keys[: 20 + position]
        logits = torch.einsum("hd,khd->hk", q[0, position], visible) * 0.1
        wanted = torch.einsum("hk,khd->hd", logits.softmax(-1), visible[..., :512])
        assert torch.allclose(out[0, position], wanted)
        assert torch.allclose(lse[0, :, position], logits.logsumexp(-1))
    assert bool((out[1, 0] == 0).all()), "one key, two positions: the first sees none"
    assert bool(torch.isposinf(lse[1, :, 0]).all())


def test_shapes_fold_heads_and_positions_into_rows() -> None:
    shape = DecodeShape(batch=128, s_q=2, heads=128, kv_heads=1, page=64)
    assert (shape.rows, shape.row_tiles, shape.parts(132)) == (256, 4, 33)
    assert DecodeShape(1, 70, 128, 1, 64).parts(132) == 1


def _call(**changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    arguments: dict[str, object] = {
        "q": torch.zeros(2, 1, 16, 576, dtype=torch.bfloat16),
        "k_cache": torch.zeros(4, 64, 1, 576, dtype=torch.bfloat16),
        "block_table": torch.zeros(2, 2, dtype=torch.int32),
        "cache_seqlens": torch.ones(2, dtype=torch.int32),
        "head_dim_v": 512,
        "tile_scheduler_metadata": flash_mla.get_mla_metadata()[0],
    }
    return flash_mla.flash_mla_with_kvcache(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 1, 16, 576)}, "q is torch.float32"),
        (
            {"k_cache": torch.zeros(4, 64, 1, 576, dtype=torch.float16)},
            "k_cache is torch.float16 and q is torch.bfloat16",
        ),
        ({"q": torch.zeros(2, 1, 16, 512, dtype=torch.bfloat16)}, "head sizes are 512 and 576"),
        ({"k_cache": torch.zeros(4, 48, 1, 576, dtype=torch.bfloat16)}, "page size is 48; it must be a power of two"),
        ({"k_cache": torch.zeros(4, 64, 3, 576, dtype=torch.bfloat16)}, "h_q is 16 and h_kv is 3"),
        ({"head_dim_v": 256}, "head_dim_v is 256"),
        ({"cache_seqlens": torch.ones(2, dtype=torch.int64)}, "cache_seqlens is torch.int64"),
        ({"cache_seqlens": torch.ones(3, dtype=torch.int32)}, "cache_seqlens has 3 entries and q 2 requests"),
        ({"block_table": torch.zeros(3, 2, dtype=torch.int32)}, r"block_table has shape \(3, 2\)"),
        ({"softmax_scale": -1.0}, "softmax_scale is -1.0"),
    ],
)
def test_wrong_calls_are_named_with_what_they_must_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _call(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_correct_calls_say_what_is_missing() -> None:
    with pytest.raises(DeviceUnavailable, match="no CUDA device is visible"):
        _call()
    with pytest.raises(DeviceUnavailable, match="no CUDA device is visible"):
        flash_mla.get_mla_metadata(torch.ones(2, dtype=torch.int32), 16, 1)
    with pytest.raises(InvalidInput, match="both must be 1 or more"):
        flash_mla.get_mla_metadata(torch.ones(2, dtype=torch.int32), 0, 1)


def test_a_lazy_plan_refuses_another_shape() -> None:
    plan, none = flash_mla.get_mla_metadata()
    assert none is None
    shape = DecodeShape(2, 1, 16, 1, 64)
    plan.plan, plan.splits, plan.shape = torch.zeros(1, 8, dtype=torch.int32), torch.zeros(3, dtype=torch.int32), shape
    lengths = torch.ones(2, dtype=torch.int32)
    assert plan.ready(lengths, shape, 132)[0] is plan.plan
    with pytest.raises(InvalidInput, match=r"call get_mla_metadata\(\) again"):
        plan.ready(lengths, DecodeShape(2, 1, 32, 1, 64), 132)


@pytest.mark.parametrize(
    ("box", "dtype", "fused"),
    [
        (64, torch.bfloat16, False),
        (32, torch.bfloat16, False),
        (16, torch.bfloat16, False),
        (64, torch.float16, False),
        (64, torch.bfloat16, True),
    ],
)
def test_decode_compiles_without_spills(box: int, dtype: torch.dtype, fused: bool) -> None:
    compiled = jit.build(decode_source(box, dtype, fused=fused))
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    assert "warning" not in compiled.log.lower()
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    assert found["HGMMA.64x64x16"] == 2 * 36, "Q K of both groups: nine tiles of four steps"
    assert found["HGMMA.64x256x16"] == 2 * 2 * 4, "both blocks' weights times V, by both groups"
    assert found["USETMAXREG"] == 2
    assert found["LDL"] == found["STL"] == found["HMMA"] == 0


def test_the_small_kernels_compile_without_spills() -> None:
    for source in (plan_source(), combine_source(torch.bfloat16, 1), combine_source(torch.float16, 8)):
        compiled = jit.build(source)
        assert compiled.spill_bytes == compiled.stack_bytes == 0
