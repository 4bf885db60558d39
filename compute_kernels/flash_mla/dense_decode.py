"""Dense MLA decode over a paged cache, bf16 or fp16, head size 576 with values of 512.

Formula. For each request and query row: O = softmax(scale * q . K^T) . V with V = K[:, :512]; lse is the natural
log of the sum of the exponentials. With `causal`, the last query position sees all keys, the one before all but one.
Work: 2 b h_q s_q s_k (576 + 512) operations. Bytes: b s_k h_kv 1,152 of cache, once. With h_q s_q = 128 that is 242
operations a byte, about an H100's ridge; below it memory bounds the kernel, above it the tensor cores.

Rows. Heads of one kv head and query positions are folded: row = position * ratio + head. A tile is 64 rows. Keys are
cut into parts of equal cost (`plan.cu`); the pieces of a request that several parts hold are put together by
`combine.cu`.

Limits: head size 576/512; page a power of two from 16; at most 132 parts; shared memory 226 KiB of 227.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from threefs.compute_kernels.flash_mla.plan import KEYS, PIECE_BLOCKS, ceil_div
from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, replay, tensor_map
from threefs.compute_kernels.jit.driver import TensorMap

__all__ = [
    "DecodeShape",
    "combine_source",
    "decode",
    "decode_source",
    "fold_query",
    "launch_combine",
    "reference_decode",
]

HEAD, VALUES, ROWS = 576, 512, 64
COMBINE_BLOCKS = {1: 132 * 16, 8: 132 * 2}  # by warps of a row: about what a Hopper GPU holds
SHARED_BYTES = 231_424
LOG2_E = 1.4426950408889634
_FOLDER = Path(__file__).parent
_TYPES = {torch.bfloat16: ("bf16", 0), torch.float16: ("f16", 1)}


def attention_constants(
    dtype: torch.dtype, *, gather: int = 0, qk_tiles: int = 9, piece: int = 0, whole: int = 0
) -> tuple[tuple[tuple[str, int], ...], tuple[Wgmma, ...]]:
    """The constants of tile.cuh and the matrix shapes that it uses."""
    operand, half = _TYPES[dtype]
    shapes = (
        Wgmma(operand, 64),  # type: ignore[arg-type]
        Wgmma(operand, 256, a_registers=True, b_transposed=True),  # type: ignore[arg-type]
        Wgmma(operand, 256, b_transposed=True),  # type: ignore[arg-type]
    )
    names = {"HALF": half, "GATHER": gather, "QK_TILES": qk_tiles, "PIECE": piece, "WHOLE": whole}
    return tuple(names.items()), shapes


@lru_cache(maxsize=64)
def decode_source(box: int, dtype: torch.dtype, piece: int = 0, fused: bool = False) -> KernelSource:
    constants, shapes = attention_constants(dtype, piece=piece)
    constants = (*constants, ("BOX", box), ("FUSED", int(fused)), *((("SCALED", 1),) if fused else ()))
    return KernelSource(_FOLDER / "dense_decode.cu", "mla_dense_decode", constants, shapes)


@lru_cache(maxsize=8)
def combine_source(dtype: torch.dtype, teams: int, every: bool = False, scaled: bool = True) -> KernelSource:
    """`every`: any request may be in pieces, as in the batch-invariant mode. `scaled`: partial outputs are fp16."""
    constants = (("HALF", _TYPES[dtype][1]), ("TEAMS", teams), ("ALL", int(every)), ("SCALED", int(scaled)))
    return KernelSource(_FOLDER / "combine.cu", "mla_combine", constants)


class DecodeShape(NamedTuple):
    """Everything about a call that its launches depend on."""

    batch: int
    s_q: int
    heads: int
    kv_heads: int
    page: int

    @property
    def rows(self) -> int:
        return self.s_q * self.heads // self.kv_heads

    @property
    def row_tiles(self) -> int:
        return -(-self.rows // ROWS)

    def parts(self, num_sms: int) -> int:
        return max(num_sms // self.kv_heads // self.row_tiles, 1)


class Arguments(ctypes.Structure):
    """`Arguments` of walk.cuh."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("plan", "splits", "lengths", "pages", "sink", "out", "lse", "partial", "partial_lse"),
                *("top", "cache", "indices"),
            )
        ),
        ("scale", ctypes.c_float),
        *(
            (name, ctypes.c_uint32)
            for name in (
                *("batch", "pages_max", "page", "rows", "s_q", "heads", "kv_heads", "causal"),
                *("cache_rows", "indices_stride"),
            )
        ),
    )


