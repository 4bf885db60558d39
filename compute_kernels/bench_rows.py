"""Timed rows of the kernels whose original was not measured on an H200.

Called by `bench`, which explains how a time is taken. Where the machine has a comparator (cuBLAS, our own bf16 decode),
it stands as the original.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from threefs.compute_kernels import deep_gemm, flash_mla
from threefs.compute_kernels.bench_timing import Row, host_time, row, timed
from threefs.compute_kernels.deep_gemm.casts import plain_cast

__all__ = [
    "bf16_rows",
    "cast_rows",
    "fine_rows",
    "fp8_cache_rows",
    "group_cost_rows",
    "group_weights",
    "launch_figures",
    "logits_rows",
    "sparse_rows",
    "wgrad_rows",
]


def _bf16(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(torch.bfloat16)


def bf16_rows() -> list[Row]:
    """Against cuBLAS, which is the original of a row here."""
    rows = []
    for m, n, k in ((8192, 8192, 8192), (4096, 7168, 2048), (4096, 4096, 7168), (4096, 2112, 7168), (128, 7168, 2048)):
        a, b = _bf16(m, k), _bf16(n, k)
        out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
        theirs = timed(partial(torch.mm, a, b.t(), out=out))
        ours = timed(partial(deep_gemm.bf16_gemm_nt, a, b, out))
        rows.append(row("bf16 nt", f"{m}x{n}x{k}", ours, 2.0 * m * n * k, 2.0 * (m * k + n * k + m * n), theirs))
    groups, m, n, k = 4, 8192, 4096, 7168
    a, b = _bf16(groups * m, k), _bf16(groups, n, k)
    out = torch.empty(groups * m, n, dtype=torch.bfloat16, device="cuda")
    ids = torch.arange(groups, dtype=torch.int32, device="cuda").repeat_interleave(m)
    us = timed(partial(deep_gemm.m_grouped_bf16_gemm_nt_contiguous, a, b, out, ids), 4)
    bytes_ = 2.0 * (groups * m * (k + n) + groups * n * k)
    return [*rows, row("bf16 group", f"{groups}x{m}x{n}x{k}", us, 2.0 * groups * m * n * k, bytes_)]


def fine_rows(rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random e4m3 [rows, k] and its scales, a row and 128 values each, as the copy engine takes them."""
    return deep_gemm.per_token_cast_to_fp8(torch.randn(rows, k, device="cuda"))


def cast_rows() -> list[Row]:
    """Against plain tensors, with the copy of a token's scales into the products' layout."""
    rows = []
    for m, k in ((4096, 7168), (128, 7168)):
        x = _bf16(m, k)
        plain = timed(lambda x=x: deep_gemm.get_col_major_tma_aligned_tensor(plain_cast(x, 1, 128)[1]))  # type: ignore[misc]
        us = timed(partial(deep_gemm.per_token_cast_to_fp8, x))
        rows.append(row("token cast", f"{m}x{k}", us, 0.0, m * k * (3 + 4 / 128), plain))
    x = _bf16(7168, 4096)
    plain, us = timed(partial(plain_cast, x, 128, 128)), timed(partial(deep_gemm.per_block_cast_to_fp8, x))
    return [*rows, row("block cast", "7168x4096", us, 0.0, 3.0 * x.numel(), plain)]


def wgrad_rows() -> list[Row]:
    rows = []
    for m, n, k in ((4096, 4096, 4096), (4096, 7168, 4096), (7168, 2048, 8192), (4096, 4096, 8192)):
        lhs, rhs, out = fine_rows(m, k), fine_rows(n, k), torch.zeros(m, n, device="cuda")
        us = timed(partial(deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt, lhs, rhs, out))
        rows.append(row("fp8 wgrad", f"{m}x{n}x{k}", us, 2.0 * m * n * k, m * k + n * k + 8.0 * m * n))
    m, n, ks = 4096, 7168, [8192] * 4
    sides = [fine_rows(extent, sum(ks)) for extent in (m, n)]
    packed = [(values.flatten(), scale.t().contiguous()) for values, scale in sides]
    out = torch.zeros(len(ks), m, n, device="cuda")
    us = timed(partial(deep_gemm.k_grouped_wgrad_gemm_fp8_fp8_fp32_nt, packed[0], packed[1], out, ks), 4)
    return [
        *rows,
        row("k-grouped", f"4x{m}x{n}x8192", us, 2.0 * m * n * sum(ks), (m + n) * sum(ks) + 8.0 * len(ks) * m * n),
    ]


