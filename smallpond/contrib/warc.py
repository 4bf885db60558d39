"""Web archives (WARC): pages into parquet, and their words out of the HTML.

Records are read one after the other, compressed (`.gz`, `.zst`) or not; only responses count. One rule: a broken
archive fails the task with the place of the damage, it is never half imported.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from typing import IO, Any, ClassVar, NamedTuple
from urllib.parse import urlparse

import pyarrow as pa

from threefs.smallpond.common import MB
from threefs.smallpond.errors import QueryError
from threefs.smallpond.io.arrow import ParquetOptions, write_parquet
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import ArrowStreamNode, PythonScriptNode

BATCH_BYTES = 64 * MB  # of pages held before they are written
READ_BYTES = 1 * MB
_UNREAD = ("script", "style", "template", "noscript")
_WORD = re.compile(r"[^\W_]+")


class Page(NamedTuple):
    url: str
    domain: str
    date: str
    content: bytes


def read_pages(path: str) -> Iterator[Page]:
    """The responses of an archive, with their bodies as the server meant them."""
    with pa.input_stream(path, compression="detect") as raw, io.BufferedReader(raw, READ_BYTES) as stream:
        for headers, block in _records(stream, path):
            if headers.get("warc-type") == "response":
                url = headers.get("warc-target-uri", "").strip("<>")
                yield Page(url, urlparse(url).netloc, headers.get("warc-date", ""), _body(block))


def _records(stream: IO[bytes], path: str) -> Iterator[tuple[dict[str, str], bytes]]:
    number = 0
    while line := stream.readline():
        if not line.strip():
            continue  # two empty lines end a record
        headers = _headers(stream)
        length = headers.get("content-length", "")
        if not line.startswith(b"WARC/") or not length.isdigit():
            raise QueryError(
                f"{path} is no web archive, or damaged after record {number}: it goes on with {line[:40]!r}"
            )
        block = stream.read(int(length))
        if len(block) < int(length):
            raise QueryError(f"{path} ends in the middle of record {number}: {len(block)} of {length} bytes")
        number += 1
        yield headers, block


def _headers(stream: IO[bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode("utf-8", "replace").partition(":")
        found[name.strip().lower()] = value.strip()
    return found


def _body(block: bytes) -> bytes:
    """What is behind the head of an HTTP response, its transfer and content encodings undone."""
    head, _, body = block.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/"):
        return block
    lines = (line.decode("latin-1").partition(":") for line in head.split(b"\r\n")[1:])
    headers = {name.strip().lower(): value.strip().lower() for name, _, value in lines}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    if headers.get("content-encoding") in ("gzip", "deflate"):
        body = _inflated(body)
    return body


def _unchunked(body: bytes) -> bytes:
    """Archives often keep the header of an encoding that they have undone already: then the body is as it is."""
    parts, rest = [], body
    while rest:
        size, separator, rest = rest.partition(b"\r\n")
        try:
            length = int(size.split(b";")[0], 16)
        except ValueError:
            return body
        if not separator or len(rest) < length:
            return body
        if length == 0:
            break
        parts.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(parts)


def _inflated(body: bytes) -> bytes:
    try:
        return zlib.decompress(body, wbits=zlib.MAX_WBITS | 32)
    except zlib.error:
        return body


class ImportWarcFiles(PythonScriptNode):
    """Archives (a data set of files) into parquet files with url, domain, date, content."""

    schema: ClassVar[pa.Schema] = pa.schema(
        [("url", pa.string()), ("domain", pa.string()), ("date", pa.string()), ("content", pa.binary())]
    )

    def process(self, runtime_ctx: Any, input_datasets: list[DataSet], output_path: str) -> bool:
        paths = [path for dataset in input_datasets for path in dataset.resolved_paths]
        for number, path in enumerate(paths):
            name = os.path.basename(path).partition(".warc")[0]
            target = os.path.join(output_path, f"data{number}-{name}.parquet")
            write_parquet(_tables(read_pages(path), self.schema), self.schema, target, ParquetOptions())
        return True


def _tables(pages: Iterable[Page], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[Mapping[str, Any]] = []
    size = 0
    for page in pages:
        held.append(page._asdict())
        size += len(page.content)
        if size >= BATCH_BYTES:
            yield pa.Table.from_pylist(held, schema)
            held, size = [], 0
    yield pa.Table.from_pylist(held, schema)


class ExtractHtmlBody(ArrowStreamNode):
    """The lower-case words of each page: url, domain, date, tokens."""

    schema: ClassVar[pa.Schema] = pa.schema(
        [("url", pa.string()), ("domain", pa.string()), ("date", pa.string()), ("tokens", pa.list_(pa.string()))]
    )

    def extract_tokens(self, content: bytes) -> list[str]:
        reader = _Text()
        reader.feed(content.decode("utf-8", "replace"))
        reader.close()
        return _WORD.findall(" ".join(reader.pieces).lower())

    def process(self, runtime_ctx: Any, input_readers: list[pa.RecordBatchReader]) -> Iterable[pa.Table]:
        for batch in input_readers[0]:
            columns = [batch.column(name) for name in ("url", "domain", "date")]
            words = [self.extract_tokens(content.as_py() or b"") for content in batch.column("content")]
            yield pa.Table.from_arrays([*columns, pa.array(words, pa.list_(pa.string()))], schema=self.schema)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in _UNREAD

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in _UNREAD and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)
