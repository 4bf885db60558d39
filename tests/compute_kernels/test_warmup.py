"""What `3fs warmup` compiles is what calls ask for."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from threefs.compute_kernels import deep_gemm, flash_mla, warmup
from threefs.compute_kernels.deep_gemm import (
    api as gemm_api,
)
from threefs.compute_kernels.deep_gemm import casts, fp8_gemm, fp8_wgrad, group_ids, logits_plan, mqa_logits
from threefs.compute_kernels.flash_mla import api, dense_decode, fp8_api, fp8_decode, gather_decode, plan
from threefs.compute_kernels.jit import KernelSource, replay

pytestmark = pytest.mark.kernels
_FP8, _INT = torch.float8_e4m3fn, torch.int32


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[KernelSource]:
    """The kernels that calls asked for, on a device of 132 multiprocessors whose memory is the CPU's."""
    found: set[KernelSource] = set()

    def loaded(source: KernelSource) -> SimpleNamespace:
        found.add(source)
        return SimpleNamespace(launch=lambda *_: None)

    modules = (casts, fp8_gemm, fp8_wgrad, group_ids, logits_plan, mqa_logits)
    for module in (*modules, dense_decode, fp8_decode, gather_decode, plan):
        monkeypatch.setattr(module, "loaded", loaded)
    for module in (fp8_gemm, mqa_logits, dense_decode, fp8_decode):
        monkeypatch.setattr(module, "tensor_map", lambda *_, **__: ctypes.create_string_buffer(128))
    for module in (fp8_wgrad, mqa_logits):
        monkeypatch.setattr(module, "tensor_map_at", lambda *_: ctypes.create_string_buffer(128))
    for module in (gemm_api, fp8_wgrad, mqa_logits, api, fp8_api):
        monkeypatch.setattr(module, "sms_of", lambda _: 132)
    for kept in ("_prepared", "_known"):
        monkeypatch.setattr(replay, kept, {})
    return found


def _decode(heads: int, batch: int, dtype: torch.dtype, **how: bool) -> None:
    q, cache = torch.zeros(batch, 1, heads, 576).to(dtype), torch.zeros(4, 64, 1, 576).to(dtype)
    table, lengths = torch.zeros(batch, 2, dtype=_INT), torch.ones(batch, dtype=_INT)
    meta, _ = flash_mla.get_mla_metadata(**how)
    flash_mla.flash_mla_with_kvcache(q, cache, table, lengths, 512, meta)


def test_decode(asked: set[KernelSource]) -> None:
    for heads in (16, 128):
        for batch in (1, 200):
            for dtype in (torch.bfloat16, torch.float16):
                _decode(heads, batch, dtype)
                _decode(heads, batch, dtype, batch_invariant=True)
                _decode(heads, batch, dtype, fused_combine=True)
    assert len(asked) >= 10
    assert asked <= set(warmup.sources(["decode"]))


def test_fp8_caches_and_prefill(asked: set[KernelSource]) -> None:
    table, lengths = torch.zeros(2, 2, dtype=_INT), torch.ones(2, dtype=_INT)
    rows = torch.zeros(4, 64, 1, 576)
    for heads in (8, 16, 64, 128):
        q = torch.zeros(2, 1, heads, 576).bfloat16()
        for fixed in (False, True):
            meta, _ = flash_mla.get_mla_metadata(batch_invariant=fixed)
            pages = flash_mla.quantise_pages(rows)
            flash_mla.flash_mla_with_kvcache(q, pages, table, lengths, 512, meta, is_fp8_kvcache=True)
    assert asked <= set(warmup.sources(["fp8"]))
    asked.clear()
    q, cache = torch.zeros(2, 2, 64, 576).bfloat16(), flash_mla.quantise_rows(rows)
    for indices in (None, torch.zeros(2, 2, 64, dtype=_INT)):
        for causal in (False, True):
            meta, _ = flash_mla.get_mla_metadata()
            how = {"is_fp8_kvcache": True, "indices": indices, "causal": causal and indices is None}
            flash_mla.flash_mla_with_kvcache(q, cache, table, lengths, 512, meta, **how)  # type: ignore[arg-type]
    for head in (512, 576):
        kv, chosen = torch.zeros(30, 1, head).bfloat16(), torch.zeros(4, 1, 64, dtype=_INT)
        flash_mla.flash_mla_sparse_fwd(torch.zeros(4, 64, head).bfloat16(), kv, chosen, 0.1)
    assert len(asked) >= 6
    assert asked <= set(warmup.sources(["sparse"]))


