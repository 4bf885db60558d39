"""Dense MLA decode over a paged cache, bf16 or fp16, head size 576 with values of 512.

Formula. For each request and query row: O = softmax(scale * q . K^T) . V with V = K[:, :512]; lse is the natural
log of the sum of the exponentials. With `causal`, the last query position sees all keys, the one before all but one.
Work: 2 b h_q s_q s_k (576 + 512) operations. Bytes: b s_k h_kv 1,152 of cache, once. With h_q s_q = 128 that is 242
operations a byte, about an H100's ridge; below it memory bounds the kernel, above it the tensor cores.

Rows. Heads of one kv head and query positions are folded: row = position * ratio + head. A tile is 64 rows; two
tiles of a request share each key block by multicast. Keys are cut into parts of equal cost (`plan.cu`), the
pieces of a request that several parts hold are put together by `combine.cu`.

Limits: head size 576/512; page a power of two from 16; at most 132 parts; shared memory 226 KiB of 227.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import torch

from threefs.compute_kernels.jit import KernelSource, Launch, Wgmma, loaded, tensor_map
from threefs.compute_kernels.jit.driver import Argument

__all__ = [
    "DecodeShape",
    "combine_source",
    "decode",
    "decode_source",
    "make_plan",
    "plan_source",
    "reference_decode",
    "reference_plan",
]

HEAD, VALUES, ROWS, KEYS = 576, 512, 64, 64
PLAN_ROW = 8  # int32 values a part
OVERHEAD_BLOCKS = 3  # what starting and ending a request costs, in blocks of 64 keys
COMBINE_THREADS = 132 * 2048  # all that a Hopper GPU holds
SLACK, WHOLE_MAX = 8, 512  # see plan.cu
BATCH_MAX = 40_000  # running sums of the plan stay in shared memory
_SHARED_BYTES = 231_424
_FOLDER = Path(__file__).parent
_TYPES = {torch.bfloat16: ("bf16", 0), torch.float16: ("f16", 1)}


@lru_cache(maxsize=64)
def decode_source(cluster: int, box: int, dtype: torch.dtype) -> KernelSource:
    operand, half = _TYPES[dtype]
    shapes = (
        Wgmma(operand, 64),  # type: ignore[arg-type]
        Wgmma(operand, 256, a_registers=True, b_transposed=True),  # type: ignore[arg-type]
        Wgmma(operand, 256, b_transposed=True),  # type: ignore[arg-type]
    )
    constants = (("CLUSTER", cluster), ("BOX", box), ("HALF", half))
    return KernelSource(_FOLDER / "dense_decode.cu", "mla_dense_decode", constants, shapes)


@lru_cache(maxsize=8)
def plan_source(overhead: int = OVERHEAD_BLOCKS) -> KernelSource:
    return KernelSource(_FOLDER / "plan.cu", "mla_plan", (("OVERHEAD", overhead),))


@lru_cache(maxsize=4)
def combine_source(dtype: torch.dtype, teams: int) -> KernelSource:
    return KernelSource(_FOLDER / "combine.cu", "mla_combine", (("HALF", _TYPES[dtype][1]), ("TEAMS", teams)))


@dataclass(frozen=True)
class DecodeShape:
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

    @property
    def cluster(self) -> int:
        return 2 if self.row_tiles % 2 == 0 and self.page >= 32 else 1

    def parts(self, num_sms: int) -> int:
        return max(num_sms // self.kv_heads // self.row_tiles, 1)


class _Arguments(ctypes.Structure):
    """`Arguments` of dense_decode.cu."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in ("plan", "splits", "lengths", "pages", "out", "lse", "partial", "partial_lse")
        ),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_uint32) for name in ("pages_max", "page", "rows", "s_q", "heads", "kv_heads", "causal")),
    )


