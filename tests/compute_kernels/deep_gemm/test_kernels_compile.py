"""The tilings in use compile for sm_90a as meant: no spills, tensor cores, register hand-over."""

from __future__ import annotations

import pytest

from threefs.compute_kernels import jit
from threefs.compute_kernels.deep_gemm.fp8_gemm import CONTIGUOUS, DENSE, MASKED, Tiling
from threefs.compute_kernels.deep_gemm.tilings import choose_contiguous, choose_dense, choose_masked
from threefs.compute_kernels.jit import sass

pytestmark = pytest.mark.kernels

_SHAPES = [(2112, 7168), (576, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048)]


def _in_use() -> list[tuple[int, Tiling]]:
    """The tilings of the shapes that the benchmarks name."""
    found: set[tuple[int, Tiling]] = set()
    for n, k in _SHAPES:
        found |= {(DENSE, choose_dense(m, n, k, 132)) for m in (1, 64, 128, 4096)}
        found |= {(CONTIGUOUS, choose_contiguous(32768, n, 132, *how)) for how in ((128, 8), (128, 256), (64, 8))}
        found |= {(MASKED, choose_masked(groups, m, n, k, 132)) for groups, m in ((6, 1024), (32, 20))}
    return sorted(found, key=str)


@pytest.mark.parametrize(("layout", "tiling"), _in_use(), ids=str)
def test_a_tiling_in_use_compiles_without_spills(layout: int, tiling: Tiling) -> None:
    compiled = jit.build(tiling.source(layout))
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    assert "warning" not in compiled.log.lower()
    listing = sass.disassemble(compiled.cubin)
    found = sass.opcodes(listing)
    products = 4 * tiling.waves * tiling.stage_k * tiling.math_groups
    assert found["QGMMA"] == found[f"QGMMA.64x{tiling.block_n}x32"] == products
    assert found["HMMA"] == found["LDL"] == found["STL"] == 0
    assert found["FFMA"] >= tiling.math_groups * tiling.waves * tiling.stage_k * tiling.block_n // 2
    assert found["UTMALDG"] >= 3, "A, B and scales come through the copy engine"
    assert (found["USETMAXREG"] > 0) == (tiling.math_groups == 2 or tiling.blocks_per_sm == 2)
    if tiling.turns:
        assert _moves_between_products(listing) <= 1, "descriptors are computed in uniform registers"


def _moves_between_products(listing: str) -> int:
    """Registers that go to uniform ones between the four products of any K block."""
    moves, products, most = 0, 0, 0
    for name in sass.sequence(listing):
        moves += name == "R2UR"
        if name == "QGMMA":
            most = max(most, moves if products % 4 else 0)
            moves, products = 0, products + 1
    return most
