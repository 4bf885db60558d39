"""The dense FP8 cache's format, and its kernel as machine code, without a GPU."""

from __future__ import annotations

import pytest
import torch

from threefs.compute_kernels import flash_mla, jit
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla.fp8_decode import fp8_decode_source, shared_bytes
from threefs.compute_kernels.jit import sass
from threefs.compute_kernels.jit.driver import SHARED_MEMORY_BYTES_MAX

pytestmark = pytest.mark.kernels


def test_pages_keep_values_within_e4m3s_precision_and_rotary_values_exactly() -> None:
    torch.manual_seed(1)
    size = torch.tensor([1e-3, 1.0, 100.0, 0.0, 5.0, 1e4, 1e-6, 3.0]).repeat(4)[:, None, None]
    rows = (torch.randn(2, 16, 1, 576) * size.view(2, 16, 1, 1)).to(torch.bfloat16)
    packed = flash_mla.quantise_pages(rows)
    assert packed.shape == (2, 16, 1, 644)
    back, wanted = flash_mla.dequantise_pages(packed), rows.double()
    assert torch.equal(back[..., 512:], wanted[..., 512:])
    values, wanted = back[..., :512], wanted[..., :512]
    top = wanted.abs().amax(-1, keepdim=True)
    assert bool(((values - wanted).abs() <= wanted.abs() / 16 + top * 2**-17).all())


def _call(**changes: object) -> object:
    arguments: dict[str, object] = {
        "q": torch.zeros(2, 1, 16, 576, dtype=torch.bfloat16),
        "k_cache": torch.zeros(4, 64, 1, 644, dtype=torch.uint8),
        "block_table": torch.zeros(2, 2, dtype=torch.int32),
        "cache_seqlens": torch.ones(2, dtype=torch.int32),
        "head_dim_v": 512,
        "tile_scheduler_metadata": flash_mla.get_mla_metadata()[0],
        "is_fp8_kvcache": True,
    }
    return flash_mla.flash_mla_with_kvcache(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k_cache": torch.zeros(4, 48, 1, 644, dtype=torch.uint8)}, "the page size is 48"),
        ({"k_cache": torch.zeros(4, 64, 2, 644, dtype=torch.uint8)}, r"must be contiguous \(blocks, page, 1, 644\)"),
        ({"indices": torch.zeros(2, 1, 64, dtype=torch.int32)}, "indices go with 656 bytes a key"),
        ({"block_table": None}, "block_table and cache_seqlens are needed"),
    ],
)
def test_wrong_calls_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        _call(**changes)


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_the_kernel_multiplies_in_e4m3_without_spills(tile: int) -> None:
    compiled = jit.build(fp8_decode_source(tile, 64))
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    assert "warning" not in compiled.log.lower()
    assert "serialized" not in compiled.log, (
        "ptxas waits after each product if registers do not let them follow each other"
    )
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    scores = -(-tile // 32)  # products for all heads of a tile
    assert found["QGMMA"] == 16 * scores + 4 * 4 * scores
    assert found["HGMMA"] == 4 * scores  # the rotary values
    assert found["USETMAXREG"] == 2
    assert shared_bytes(tile) <= SHARED_MEMORY_BYTES_MAX
