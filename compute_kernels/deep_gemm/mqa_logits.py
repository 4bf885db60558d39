"""MQA logits of the sparse-attention indexer, over keys in a row or in pages, FP8 with one scale a key.

Formula. logits[i, j] = scale[j] * sum over heads h of weight[i, h] * relu(q[i, h] . k[j]) for the keys j that query i
sees, -infinity elsewhere. The query's scale is part of its weights.
Work: 2 h d operations for each seen pair. Bytes: 4 for each logit written, d + 4 for each key read by each block of
256 / h queries. With d = 128 and h = 64 the tensor cores bound the plain form (beside them two CUDA-core operations for
each of h products); the paged form, one to four queries for each request, is bound by reading the cache.

Limits: h 16, 32 or 64; d 32, 64 or 128; page 64 in the paged form; at most 256 / h query positions a request there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from threefs.compute_kernels.deep_gemm.layout import ceil_div, sms_limit, sms_of
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, replay, tensor_map
from threefs.compute_kernels.jit.driver import tensor_map_at

__all__ = [
    "fp8_mqa_logits",
    "fp8_paged_mqa_logits",
    "mqa_source",
    "reference_mqa_logits",
]

_FILE = Path(__file__).with_name("mqa_logits.cu")
_HEADS, _HEAD_DIMS, _COLUMNS, _KEYS, _PAGE, _STAGES = (16, 32, 64), (32, 64, 128), 256, 128, 64, 6


@lru_cache(maxsize=64)
def mqa_source(heads: int, queries: int, head_dim: int, paged: bool) -> KernelSource:
    constants = {"HEADS": heads, "QUERIES": queries, "HEAD_DIM": head_dim, "STAGES": _STAGES, "PAGED": int(paged)}
    shape = Wgmma("e4m3", _columns(heads, queries) // _parts(heads, queries))
    return KernelSource(_FILE, "mqa_logits", tuple(constants.items()), (shape,))


def _parts(heads: int, queries: int) -> int:
    """Accumulators of a tile; as in mqa_logits.cu."""
    return 2 if heads * queries > 128 else 1


def _columns(heads: int, queries: int) -> int:
    """Columns of a tile: an accumulator has 1, 2, 4 or 8 queries, of which some may be rows that nobody looks at."""
    parts = _parts(heads, queries)
    return heads * parts * (1 << (ceil_div(queries, parts) - 1).bit_length())


class _Arguments(ctypes.Structure):
    """`Arguments` of mqa_logits.cu."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("weights", "start", "end", "plan", "pages", "out")),
        *(
            (name, ctypes.c_uint32)
            for name in ("queries", "keys", "requests", "pages_max", "columns", "stride", "clean", "compressed")
        ),
    )


def _shared_bytes(columns: int, head_dim: int) -> int:
    return ceil_div(2 * columns * head_dim + _STAGES * (_KEYS * (head_dim + 4) + 16) + 96, 1024) * 1024


