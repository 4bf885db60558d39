"""Sessions for tests: one for all tests of a module, so that its worker processes start once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import threefs.smallpond as smallpond
from threefs.smallpond.session import Session


@pytest.fixture(scope="module")
def sp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = smallpond.init(data_root=str(tmp_path_factory.mktemp("data")), progress=False)
    yield session
    session.shutdown()


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """Ten parquet files of 100 rows: id 0 … 999, k = id % 7, s = text."""
    folder = tmp_path / "numbers"
    folder.mkdir()
    for part in range(10):
        ids = list(range(part * 100, part * 100 + 100))
        table = pa.table({"id": ids, "k": [i % 7 for i in ids], "s": [f"text {i % 13}" for i in ids]})
        pq.write_table(table, folder / f"{part:02d}.parquet", row_group_size=30)
    return str(folder)
