"""Calls that equal earlier ones launch again what those launched, and no others do."""

from __future__ import annotations

import ctypes
from functools import partial

import pytest
import torch

from threefs.compute_kernels import deep_gemm, flash_mla
from threefs.compute_kernels.deep_gemm import mqa_logits
from threefs.compute_kernels.errors import InvalidInput
from threefs.compute_kernels.flash_mla import api, checks, dense_decode, fp8_api, fp8_decode, gather_decode, plan
from threefs.compute_kernels.jit import KernelSource, driver, replay

pytestmark = pytest.mark.kernels


class _Driver:
    """Stands for the driver: notes each launch's name, and the arguments as they were at that time."""

    def __init__(self) -> None:
        self.launched: list[tuple[str, bytes]] = []
        self.loads = 0

    def loaded(self, source: KernelSource) -> _Kernel:
        self.loads += 1
        return _Kernel(self, source.entry)


class _Kernel:
    def __init__(self, owner: _Driver, entry: str) -> None:
        self.owner, self.entry = owner, entry

    def launch(self, launch: driver.Launch, arguments: tuple[driver.Argument, ...], device: torch.device) -> None:
        def call(*_: object) -> tuple[int]:
            held = b"".join(ctypes.string_at(ctypes.addressof(one), ctypes.sizeof(one)) for one in arguments)
            self.owner.launched.append((self.entry, held))
            return (0,)

        prepared = driver.Prepared(call, None, None, arguments, f"{self.entry}, {launch}, {device}")
        prepared.launch()
        driver._recorder.launches.append(prepared)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> _Driver:
    """The wrappers see a device of four multiprocessors, which holds the CPU's tensors."""
    found = _Driver()
    monkeypatch.setattr(replay, "_prepared", {})
    monkeypatch.setattr(replay, "_known", {})
    for module in (mqa_logits, dense_decode, fp8_decode, gather_decode, plan):
        monkeypatch.setattr(module, "loaded", found.loaded)
    for module in (mqa_logits, dense_decode, fp8_decode):
        monkeypatch.setattr(module, "tensor_map", lambda *_, **__: ctypes.create_string_buffer(128))
    monkeypatch.setattr(mqa_logits, "tensor_map_at", lambda *_: ctypes.create_string_buffer(128))
    for module in (mqa_logits, api, fp8_api):
        monkeypatch.setattr(module, "sms_of", lambda _: 4)
    return found


def _holds(launched: tuple[str, bytes], tensor: torch.Tensor) -> bool:
    return tensor.data_ptr().to_bytes(8, "little") in launched[1]


def test_only_equal_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_prepared", {})
    kernel, calls = _Kernel(_Driver(), "one"), []
    x, y = torch.zeros(4, 4), torch.zeros(4, 4)

    def run(kind: str, tensor: torch.Tensor, repeatable: bool) -> None:
        def first_time() -> bool:
            calls.append(kind)
            kernel.launch(driver.Launch((1, 1, 1), 32, 0), (), x.device)
            return repeatable

        replay.run(kind, (tensor,), first_time)

    for tensor in (x, x, y, x.t()):
        run("a", tensor, True)
    assert (len(calls), len(kernel.owner.launched)) == (3, 4)
    run("b", x, False)
    run("b", x, False)
    assert (len(calls), len(kernel.owner.launched)) == (5, 6), "a call that needed a tensor of its own is not repeated"


def test_repeated_logits_are_written_into_new_tensors(fake: _Driver) -> None:
    q, keys = (torch.zeros(*shape).to(torch.float8_e4m3fn) for shape in ((4, 16, 32), (30, 32)))
    scales, weights = torch.ones(30), torch.ones(4, 16)
    start, end = torch.zeros(4, dtype=torch.int32), torch.full((4,), 30, dtype=torch.int32)
    held = [deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end) for _ in range(3)]
    assert len({out.data_ptr() for out in held}) == 3
    assert all(out.shape == (4, 30) and out.stride() == (32, 1) for out in held)
    assert all(_holds(launched, out) for launched, out in zip(fake.launched, held, strict=True))
    assert fake.loads == 3
    shorter = deep_gemm.fp8_mqa_logits(q, (keys, scales), weights, start, end, max_seqlen_k=8)
    assert shorter.shape == (4, 8)
    with pytest.raises(InvalidInput, match=r"weights has shape \(4, 15\)"):
        deep_gemm.fp8_mqa_logits(q, (keys, scales), weights[:, :15], start, end)