def _check(name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    if tensor.dtype != dtype:
        raise InvalidInput(f"{name} is {tensor.dtype}; it must be {dtype}")
    if tuple(tensor.shape) != shape:
        raise InvalidInput(f"{name} has shape {tuple(tensor.shape)}; it must be {shape}")
    if not tensor.is_contiguous() or tensor.data_ptr() % 16:
        raise InvalidInput(f"{name} has strides {tensor.stride()}; it must be contiguous and begin at 16 bytes")
    if tensor.device != device:
        raise InvalidInput(f"{name} is on {tensor.device} and q on {device}; use one device")


def _check_query(q: torch.Tensor, dims: int) -> tuple[int, int]:
    if q.dtype != torch.float8_e4m3fn or q.dim() != dims:
        raise InvalidInput(f"q is {q.dtype} {tuple(q.shape)}; it must be torch.float8_e4m3fn with {dims} dimensions")
    heads, head_dim = q.shape[-2:]
    if heads not in _HEADS or head_dim not in _HEAD_DIMS:
        raise InvalidInput(f"q has {heads} heads of {head_dim}; heads may be {_HEADS} and head sizes {_HEAD_DIMS}")
    return heads, head_dim


def _logits(queries: int, columns: int, device: torch.device) -> Callable[[], replay.Results]:
    """Makes [queries, columns], its rows padded to 16 bytes."""
    padded = ceil_div(columns, 4) * 4
    new = replay.maker(torch.float32, device)
    if padded == columns:  # a view costs as much as the memory
        return lambda: (new(queries, columns),)
    return lambda: (new(queries, padded)[:, :columns],)


def fp8_mqa_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    cu_seq_len_k_start: torch.Tensor,
    cu_seq_len_k_end: torch.Tensor,
    clean_logits: bool = True,
    max_seqlen_k: int = 0,
) -> torch.Tensor:
    """float32 logits [s, s_k] of q [s, h, d] over kv ([s_k, d], float32 [s_k]); query i sees keys start[i] to end[i].

    With `clean_logits` what a query does not see is -infinity, else undefined. With `max_seqlen_k` the result is
    [s, max_seqlen_k], and each row begins at its first seen key.
    """
    keys, scales = kv

    def prepare() -> replay.Work:
        heads, head_dim = _check_query(q, 3)
        s, s_k, device = q.shape[0], keys.shape[0], q.device
        if max_seqlen_k < 0:
            raise InvalidInput(f"max_seqlen_k is {max_seqlen_k}; it must be 0 or more")
        _check("q", q, torch.float8_e4m3fn, (s, heads, head_dim), device)
        _check("kv", keys, torch.float8_e4m3fn, (s_k, head_dim), device)
        _check("kv scales", scales, torch.float32, (s_k,), device)
        _check("weights", weights, torch.float32, (s, heads), device)
        _check("cu_seq_len_k_start", cu_seq_len_k_start, torch.int32, (s,), device)
        _check("cu_seq_len_k_end", cu_seq_len_k_end, torch.int32, (s,), device)
        sms, columns = sms_of(device), max_seqlen_k or s_k

        def launch(results: replay.Results) -> bool:
            (out,) = results
            if s == 0 or columns == 0 or s_k == 0:
                out.fill_(-torch.inf)
                return False
            ranges = (cu_seq_len_k_start, cu_seq_len_k_end)
            _launch_plain(q, kv, weights, ranges, out, clean_logits, max_seqlen_k > 0, sms)
            return True

        return replay.Work(_logits(s, columns, device), launch)

    tensors = (q, keys, scales, weights, cu_seq_len_k_start, cu_seq_len_k_end)
    return replay.run_allocating(("logits", clean_logits, max_seqlen_k, sms_limit()), tensors, prepare)[0]


