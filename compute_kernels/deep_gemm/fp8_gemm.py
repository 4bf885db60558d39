"""FP8 matrix product with fine-grained scales: D = (A * scale_a) @ (B * scale_b).T, bf16 out.

Formula. A is e4m3 [m, k] with one float32 scale for each row and 128 values of k; B is e4m3 [n, k] with one for
each 128 x 128 block. D[i, j] = sum over K blocks b of scale_a[i, b] * scale_b[j // 128, b] * (A[i, b] . B[j, b]).
Work: 2 m n k operations. Bytes: m k + n k + 2 m n, plus 4 m k / 128 of scales. At m = 4096 the tensor cores bound
it; at m <= 128 reading B does.

Three layouts share the kernel (`fp8_gemm.cu`) and differ in its scheduler:
* dense;
* contiguous: the rows of all groups behind each other, each group starting at a multiple of 128, a group id a row;
* masked: `[groups, m_max, k]`, of which the first `masked_m[g]` rows of each group count.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.deep_gemm.layout import K_BLOCK, ceil_div, even_rounds
from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, tensor_map
from threefs.compute_kernels.jit.driver import SHARED_MEMORY_BYTES_MAX

__all__ = ["CONTIGUOUS", "DENSE", "MASKED", "Tiling", "launch_gemm", "launch_shape", "reference_gemm"]

DENSE, CONTIGUOUS, MASKED = 0, 1, 2
_FILE = Path(__file__).with_name("fp8_gemm.cu")
_SHARED_BYTES_HALF = 116_000  # two blocks a multiprocessor: 227 KiB less 1 KiB each that the driver keeps


@dataclass(frozen=True)
class Tiling:
    """The compile-time shape of the kernel. A tile is `block_m` x `block_n`, worked on in K steps of 128.

    A warpgroup keeps `waves` accumulators of 64 x block_n, so waves * block_n + block_n float32 registers over two
    have to fit beside the addresses: (2, 136), (1, 192). Two blocks a multiprocessor hide each other's epilogue.
    """

    block_n: int
    math_groups: int = 2
    waves: int = 1
    stages: int = 4
    cluster: int = 1  # blocks that share an operand by multicast
    share_a: bool = True  # which one: the rows of A, or the columns of B
    stage_k: int = 1  # K blocks a stage: 2 reads 256 bytes of each row at a time
    split_k: int = 1  # blocks that share the K axis and add up through distributed shared memory
    blocks_per_sm: int = 1
    turns: int = 0  # steps of four after which a math warpgroup hands the tensor cores over; 0: they compete
    stream_b: bool = False  # B is read once: let it leave the L2 first
    out_boxes: int = 0  # of 16 x 64 output values a warp, on their way by the copy engine; 0: threads store

    @property
    def block_m(self) -> int:
        return 64 * self.math_groups * self.waves

    @property
    def threads(self) -> int:
        return 128 * (self.math_groups + 1)

    def shared_bytes(self, groups: int = 0) -> int:
        stage = self.stage_k * ((self.block_m + self.block_n) * K_BLOCK + self.block_m * 4)
        return (
            self.stages * (stage + 16) + self.math_groups * 4 * (self.out_boxes * 2048 or 16 * 144) + (groups + 1) * 4
        )

    def is_valid(self, groups: int = 0) -> bool:
        """Whether registers, shared memory and the instruction's shapes allow it."""
        limit = SHARED_MEMORY_BYTES_MAX if self.blocks_per_sm == 1 else _SHARED_BYTES_HALF
        accumulators = (self.waves + 1) * self.block_n // 2
        registers = 208 if self.math_groups == 2 or self.blocks_per_sm == 1 else 192
        return (
            self.block_n % 8 == 0
            and 8 <= self.block_n <= 256
            and accumulators <= registers
            and self.shared_bytes(groups) <= limit
            and (self.blocks_per_sm == 1 or self.math_groups == 1)
            and (self.turns == 0 or self.math_groups == 2)
            and (self.cluster == 1 or self.split_k == 1)
            and (self.out_boxes == 0 or (self.block_n % 64 == 0 and self.split_k == 1))
            and (self.share_a or self.cluster == 1 or self.block_n % 16 == 0)
            and (
                self.split_k == 1
                or self.stages * self.stage_k * (self.block_m + self.block_n) * K_BLOCK
                >= self.block_m * (self.block_n + 4) * 4
            )
        )

    def source(self, layout: int) -> KernelSource:
        return _source(self, layout)