def ceil_div(x: int, y: int) -> int:
    return -(-x // y)


def reference_plan(
    lengths: list[int], parts: int, overhead: int = OVERHEAD_BLOCKS
) -> tuple[list[list[int]], list[int]]:
    """`plan.cu` in plain Python: the rows without their padding, and the running sum of splits."""
    blocks = [ceil_div(length, KEYS) for length in lengths]
    units = [overhead + max(count, 1) for count in blocks]
    ends = list(accumulate(units))
    firsts = [end - unit + overhead for end, unit in zip(ends, units, strict=True)]
    quota = ceil_div(ceil_div(ends[-1], parts), 2) * 2
    if len(lengths) <= WHOLE_MAX and (starts := _pack_whole(units, parts, quota + SLACK)) is not None:
        bounds = [*starts, len(lengths)]
        rows = [[a, b - 1, 0, blocks[b - 1], 0] for a, b in pairwise(bounds)]
        return rows + [[len(lengths), -1, 0, 0, 0]] * (parts - len(rows)), list(range(len(lengths) + 1))
    if len(lengths) <= parts and (size := _piece_size(blocks, parts)) <= quota:
        rows, splits = [], [0]
        for r, count in enumerate(blocks):
            pieces = max(-(-count // size), 1)
            rows += [[r, r, i * size, min((i + 1) * size, count), i] for i in range(pieces)]
            splits.append(splits[-1] + pieces)
        return rows + [[len(lengths), -1, 0, 0, 0]] * (parts - len(rows)), splits
    splits = [(end - 1) // quota - first // quota + 1 for first, end in zip(firsts, ends, strict=True)]
    rows = []
    for part in range(parts):
        begin, end = part * quota, (part + 1) * quota
        first = next((r for r, last in enumerate(ends) if last > begin), len(lengths))
        last = max((r for r, place in enumerate(firsts) if place < end), default=-1)
        if first > last:
            rows.append([first, max(last, first - 1), 0, 0, 0])
            continue
        start = max(begin - firsts[first], 0)
        rows.append(
            [first, last, start, min(end - firsts[last], blocks[last]), part - min(firsts[first] // quota, part)]
        )
    return rows, list(accumulate(splits, initial=0))


def _pack_whole(units: list[int], parts: int, limit: int) -> list[int] | None:
    """First requests of the parts if whole requests fit into `parts` parts of at most `limit` units."""
    starts, held = [0], 0
    for request, unit in enumerate(units):
        if held + unit > limit:
            if unit > limit or len(starts) == parts:
                return None
            starts.append(request)
            held = 0
        held += unit
    return starts


def _piece_size(blocks: list[int], parts: int) -> int:
    """Least even size of a piece, in blocks, with which one piece a part is enough; plan.cu ends at 2,048."""
    for size in range(2, 2050, 2):
        if sum(max(-(-count // size), 1) for count in blocks) <= parts:
            return size
    return 2**32


def make_plan(lengths: torch.Tensor, parts: int, overhead: int = OVERHEAD_BLOCKS) -> tuple[torch.Tensor, torch.Tensor]:
    """Queue the plan: int32 [parts, 8] and the running sum of splits, int32 [batch + 1]."""
    batch = lengths.shape[0]
    plan = torch.empty(parts, PLAN_ROW, dtype=torch.int32, device=lengths.device)
    splits = torch.empty(batch + 1, dtype=torch.int32, device=lengths.device)
    arguments: list[Argument] = [ctypes.c_uint64(tensor.data_ptr()) for tensor in (lengths, plan, splits)]
    arguments += [ctypes.c_int(batch), ctypes.c_int(parts)]
    loaded(plan_source(overhead)).launch(Launch((1, 1, 1), 1024, (batch + parts + 1) * 4), arguments, lengths.device)
    return plan, splits


def _query_rows(q: torch.Tensor, shape: DecodeShape) -> torch.Tensor:
    """q as [batch, kv_heads, rows, head]; a copy only if several query positions meet several kv heads."""
    ratio = shape.heads // shape.kv_heads
    folded = q.view(shape.batch, shape.s_q, shape.kv_heads, ratio, HEAD).transpose(1, 2)
    return folded.reshape(shape.batch, shape.kv_heads, shape.rows, HEAD)


def decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    pages: torch.Tensor,
    lengths: torch.Tensor,
    plan: torch.Tensor,
    splits: torch.Tensor,
    scale: float,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queue attention and combination. Arguments are checked already."""
    batch, s_q, heads, _ = q.shape
    shape = DecodeShape(batch, s_q, heads, cache.shape[2], cache.shape[1])
    parts, rows, device = plan.shape[0], shape.rows, q.device
    out = torch.empty(batch, s_q, heads, VALUES, dtype=q.dtype, device=device)
    lse = torch.empty(batch, heads, s_q, dtype=torch.float32, device=device)
    slots = batch + parts
    partial = torch.empty(slots, shape.kv_heads, rows, VALUES, dtype=torch.float32, device=device)
    partial_lse = torch.empty(slots, shape.kv_heads, rows, dtype=torch.float32, device=device)

    folded = _query_rows(q, shape)
    stride_b, stride_h, stride_r, _ = folded.stride()
    map_q = tensor_map(folded, (HEAD, rows, shape.kv_heads, batch), (stride_r, stride_h, stride_b), (64, ROWS, 1, 1))
    box = min(shape.page, KEYS // shape.cluster)
    map_k = tensor_map(
        cache,
        (HEAD, shape.kv_heads, shape.page, cache.shape[0]),
        (cache.stride(2), cache.stride(1), cache.stride(0)),
        (64, 1, box, 1),
    )
    arguments = _Arguments(
        *(tensor.data_ptr() for tensor in (plan, splits, lengths, pages, out, lse, partial, partial_lse)),
        scale * 1.4426950408889634,
        pages.stride(0), shape.page, rows, s_q, heads, shape.kv_heads, int(causal and s_q > 1),
    )  # fmt: skip
    launch = Launch((shape.row_tiles, shape.kv_heads, parts), 384, _SHARED_BYTES, shape.cluster)
    loaded(decode_source(shape.cluster, box, q.dtype)).launch(launch, (map_q, map_k, arguments), device)
    if parts > 1:
        tensors = (plan, splits, partial, partial_lse, out, lse)
        numbers = (parts, rows, s_q, heads, shape.kv_heads)
        teams = 4 if parts >= 16 * batch else 1  # by the mean number of splits: the true one is on the device
        blocks = min(rows * shape.kv_heads * parts, COMBINE_THREADS // (128 * teams))
        loaded(combine_source(q.dtype, teams)).launch(
            Launch((blocks, 1, 1), 128 * teams, 0),
            (*(ctypes.c_uint64(t.data_ptr()) for t in tensors), *(ctypes.c_int(n) for n in numbers)),
            device,
        )
    return out, lse


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