def logits_rows() -> list[Row]:
    rows = []
    for s, s_k, heads in ((2048, 8192, 64), (4096, 16384, 64), (4096, 16384, 32)):
        q, keys = (_bf16(*shape).to(torch.float8_e4m3fn) for shape in ((s, heads, 128), (s_k, 128)))
        scales, weights = torch.rand(s_k, device="cuda"), torch.randn(s, heads, device="cuda")
        start = torch.zeros(s, dtype=torch.int32, device="cuda")
        end = (s_k - s + 1 + torch.arange(s, device="cuda")).int()
        us = timed(partial(deep_gemm.fp8_mqa_logits, q, (keys, scales), weights, start, end), 4)
        pairs = float(end.sum())
        rows.append(
            row("mqa logits", f"s{s} kv{s_k} h{heads}", us, 2.0 * pairs * heads * 128, 4.0 * s * s_k + s_k * 132)
        )
    for batch, length, next_n in ((256, 8192, 1), (256, 8192, 2)):
        blocks = batch * length // 64
        cache = torch.randint(0, 100, (blocks, 64, 1, 132), dtype=torch.uint8, device="cuda")
        q = _bf16(batch, next_n, 64, 128).to(torch.float8_e4m3fn)
        weights = torch.randn(batch * next_n, 64, device="cuda")
        lens = torch.full((batch,), length, dtype=torch.int32, device="cuda")
        table = torch.randperm(blocks, device="cuda").int().view(batch, -1)
        meta = deep_gemm.get_paged_mqa_logits_metadata(lens, 64, 132)
        us = timed(partial(deep_gemm.fp8_paged_mqa_logits, q, cache, weights, lens, table, meta, length), 4)
        keys_all = float(batch * length)
        bytes_ = keys_all * (132 + 4 * next_n)
        rows.append(row("mqa paged", f"b{batch} kv{length} n{next_n}", us, 2.0 * keys_all * next_n * 64 * 128, bytes_))
    return rows


def fp8_cache_rows() -> list[Row]:
    """Dense decode over an FP8 cache; the original of a row is our own bf16 decode of the same shape."""
    rows = []
    for batch, length, heads in (
        *((128, length, heads) for heads in (16, 32, 64) for length in (4096, 8192)),
        (128, 4096, 128),
    ):
        blocks = batch * length // 64
        cache = _bf16(blocks, 64, 1, 576)
        small = torch.cat([flash_mla.quantise_pages(part) for part in torch.split(cache, 2048)])
        q = _bf16(batch, 1, heads, 576) / 10
        table = torch.randperm(blocks, device="cuda").int().view(batch, -1)
        lens = torch.full((batch,), length, dtype=torch.int32, device="cuda")
        times = []
        for fp8 in (False, True):
            plan, _ = flash_mla.get_mla_metadata()
            call = partial(
                flash_mla.flash_mla_with_kvcache, q, small if fp8 else cache, table, lens, 512, plan, is_fp8_kvcache=fp8
            )
            times.append(timed(call, 5, 3))
        keys = float(batch * length)
        rows.append(
            row("mla fp8", f"b{batch} s{length} h{heads}", times[1], 2.0 * heads * keys * 1088, keys * 644, times[0])
        )
    return rows


