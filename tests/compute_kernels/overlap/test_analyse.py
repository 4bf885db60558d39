"""The analyser's figures on traces with known answers: by hand, by a plain reckoning, and recorded on real GPUs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.overlap.synthetic import (
    DISPATCH,
    GEMM,
    annotation,
    kernel,
    launch,
    random_events,
    reckon,
    write,
)

from threefs.compute_kernels.overlap import Device, Rule, TraceError, analyse, find_bubbles, load_trace, select, what_if
from threefs.compute_kernels.overlap.compare import compare

pytestmark = pytest.mark.unit

DATA = Path(__file__).parent / "data"
EXACT = 1e-3


def by_hand() -> list[dict[str, Any]]:
    """0-100 GEMM; 50-150 dispatch; 200-260 GEMM launched late; 230-250 copy; 300-340 dispatch twice at once."""
    return [
        annotation("layer0.moe", 0, 60),
        annotation("layer1.moe", 180, 200),
        launch(1, -5),
        launch(2, 10),
        launch(3, 195),
        launch(4, 225),
        launch(5, 229),
        launch(6, 230),
        kernel(GEMM, 0, 100, correlation=1, grid=[264, 1, 1]),
        kernel(DISPATCH, 50, 100, 20, correlation=2, grid=[20, 1, 1]),
        kernel(GEMM, 200, 60, correlation=3, grid=[66, 1, 1]),
        {**kernel("Memcpy DtoD (Device -> Device)", 230, 20, correlation=4), "cat": "gpu_memcpy"},
        kernel(DISPATCH, 300, 40, 20, correlation=5, grid=[20, 1, 1]),
        kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(args)", 320, 20, 21, correlation=6, grid=[4, 1, 1]),
    ]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return analyse(load_trace(write(tmp_path / "t.json", by_hand())))


def test_totals(device: Device) -> None:
    assert (device.span, device.compute, device.communication, device.memory) == (340, 160, 140, 20)
    assert (device.overlap, device.exposed, device.busy) == (50, 90, 250)
    assert device.hidden_share == pytest.approx(50 / 140)


def test_idle_time_and_its_causes(device: Device) -> None:
    gaps = device.gaps
    assert (gaps.count, gaps.idle, gaps.launch_bound, gaps.waiting, gaps.unknown) == (2, 90, 50, 40, 0)
    assert [(gap.start, gap.length, gap.cause) for gap in gaps.longest] == [
        (150, 50, "launch-bound"),
        (260, 40, "waiting"),
    ]
    assert gaps.longest[0].before == "deep_ep::intranode::dispatch"
    assert gaps.longest[0].after == "cutlass::device_kernel"
    assert [row[1] for row in gaps.histogram] == [0, 0, 2, 0, 0]


def test_exposed_time_by_kernel_and_layer_adds_up(device: Device) -> None:
    rows = {(row.label, row.layer): row.exposed for row in device.exposed_by}
    assert rows == {("DeepEP", "layer0.moe"): 50, ("DeepEP", "layer1.moe"): 30, ("NCCL", "layer1.moe"): 10}
    assert sum(rows.values()) == device.exposed


def test_multiprocessors_come_from_the_grid(device: Device) -> None:
    sms = {row.label: row.sms for row in device.classes}
    assert sms["matrix product"] == (132 * 100 + 66 * 60) / 160
    assert sms["DeepEP"] == 20
    assert sms["copy"] is None


def test_kernel_table(tmp_path: Path) -> None:
    events = [kernel(GEMM, 10 * n, n % 5 + 1) for n in range(100)] + [kernel(DISPATCH, 2000, 700, 20)]
    rows = {row.label: row for row in analyse(load_trace(write(tmp_path / "t.json", events))).kernels}
    gemm = rows["matrix product"]
    assert (gemm.count, gemm.total, gemm.mean, gemm.p50, gemm.p99) == (100, 300, 3, 3, 5)
    assert gemm.share == pytest.approx(0.3)
    assert rows["DeepEP"].share == pytest.approx(0.7)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), count=st.integers(4, 200))
def test_random_traces_equal_a_plain_reckoning(seed: int, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    events = random_events(seed, count)
    device = analyse(load_trace(write(tmp_path_factory.mktemp("t") / "t.json.gz", events)))
    expected = reckon(events, lambda name: name == DISPATCH)
    for name in ("compute", "communication", "overlap", "exposed"):
        assert getattr(device, name) == pytest.approx(expected[name], rel=1e-9, abs=EXACT)
    assert device.gaps.idle == pytest.approx(expected["idle"], rel=1e-9, abs=EXACT)
    assert sum(row.exposed for row in device.exposed_by) == pytest.approx(device.exposed, abs=EXACT)


def test_the_recorded_two_stream_program_is_right_to_a_thousandth() -> None:
    """Built of kernels that spin for known times: see tests/benchmarks/gpu/two_streams.py."""
    device = analyse(load_trace(DATA / "two_streams.json.gz"))
    for value, milliseconds in (
        (device.compute, 95),
        (device.communication, 85),
        (device.overlap, 40),
        (device.exposed, 45),
        (device.busy, 140),
    ):
        assert value == pytest.approx(milliseconds * 1000, rel=1e-3)
    assert device.gaps.longest[0].cause == "launch-bound"
    assert 50_000 <= device.gaps.longest[0].length <= 52_000  # the host slept 50 ms
    assert {row.label: row.sms for row in device.classes} == {"matrix product": 108, "NVSHMEM": 24}


@pytest.mark.parametrize("rank", [0, 1])
def test_the_recorded_moe_example_equals_a_plain_reckoning(rank: int) -> None:
    path = DATA / f"moe_rank{rank}.json.gz"
    device = analyse(load_trace(path))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    expected = reckon(events, lambda name: name.startswith("nccl"))
    for name in ("compute", "communication", "memory", "overlap", "exposed"):
        assert getattr(device, name) == pytest.approx(expected[name], rel=1e-3)
    assert device.gaps.idle == pytest.approx(expected["idle"], rel=1e-3)
    assert device.rank == rank
    assert device.hidden_share is not None
    assert device.hidden_share > 0.5
    assert {row.layer.split(".")[0] for row in device.exposed_by} <= {"layer0", "layer1"}


def test_window_takes_what_was_launched_inside(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t.json", by_hand()))
    device = analyse(trace, window="^layer1")
    assert (device.start, device.span, device.compute) == (200, 140, 60)
    with pytest.raises(TraceError, match=r"no kernel belongs to an annotation like 'epoch'; there are \['layer0"):
        analyse(trace, window="epoch")


def test_users_rules_come_first_by_name_and_by_annotation(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t.json", by_hand()))
    by_name = analyse(trace, rules=[Rule("device_kernel", "communication", "mine")])
    assert by_name.compute == 0
    around = analyse(trace, rules=[Rule("layer1", "memory", "second layer", on="annotation")])
    assert {(row.label, row.count) for row in around.classes} == {
        ("matrix product", 1),
        ("DeepEP", 1),
        ("second layer", 4),
    }


def test_what_if_keeps_every_order(tmp_path: Path) -> None:
    events = [kernel(GEMM, 0, 100), kernel(DISPATCH, 20, 60, 20), kernel(GEMM, 130, 50), kernel(DISPATCH, 180, 40, 20)]
    work = select(load_trace(write(tmp_path / "t.json", events)))
    same = what_if(work, 1.0)
    assert (same.span, same.communication, same.overlap, same.exposed) == (220, 100, 60, 40)
    double = what_if(work, 2.0)  # the first now ends at 140, so what began 30 after 100 begins 30 after 140
    assert (double.span, double.communication, double.overlap, double.exposed) == (300, 200, 80, 120)
    none = what_if(work, 0.0)
    assert (none.span, none.exposed) == (180, 0)
    with pytest.raises(TraceError, match="must be 0 or more"):
        what_if(work, -1)


def test_bubbles_over_ranks_share_one_clock(tmp_path: Path) -> None:
    p2p, a2a = "ncclDevKernel_SendRecv(args)", {"Collective name": "all_to_allv"}
    first = [kernel(GEMM, 0, 100), kernel(p2p, 100, 100, 20), kernel(GEMM, 200, 100)]
    second = [kernel(p2p, 0, 90, 20), kernel(GEMM, 90, 110), kernel(p2p, 200, 20, 21, **a2a)]
    works = [
        select(
            load_trace(
                write(tmp_path / f"{rank}.json", events, baseTimeNanoseconds=base, distributedInfo={"rank": rank})
            )
        )
        for rank, (events, base) in enumerate(((first, 10**18), (second, 10**18 + 10_000)))
    ]
    bubbles = find_bubbles(works)
    assert bubbles.aligned
    assert bubbles.span == 300
    assert [(row.rank, row.busy, row.bubble) for row in bubbles.ranks] == [(0, 200, 100), (1, 130, 170)]


def test_comparison_lists_what_changed(tmp_path: Path) -> None:
    before = analyse(load_trace(write(tmp_path / "a.json", [kernel(GEMM, 0, 100), kernel(DISPATCH, 100, 50, 20)])))
    after = analyse(load_trace(write(tmp_path / "b.json", [kernel(GEMM, 0, 90), kernel("new_kernel", 90, 5)])))
    result = compare(before, after)
    assert {row.name: row.change for row in result.totals}["span"] == -55
    assert [(row.count_before, row.count_after, row.change) for row in result.kernels] == [
        (1, 0, -50),
        (1, 1, -10),
        (0, 1, 5),
    ]
