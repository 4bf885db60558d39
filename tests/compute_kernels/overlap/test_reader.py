"""Traces of any layout and any size, and files that are none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.overlap.synthetic import GEMM, kernel, write

from threefs.compute_kernels.overlap import TraceError, load_trace, reader
from threefs.compute_kernels.overlap.reader import EventReader

pytestmark = pytest.mark.unit

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(alphabet='ab"\\{}[],: \n', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"\\k}', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
events = st.lists(st.dictionaries(st.sampled_from(["name", "args", "cat"]), json_values, min_size=1), max_size=12)


@settings(max_examples=60)
@given(
    listed=events,
    piece=st.sampled_from([7, 64, 1 << 20]),
    indent=st.sampled_from([None, 2]),
    form=st.sampled_from(["object", "array", "gzip"]),
)
def test_every_event_comes_out_whole(
    listed: list[dict[str, Any]], piece: int, indent: int | None, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / "trace"
    whole = listed if form == "array" else {"head": ["}", '"'], "traceEvents": listed, "tail": {"a": [1]}}
    text = json.dumps(whole, indent=indent).encode()
    path.write_bytes(gzip.compress(text) if form == "gzip" else text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "PIECE_BYTES", piece)
        source = EventReader(path)
        found = [event for batch in source for event in json.loads(batch)]
    assert found == listed
    assert not source.is_truncated
    if form != "array":
        assert json.loads(source.metadata_json) == {"head": ["}", '"'], "traceEvents": [], "tail": {"a": [1]}}


def test_a_file_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [kernel(GEMM, 10 * n, 5) for n in range(50)])
    path.write_text(path.read_text()[:-500])
    trace = load_trace(path)
    assert trace.is_truncated
    assert 40 < len(trace.kernels) < 50


def test_times_keep_their_nanoseconds_on_an_old_clock(tmp_path: Path) -> None:
    start = 4_524_739_490_196.254
    trace = load_trace(write(tmp_path / "t.json", [kernel(GEMM, start, 30000.528)]))
    assert trace.kernels.end[0] - trace.kernels.start[0] == 30_000_528
    assert abs(int(trace.kernels.start[0]) - 4_524_739_490_196_254) <= 1


def test_foreign_fields_do_not_matter(tmp_path: Path) -> None:
    odd = {**kernel(GEMM, 0, 5), "args": {"stream": "default", "grid": "none"}, "pid": "GPU", "tid": "stream 7"}
    texts = {**kernel(GEMM, 10, 5), "ts": "10.5", "dur": "4"}
    old = {**kernel(GEMM, 20, 5), "cat": "Kernel"}
    trace = load_trace(write(tmp_path / "t.json", [odd, texts, old, {"ph": "i", "s": "g", "name": "mark"}]))
    assert trace.kernels.end.tolist() == [5000, 14500, 25000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"PK\x03\x04", "not JSON"),
        (b'{"events": []}', 'no "traceEvents"'),
        (b'{"traceEvents": []}', "0 events but none ran on a GPU; record with ProfilerActivity.CUDA"),
        (b'{"traceEvents": [{"ph": 7}]}', "Expected `str`"),
        (b"\x1f\x8bnot gzip at all", "cannot be read"),
    ],
)
def test_files_that_are_no_traces(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        load_trace(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent\.json: cannot be read"):
        load_trace(tmp_path / "absent.json")