@lru_cache(maxsize=1024)
def _source(tiling: Tiling, layout: int) -> KernelSource:
    constants = {
        "BLOCK_N": tiling.block_n,
        "MATH_GROUPS": tiling.math_groups,
        "WAVES": tiling.waves,
        "STAGES": tiling.stages,
        "STAGE_K": tiling.stage_k,
        "CLUSTER": tiling.cluster,
        "SHARE_A": int(tiling.share_a),
        "SPLIT_K": tiling.split_k,
        "BLOCKS_PER_SM": tiling.blocks_per_sm,
        "TURNS": tiling.turns,
        "STREAM_B": int(tiling.stream_b),
        "OUT_BOXES": tiling.out_boxes,
        "LAYOUT": layout,
    }
    return KernelSource(_FILE, "fp8_gemm", tuple(constants.items()), (Wgmma("e4m3", tiling.block_n),))


@lru_cache(maxsize=4096)
def launch_shape(tiling: Tiling, layout: int, row_blocks: int, n: int, groups: int, num_sms: int) -> Launch:
    """A persistent grid: as many clusters as fit on `num_sms`, or as there are tiles. Split tiles get one each.

    Groups' tiles differ in work that only the device knows, and tiles of which two share a multiprocessor wait for
    memory: these take all there is.
    """
    row_units, column_units = row_blocks, ceil_div(n, tiling.block_n)
    if tiling.share_a:
        column_units = ceil_div(column_units, tiling.cluster)
    else:
        row_units = ceil_div(row_units, tiling.cluster)
    width = tiling.cluster * tiling.split_k
    clusters = row_units * column_units
    if tiling.split_k == 1:
        clusters_max = max(num_sms * tiling.blocks_per_sm // width, 1)
        even = layout == DENSE and tiling.blocks_per_sm == 1
        clusters = even_rounds(clusters, clusters_max) if even else min(clusters, clusters_max)
    shared = tiling.shared_bytes(groups if layout == MASKED else 0)
    return Launch((clusters * width, 1, 1), tiling.threads, shared, width)


def launch_gemm(
    tiling: Tiling,
    layout: int,
    a: torch.Tensor,
    scale_a: torch.Tensor,
    b: torch.Tensor,
    scale_b: torch.Tensor,
    out: torch.Tensor,
    groups: torch.Tensor | None,
    num_sms: int,
) -> None:
    """Queue the kernel. Arguments are checked already; `scale_a` has the layout of `layout.py`."""
    k, n = a.shape[-1], b.shape[-2]
    k_blocks, rows = ceil_div(k, K_BLOCK), a.shape[-2]
    group_count = b.shape[0] if b.dim() == 3 else 1
    all_rows = rows * (group_count if layout == MASKED else 1)
    row_blocks = ceil_div(rows, tiling.block_m) * (group_count if layout == MASKED else 1)
    share_a, share_b = (tiling.cluster, 1) if tiling.share_a else (1, tiling.cluster)
    map_a = tensor_map(a, (k, all_rows), (k,), (K_BLOCK, tiling.block_m // share_a))
    map_b = tensor_map(b, (k, n * group_count), (k,), (K_BLOCK, tiling.block_n // share_b))
    scale_rows = k_blocks * (group_count if layout == MASKED else 1)
    map_scale = tensor_map(scale_a, (rows, scale_rows), (scale_a.stride(-1),), (tiling.block_m, 1), swizzle_bytes=0)
    launch = launch_shape(tiling, layout, row_blocks, n, group_count, num_sms)
    arguments = (
        map_a,
        map_b,
        map_scale,
        tensor_map(out, (n, all_rows), (n,), (64, 16)),
        ctypes.c_uint64(scale_b.data_ptr()),
        ctypes.c_uint64(out.data_ptr()),
        ctypes.c_uint64(0 if groups is None else groups.data_ptr()),
        ctypes.c_int(rows),
        ctypes.c_int(n),
        ctypes.c_int(k_blocks),
        ctypes.c_int(group_count),
        ctypes.c_int(max(2048 // tiling.block_m // (1 if tiling.share_a else tiling.cluster), 1)),
    )
    loaded(tiling.source(layout)).launch(launch, arguments, a.device)


def reference_gemm(
    a: torch.Tensor, scale_a: torch.Tensor, b: torch.Tensor, scale_b: torch.Tensor, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """The product of the dequantised inputs, [m, n] in `dtype`."""
    k = a.shape[-1]
    wide_a = a.to(dtype) * scale_a.to(dtype).repeat_interleave(K_BLOCK, 1)[:, :k]
    wide_b = (
        b.to(dtype) * scale_b.to(dtype).repeat_interleave(128, 0)[: b.shape[0]].repeat_interleave(K_BLOCK, 1)[:, :k]
    )
    return wide_a @ wide_b.T