def sparse_rows() -> list[Row]:
    rows = []
    for batch in (64, 128):
        heads, s_q, s_k, topk = 128, 2, 32768, 2048
        blocks = batch * s_k // 64
        cache = flash_mla.quantise_rows(_bf16(2048, 64, 1, 576)).repeat(blocks // 2048, 1, 1, 1)
        q = _bf16(batch, s_q, heads, 576) / 10
        own = torch.rand(batch, s_q, s_k, device="cuda").argsort(-1)[..., :topk]
        indices = (own + torch.arange(batch, device="cuda")[:, None, None] * s_k).int()
        plan, _ = flash_mla.get_mla_metadata()
        call = partial(
            flash_mla.flash_mla_with_kvcache, q, cache, None, None, 512, plan, is_fp8_kvcache=True, indices=indices
        )
        keys = float(batch * s_q * topk)
        rows.append(
            row("sparse fp8", f"b{batch} h128 q2 k2048", timed(call, 5, 3), 2.0 * heads * keys * 1088, keys * 656)
        )
    for head, heads, topk, s_kv in (
        (576, 128, 2048, 8192),
        (576, 128, 2048, 32768),
        (512, 64, 512, 8192),
        (512, 128, 1024, 8192),
    ):
        s_q = 4096
        q, kv = _bf16(s_q, heads, head) / 10, _bf16(s_kv, 1, head) / 10
        indices = torch.rand(s_q, s_kv, device="cuda").argsort(-1)[:, None, :topk].int().contiguous()
        prefill = partial(flash_mla.flash_mla_sparse_fwd, q, kv, indices, head**-0.5)
        keys = float(s_q * topk)
        shape = f"d{head} h{heads} k{topk} kv{s_kv}"
        rows.append(row("prefill", shape, timed(prefill, 3, 3), 2.0 * heads * keys * (head + 512), keys * 2 * head))
    return rows


def group_weights(groups: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random e4m3 [groups, n, k] and a scale for each 128 x 128; n a multiple of 128."""
    values, scales = deep_gemm.per_block_cast_to_fp8(torch.randn(groups * n, k, device="cuda"))
    return values.view(groups, n, k), scales.view(groups, n // 128, -1)


def group_cost_rows() -> list[Row]:
    """What groups cost: contiguous ones against a dense product of as many operations, masked ones of which every other
    is empty against the same rows without the empty groups. The latter stands as the original.
    """
    rows = []
    for groups, m, n, k in ((4, 8192, 4096, 7168), (8, 4096, 7168, 2048)):
        lhs, rhs = fine_rows(groups * m, k), group_weights(groups, n, k)
        out = torch.empty(groups * m, n, dtype=torch.bfloat16, device="cuda")
        ids = torch.arange(groups, dtype=torch.int32, device="cuda").repeat_interleave(m)
        one = (rhs[0][0].contiguous(), rhs[1][0].contiguous())
        dense = timed(partial(deep_gemm.gemm_fp8_fp8_bf16_nt, lhs, one, out), 4)
        us = timed(partial(deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_contiguous, lhs, rhs, out, ids), 4)
        bytes_ = float(groups * (m * k + n * k + 2 * m * n))
        rows.append(row("vs dense", f"{groups}x{m}x{n}x{k}", us, 2.0 * groups * m * n * k, bytes_, dense))
    for groups, m, n, k in ((8, 256, 4096, 7168), (8, 256, 7168, 2048), (64, 32, 4096, 7168)):
        times = []
        for step in (1, 2):  # all groups full; twice as many, of which every other is empty
            values = torch.randn(groups * step * m, k, device="cuda")
            flat, scale = deep_gemm.per_token_cast_to_fp8(values)
            scales = deep_gemm.get_col_major_tma_aligned_tensor(scale.view(groups * step, m, -1))
            rhs = group_weights(groups * step, n, k)
            out = torch.empty(groups * step, m, n, dtype=torch.bfloat16, device="cuda")
            counts = torch.zeros(groups * step, dtype=torch.int32, device="cuda")
            counts[::step] = m
            lhs = (flat.view(groups * step, m, k), scales)
            masked = deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_masked
            times.append(timed(partial(masked, lhs, rhs, out, counts, m), 4))
        bytes_ = float(groups * (m * k + n * k + 2 * m * n))
        rows.append(
            row("half empty", f"{groups}+{groups}x{m}x{n}x{k}", times[1], 2.0 * groups * m * n * k, bytes_, times[0])
        )
    return rows


def launch_figures() -> dict[str, float]:
    """Microseconds of Python for a repeated call of each kind but a product; decode makes two launches."""
    lhs, sums = fine_rows(64, 128), torch.zeros(64, 64, device="cuda")
    q, keys = (_bf16(*shape).to(torch.float8_e4m3fn) for shape in ((4, 1, 64, 128), (64, 128)))
    ones, weights = torch.ones(64, device="cuda"), torch.ones(4, 64, device="cuda")
    start = torch.zeros(4, dtype=torch.int32, device="cuda")
    lens, table = start + 64, torch.arange(4, dtype=torch.int32, device="cuda").view(4, 1)
    cache = torch.zeros(4, 64, 1, 132, dtype=torch.uint8, device="cuda")
    meta = deep_gemm.get_paged_mqa_logits_metadata(lens, 64, 132)
    query, latent = _bf16(4, 1, 64, 576), _bf16(4, 64, 1, 576)
    plan, splits = flash_mla.get_mla_metadata(lens, 64, 1)
    calls: dict[str, Callable[[], object]] = {
        "weight_gradient": partial(deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt, lhs, lhs, sums),
        "logits": partial(deep_gemm.fp8_mqa_logits, q[:, 0], (keys, ones), weights, start, lens),
        "paged_logits": partial(deep_gemm.fp8_paged_mqa_logits, q, cache, weights, lens, table, meta, 64),
        "plan": partial(flash_mla.get_mla_metadata, lens, 64, 1),
        "decode": partial(flash_mla.flash_mla_with_kvcache, query, latent, table, lens, 512, plan, splits),
    }
    return {f"{name}_call_us": host_time(call) for name, call in calls.items()}
