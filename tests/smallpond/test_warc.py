"""Web archives: pages of compressed and plain ones, encodings undone, words of HTML; damage is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from threefs.smallpond.contrib.warc import ExtractHtmlBody, ImportWarcFiles, read_pages
from threefs.smallpond.errors import QueryError
from threefs.smallpond.logical.dataset import FileSet
from threefs.smallpond.logical.node import Context

HTML = "<html><style>p{}</style><body>Déjà vu, <b>twice</b>!<script>no()</script></body></html>".encode()


def record(kind: str, url: str, block: bytes) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-31T00:00:00Z\r\n"
    return f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def response(body: bytes, *headers: str) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *(text.encode() for text in headers), b"", body])


CHUNKED = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
RECORDS = [
    record("warcinfo", "", b"software: none"),
    record("response", "http://a.example/1", response(HTML)),
    record("request", "http://a.example/1", b"GET / HTTP/1.1\r\n\r\n"),
    record("response", "https://b.example/2", response(CHUNKED, "Transfer-Encoding: chunked")),
    record("response", "https://c.example/3", response(gzip.compress(b"small"), "Content-Encoding: gzip")),
]
CONTENTS = [HTML, b"hello world", b"small"]


@pytest.mark.parametrize("kind", ["plain", "gz", "zst"])
def test_pages_of_an_archive(tmp_path: Path, kind: str) -> None:
    data = b"".join(gzip.compress(one) for one in RECORDS) if kind == "gz" else b"".join(RECORDS)
    path = tmp_path / ("pages.warc" if kind == "plain" else f"pages.warc.{kind}")
    path.write_bytes(pa.Codec("zstd").compress(data, asbytes=True) if kind == "zst" else data)
    pages = list(read_pages(str(path)))
    assert [page.content for page in pages] == CONTENTS
    assert [page.domain for page in pages] == ["a.example", "b.example", "c.example"]
    assert ImportWarcFiles(Context(), ()).process(None, [FileSet([str(path)])], str(tmp_path))
    table = pq.read_table(tmp_path / "data0-pages.parquet")
    assert table["content"].to_pylist() == CONTENTS
    (found,) = ExtractHtmlBody(Context(), ()).process(None, [table.to_reader()])
    assert found["tokens"].to_pylist() == [["déjà", "vu", "twice"], ["hello", "world"], ["small"]]


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.warc"
    path.write_bytes(b"".join(RECORDS)[:-40])
    with pytest.raises(QueryError, match=r"cut\.warc ends in the middle of record 4"):
        list(read_pages(str(path)))
    path.write_text("no archive at all\n\n")
    with pytest.raises(QueryError, match="no web archive"):
        list(read_pages(str(path)))