def _launch_plain(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    ranges: tuple[torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    clean: bool,
    compressed: bool,
    sms: int,
) -> None:
    """Queue the kernel; all is checked."""
    (s, heads, head_dim), (keys, scales), s_k = q.shape, kv, kv[0].shape[0]
    queries = _COLUMNS // heads
    pointers = (weights, *ranges)
    arguments = _Arguments(
        *(tensor.data_ptr() for tensor in pointers), 0, 0, out.data_ptr(),
        s, s_k, ceil_div(s, queries), 0, out.shape[1], out.stride(0), int(clean), int(compressed),
    )  # fmt: skip
    map_q = tensor_map(q, (head_dim, s * heads), (head_dim,), (head_dim, _COLUMNS), swizzle_bytes=head_dim)
    map_k = tensor_map(keys, (head_dim, s_k), (head_dim,), (head_dim, _KEYS), swizzle_bytes=head_dim)
    map_scales = tensor_map(scales, (s_k, 1), (ceil_div(s_k, 4) * 4,), (_KEYS, 1), swizzle_bytes=0)
    launch = Launch((sms, 1, 1), 384, _shared_bytes(_COLUMNS, head_dim))
    loaded(mqa_source(heads, queries, head_dim, False)).launch(launch, (map_q, map_k, map_scales, arguments), q.device)


def fp8_paged_mqa_logits(
    q: torch.Tensor,
    fused_kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_table: torch.Tensor,
    schedule_metadata: torch.Tensor,
    max_context_len: int,
    clean_logits: bool = False,
) -> torch.Tensor:
    """float32 logits [b * next_n, max_context_len] of q [b, next_n, h, d] over a paged cache.

    The cache is uint8 [blocks, 64, 1, d + 4]; in memory a block is 64 x d values and then 64 float32 scales. Query n
    sees the keys before `context_lens - (next_n - 1 - n)`; with `clean_logits` the rest is -infinity, else undefined.
    """

    def prepare() -> replay.Work:
        heads, head_dim = _check_query(q, 4)
        batch, next_n, device = q.shape[0], q.shape[1], q.device
        if next_n * heads > _COLUMNS:
            raise InvalidInput(f"next_n is {next_n} and there are {heads} heads; their product may be {_COLUMNS}")
        blocks, parts = fused_kv_cache.shape[0], schedule_metadata.shape[0] - 1
        _check("q", q, torch.float8_e4m3fn, (batch, next_n, heads, head_dim), device)
        _check("fused_kv_cache", fused_kv_cache, torch.uint8, (blocks, _PAGE, 1, head_dim + 4), device)
        _check("weights", weights, torch.float32, (batch * next_n, heads), device)
        _check("context_lens", context_lens, torch.int32, (batch,), device)
        _check("block_table", block_table, torch.int32, (batch, block_table.shape[-1]), device)
        _check("schedule_metadata", schedule_metadata, torch.int32, (parts + 1, 2), device)
        sms_of(device)

        def launch(results: replay.Results) -> bool:
            if batch and max_context_len:
                tables = (context_lens, schedule_metadata, block_table)
                _launch_paged(q, fused_kv_cache, weights, tables, results[0], clean_logits)
            return True

        return replay.Work(_logits(batch * next_n, max_context_len, device), launch)

    tensors = (q, fused_kv_cache, weights, context_lens, block_table, schedule_metadata)
    return replay.run_allocating(("paged logits", clean_logits, max_context_len), tensors, prepare)[0]


def _launch_paged(
    q: torch.Tensor,
    fused_kv_cache: torch.Tensor,
    weights: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    clean: bool,
) -> None:
    """Queue the kernel; all is checked. `tables`: lengths, schedule, pages."""
    (batch, next_n, heads, head_dim), blocks = q.shape, fused_kv_cache.shape[0]
    lengths, schedule, pages = tables
    pointers = (weights, None, lengths, schedule, pages, out)
    arguments = _Arguments(
        *(0 if tensor is None else tensor.data_ptr() for tensor in pointers),
        batch * next_n, 0, batch, pages.shape[1], out.shape[1], out.stride(0), int(clean), 0,
    )  # fmt: skip
    columns = _columns(heads, next_n)
    rows = batch * next_n * heads
    map_q = tensor_map(q, (head_dim, rows), (head_dim,), (head_dim, columns), swizzle_bytes=head_dim)
    page_bytes = _PAGE * (head_dim + 4)
    shape, box = (head_dim, _PAGE, blocks), (head_dim, _PAGE, 1)
    map_k = tensor_map_at(fused_kv_cache.data_ptr(), torch.uint8, shape, (head_dim, page_bytes), box, head_dim)
    scales_at = fused_kv_cache.data_ptr() + _PAGE * head_dim
    map_scales = tensor_map_at(scales_at, torch.float32, (_PAGE, blocks), (page_bytes // 4,), (_PAGE, 1), 0)
    launch = Launch((schedule.shape[0] - 1, 1, 1), 384, _shared_bytes(columns, head_dim))
    loaded(mqa_source(heads, next_n, head_dim, True)).launch(launch, (map_q, map_k, map_scales, arguments), q.device)


def reference_mqa_logits(
    q: torch.Tensor,
    keys: torch.Tensor,
    scales: torch.Tensor,
    weights: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """[s, s_k] in `dtype`, -infinity where a query does not see."""
    products = torch.einsum("shd,kd->shk", q.to(dtype), keys.to(dtype)).relu()
    logits = torch.einsum("shk,sh->sk", products, weights.to(dtype)) * scales.to(dtype)
    at = torch.arange(keys.shape[0], device=q.device)
    return logits.masked_fill(~((at >= start[:, None]) & (at < end[:, None])), -torch.inf)