def test_results_at_earlier_addresses_need_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_known", {})
    fake, x, places = _Driver(), torch.zeros(4), [torch.zeros(8) for _ in range(9)]
    order = [0, 1, 0, 1, *range(9), 8, 0]
    at = iter(order)
    checked = []

    def prepare() -> replay.Work:
        def launch(results: replay.Results) -> bool:
            checked.append(results[0])
            for name in ("first", "second"):
                _Kernel(fake, name).launch(
                    driver.Launch((1, 1, 1), 32, 0), (ctypes.c_uint64(results[0].data_ptr()),), x.device
                )
            return True

        return replay.Work(lambda: (places[next(at)],), launch)

    for count, place in enumerate(order, 1):
        assert replay.run_allocating("kind", (x,), prepare)[0] is places[place]
        assert [name for name, _ in fake.launched[-2:]] == ["first", "second"]
        assert all(_holds(launched, places[place]) for launched in fake.launched[-2:])
        assert len(fake.launched) == 2 * count
    wanted = [places[i] for i in (*range(9), 0)]
    assert all(a is b for a, b in zip(checked, wanted, strict=True)), "one look an address, until eight are known"


def test_repeated_decodes_launch_both_kernels_and_refuse_what_differs(fake: _Driver) -> None:
    q, cache = torch.zeros(2, 1, 1, 576).bfloat16(), torch.zeros(4, 64, 1, 576).bfloat16()
    table, lengths = torch.zeros(2, 2, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    meta, _ = flash_mla.get_mla_metadata()
    for _ in range(3):
        out, lse = flash_mla.flash_mla_with_kvcache(q, cache, table, lengths, 512, meta)
        decode, combine = fake.launched[-2:]
        assert (decode[0], combine[0]) == ("mla_dense_decode", "mla_combine")
        for launched in (decode, combine):
            assert all(_holds(launched, tensor) for tensor in (out, lse, meta.plan) if tensor is not None)
    assert [name for name, _ in fake.launched] == ["mla_plan", *["mla_dense_decode", "mla_combine"] * 3]
    assert (out.shape, lse.shape) == ((2, 1, 1, 512), (2, 1, 1))
    with pytest.raises(InvalidInput, match=r"call get_mla_metadata\(\) again"):
        flash_mla.flash_mla_with_kvcache(q.view(1, 2, 1, 576), cache, table[:1], lengths[:1], 512, meta)
    with pytest.raises(InvalidInput, match="head_dim_v is 256"):
        flash_mla.flash_mla_with_kvcache(q, cache, table, lengths, 256, meta)
    assert isinstance(meta, checks.FlashMLASchedMeta)


def test_a_fused_decode_is_one_launch(fake: _Driver) -> None:
    q, cache = torch.zeros(2, 1, 1, 576).bfloat16(), torch.zeros(4, 64, 1, 576).bfloat16()
    table, lengths = torch.zeros(2, 2, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    meta, _ = flash_mla.get_mla_metadata(fused_combine=True)
    for _ in range(3):
        flash_mla.flash_mla_with_kvcache(q, cache, table, lengths, 512, meta)
    assert [name for name, _ in fake.launched] == ["mla_plan", *["mla_dense_decode"] * 3]


@pytest.mark.parametrize("width", [644, 656])
@pytest.mark.parametrize("sink", [None, torch.zeros(16)])
def test_repeated_decodes_of_fp8_caches(fake: _Driver, width: int, sink: torch.Tensor | None) -> None:
    q, cache = torch.zeros(2, 1, 16, 576).bfloat16(), torch.zeros(4, 64, 1, width, dtype=torch.uint8)
    table, lengths = torch.zeros(2, 2, dtype=torch.int32), torch.ones(2, dtype=torch.int32)
    meta, _ = flash_mla.get_mla_metadata()
    for _ in range(3):
        call = partial(flash_mla.flash_mla_with_kvcache, is_fp8_kvcache=True, attn_sink=sink)
        out, lse = call(q, cache, table, lengths, 512, meta)
        assert all(_holds(launched, tensor) for launched in fake.launched[-2:] for tensor in (out, lse))
    entry = "mla_fp8_decode" if width == 644 else "mla_gather"
    assert [name for name, _ in fake.launched] == ["mla_plan", *[entry, "mla_combine"] * 3]
    loads, later = fake.loads, lengths + 1
    call(q, cache, table, later, 512, meta)
    assert _holds(fake.launched[-2], later)
    assert fake.loads == loads + 2, "other lengths are another call"
    with pytest.raises(InvalidInput, match="attn_sink has shape"):
        call(q, cache, table, lengths, 512, meta, attn_sink=torch.zeros(15))
    with pytest.raises(InvalidInput, match=r"call get_mla_metadata\(\) again"):
        call(q.view(2, 2, 8, 576), cache, table, lengths, 512, meta, attn_sink=None)


def test_repeated_sparse_calls(fake: _Driver) -> None:
    q, cache = torch.zeros(2, 3, 16, 576).bfloat16(), torch.zeros(4, 64, 1, 656, dtype=torch.uint8)
    indices, counts = torch.zeros(2, 3, 8, dtype=torch.int32), torch.tensor([8, 20, 1, 1, 1, 1], dtype=torch.int32)
    meta, _ = flash_mla.get_mla_metadata()
    for _ in range(2):
        out, lse = flash_mla.flash_mla_with_kvcache(
            q, cache, None, None, 512, meta, is_fp8_kvcache=True, indices=indices, topk_length=counts[:2]
        )
    assert meta.lengths is not None
    assert meta.lengths.tolist() == [8] * 6
    assert _holds(fake.launched[-2], meta.lengths)
    assert (out.shape, lse.shape) == ((2, 3, 16, 512), (2, 16, 3))
    kv, queries, lists = torch.zeros(9, 1, 576).bfloat16(), q.view(6, 16, 576), indices.view(6, 1, 8)
    for _ in range(2):
        out, top, lse = flash_mla.flash_mla_sparse_fwd(queries, kv, lists, 0.1, topk_length=counts)
        assert all(_holds(fake.launched[-1], tensor) for tensor in (out, top, lse, counts))
    flash_mla.flash_mla_sparse_fwd(queries, kv, lists, 0.1)
    assert not _holds(fake.launched[-1], counts)
    assert [name for name, _ in fake.launched] == ["mla_plan", *["mla_gather", "mla_combine"] * 2, *["mla_gather"] * 3]
    before = fake.loads
    empty = flash_mla.flash_mla_sparse_fwd(queries[:0], kv, lists[:0], 0.1)
    assert ([tensor.shape[0] for tensor in empty], fake.loads) == ([0, 0, 0], before)
    with pytest.raises(InvalidInput, match="sm_scale is 0"):
        flash_mla.flash_mla_sparse_fwd(queries, kv, lists, 0.0)


@pytest.mark.parametrize(("scaled", "floats"), [(True, 256), (False, 512)])
def test_partial_outputs_and_their_lse_share_one_allocation(scaled: bool, floats: int) -> None:
    shape = dense_decode.DecodeShape(batch=2, s_q=3, heads=4, kv_heads=2, page=64)
    results = dense_decode.Results.maker(shape, 5, torch.bfloat16, torch.device("cpu"), scaled)()
    rows = 5 * 2 * 6
    assert results.partial.shape == (rows * (4 + floats),)
    values, lse = results.partial_at(scaled)
    assert (values, lse) == (results.partial.data_ptr() + rows * 16, results.partial.data_ptr())
    assert (results.out.shape, results.lse.shape) == ((2, 3, 4, 512), (2, 4, 3))