class Fused(ctypes.Structure):
    """`Fused` of fused.cuh."""

    _fields_ = (("flags", ctypes.c_uint64), ("number", ctypes.c_uint64))


def fold_query(q: torch.Tensor, shape: DecodeShape) -> torch.Tensor:
    """q as [batch, kv_heads, rows, head]; a copy only if several query positions meet several kv heads."""
    ratio = shape.heads // shape.kv_heads
    folded = q.view(shape.batch, shape.s_q, shape.kv_heads, ratio, q.shape[-1]).transpose(1, 2)
    return folded.reshape(shape.batch, shape.kv_heads, shape.rows, q.shape[-1])


class Results(NamedTuple):
    """What a call writes: outputs, and what it needs for partial outputs of requests that are split."""

    out: torch.Tensor
    lse: torch.Tensor
    partial: torch.Tensor  # float32: flags, for [slots, kv_heads, rows] four values (see walk.cuh), then the outputs

    def partial_at(self, scaled: bool, flags: int = 0) -> tuple[int, int]:
        """Addresses of partial outputs, fp16 if `scaled`, and of what lies before them. `flags`: see `flag_count`."""
        rows = (self.partial.shape[0] - 2 * flags) // (4 + (VALUES // 2 if scaled else VALUES))
        begin = self.partial.data_ptr() + 8 * flags
        return begin + 16 * rows, begin

    @classmethod
    def maker(
        cls,
        shape: DecodeShape,
        slots: int,
        dtype: torch.dtype,
        device: torch.device,
        scaled: bool = True,
        flags: int = 0,
    ) -> Callable[[], Results]:
        """Allocates the results of a call with `slots` partial outputs at most, and `flags` of 64 bits."""
        batch, s_q, heads = shape.batch, shape.s_q, shape.heads
        partial_values = slots * shape.kv_heads * shape.rows * (4 + (VALUES // 2 if scaled else VALUES)) + 2 * flags
        new_out, new_float = replay.maker(dtype, device), replay.maker(torch.float32, device)
        return lambda: cls(new_out(batch, s_q, heads, VALUES), new_float(batch, heads, s_q), new_float(partial_values))


def query_map(q: torch.Tensor, shape: DecodeShape) -> tuple[torch.Tensor, TensorMap]:
    """The folded query (keep it until the launch) and its map in tiles of 64 columns by 64 rows."""
    folded = fold_query(q, shape)
    stride_b, stride_h, stride_r, _ = folded.stride()
    extents = (q.shape[-1], shape.rows, shape.kv_heads, shape.batch)
    return folded, tensor_map(folded, extents, (stride_r, stride_h, stride_b), (64, ROWS, 1, 1))


def launch_combine(
    shape: DecodeShape,
    plan: torch.Tensor,
    splits: torch.Tensor,
    results: Results,
    sink: int,
    *,
    every: bool,
    scaled: bool = True,
) -> None:
    """Queue the combination of split requests."""
    parts = plan.shape[0]
    numbers = (parts, shape.rows, shape.s_q, shape.heads, shape.kv_heads, shape.batch)
    # By the mean number of splits: the true one is on the device.
    teams = 8 if every or parts >= 16 * shape.batch else 1
    rows = shape.rows * shape.kv_heads * (shape.batch if every else parts)
    launch = Launch((min(rows, COMBINE_BLOCKS[teams]), 1, 1), 32 * teams, 0)
    pointers = (
        *(plan.data_ptr(), splits.data_ptr(), *results.partial_at(scaled)),
        *(results.out.data_ptr(), results.lse.data_ptr(), sink),
    )
    arguments = (*map(ctypes.c_uint64, pointers), *map(ctypes.c_int, numbers))
    loaded(combine_source(results.out.dtype, teams, every, scaled)).launch(launch, arguments, plan.device)


def slots_of(shape: DecodeShape, parts: int, keys_max: int, fixed: bool) -> int:
    """Partial outputs that a call may need; in the batch-invariant mode as many as the page table has room for."""
    return shape.batch * max(ceil_div(keys_max, PIECE_BLOCKS * KEYS), 1) if fixed else shape.batch + parts


def flag_count(shape: DecodeShape, parts: int) -> int:
    """Flags of a fused call: for each tile, of each part twice for each part."""
    return shape.row_tiles * shape.kv_heads * 2 * parts * parts


def decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    pages: torch.Tensor,
    lengths: torch.Tensor,
    plan: torch.Tensor,
    splits: torch.Tensor,
    scale: float,
    causal: bool,
    fixed: bool = False,
    fused: bool = False,
) -> replay.Work:
    """Attention and combination. Arguments are checked; `fixed` if the plan is the batch-invariant one.

    `fused`: the attention kernel combines too (fused.cuh); with one part there is nothing to combine.
    """
    batch, s_q, heads, _ = q.shape
    shape = DecodeShape(batch, s_q, heads, cache.shape[2], cache.shape[1])
    parts = plan.shape[0]
    slots = slots_of(shape, parts, pages.shape[1] * shape.page, fixed)
    box = min(shape.page, KEYS)
    fused = fused and parts > 1
    flags = flag_count(shape, parts) if fused else 0

    def launch(made: replay.Results) -> bool:
        results = Results(*made)
        folded, map_q = query_map(q, shape)
        map_k = tensor_map(
            cache,
            (HEAD, shape.kv_heads, shape.page, cache.shape[0]),
            (cache.stride(2), cache.stride(1), cache.stride(0)),
            (64, 1, box, 1),
        )
        arguments = Arguments(
            *(tensor.data_ptr() for tensor in (plan, splits, lengths, pages)), 0,
            results.out.data_ptr(), results.lse.data_ptr(), *results.partial_at(True, flags), 0, 0, 0,
            scale * LOG2_E, batch,
            pages.stride(0), shape.page, shape.rows, s_q, heads, shape.kv_heads, int(causal and s_q > 1), 0, 0,
        )  # fmt: skip
        grid = Launch((shape.row_tiles, shape.kv_heads, parts), 384, SHARED_BYTES, cooperative=fused)
        source = decode_source(box, q.dtype, PIECE_BLOCKS if fixed else 0, fused)
        extra = (Fused(results.partial.data_ptr(), secrets.randbits(64)),) if fused else ()
        loaded(source).launch(grid, (map_q, map_k, arguments, *extra), q.device)
        if (parts > 1 or fixed) and not fused:
            launch_combine(shape, plan, splits, results, 0, every=fixed)
        return folded.data_ptr() == q.data_ptr()

    return replay.Work(Results.maker(shape, slots, q.dtype, q.device, flags=flags), launch)


def reference_decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    pages: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    causal: bool,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain tensors, one request at a time: out [b, s_q, h, 512] and lse [b, h, s_q] in `dtype`."""
    batch, s_q, heads, _ = q.shape
    page, kv_heads = cache.shape[1], cache.shape[2]
    out = torch.zeros(batch, s_q, heads, VALUES, dtype=dtype, device=q.device)
    lse = torch.full((batch, heads, s_q), torch.inf, dtype=dtype, device=q.device)
    for i, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        used = pages[i, : -(-length // page)].long()
        keys = cache[used].flatten(0, 1)[:length].to(dtype).repeat_interleave(heads // kv_heads, 1)  # [s_k, h, 576]
        scores = torch.einsum("shd,khd->hsk", q[i].to(dtype), keys) * scale
        if causal:
            last = length - s_q + torch.arange(s_q, device=q.device)
            hidden = torch.arange(length, device=q.device)[None, :] > last[:, None]
            scores = scores.masked_fill(hidden, -torch.inf)
        row_lse = scores.logsumexp(-1)
        seen = row_lse > -torch.inf
        weights = (scores - row_lse.masked_fill(~seen, 0.0)[..., None]).exp()
        out[i] = torch.einsum("hsk,khd->shd", weights, keys[..., :VALUES])
        lse[i] = row_lse.masked_fill(~seen, torch.inf)
    return out, lse