def test_products(asked: set[KernelSource]) -> None:
    n, k, groups = 768, 512, 3
    values, scales = torch.zeros(groups, n, k).to(_FP8), torch.ones(groups, n // 128, k // 128)
    for m in (1, 64, 100, 128, 129, 300, 1024):
        lhs, out = (torch.zeros(m, k).to(_FP8), torch.ones(m, k // 128)), torch.zeros(m, n).bfloat16()
        deep_gemm.gemm_fp8_fp8_bf16_nt(lhs, (values[0], scales[0]), out)
        deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(lhs, (values, scales), out, torch.zeros(m, dtype=_INT))
        room = (torch.zeros(groups, m, k).to(_FP8), torch.ones(groups, m, k // 128))
        counts, all_out = torch.zeros(groups, dtype=_INT), torch.zeros(groups, m, n).bfloat16()
        deep_gemm.m_grouped_gemm_fp8_fp8_bf16_nt_masked(room, (values, scales), all_out, counts, m)
        casts.fused_cast(torch.zeros(m, 512), 1)
        fine, wide = (torch.zeros(m, k).to(_FP8), torch.ones(m, k // 128)), torch.zeros(m, m)
        deep_gemm.wgrad_gemm_fp8_fp8_fp32_nt(fine, fine, wide[:, :m]) if m % 4 == 0 else None
    assert len(asked) >= 9
    options = ["--shape", f"{n}x{k}", "--rows", "1024", "--groups", str(groups)]
    assert asked <= set(warmup.sources(["dense", "grouped", "casts", "wgrad", *options]))


def test_logits(asked: set[KernelSource]) -> None:
    for heads in (32, 64):
        q, keys = torch.zeros(4, heads, 128).to(_FP8), (torch.zeros(32, 128).to(_FP8), torch.ones(32))
        edges = torch.zeros(4, dtype=_INT), torch.ones(4, dtype=_INT)
        deep_gemm.fp8_mqa_logits(q, keys, torch.ones(4, heads), *edges)
        for queries in (1, 2):
            lengths, table = torch.ones(2, dtype=_INT), torch.zeros(2, 1, dtype=_INT)
            meta, cache = logits_plan.fused_logits_plan(lengths, 132), torch.zeros(1, 64, 1, 132, dtype=torch.uint8)
            q, weights = torch.zeros(2, queries, heads, 128).to(_FP8), torch.ones(2 * queries, heads)
            deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lengths, table, meta, 64)
    assert len(asked) == 7
    assert asked <= set(warmup.sources(["logits"]))


def test_the_command_compiles_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "threefs.compute_kernels.warmup", "casts"]
    environment = {"THREEFS_KERNEL_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for compiled in (6, 0):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.startswith(f"6 kernels, {compiled} of them compiled now, in ")
        assert done.stdout.endswith(f": {tmp_path}\n")
    assert len(list(tmp_path.glob("*.cubin"))) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "7168"], "'7168' is no shape; it must be NxK, as 7168x2048"),
        (["--page", "48"], "'48' is no page; it must be a power of two from 16 up"),
        (["--rows", "0"], "'0' must be 1 or more"),
        (["everything"], "'everything' is no part; it may be decode, fp8, sparse"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        warmup.sources(arguments)
    assert said in capsys.readouterr().err
