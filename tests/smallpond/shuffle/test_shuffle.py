"""Every row arrives once, in its partition, in its order, as it was; and what cannot be done is said."""

import os
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from threefs.common.errors import Corrupt, UserError
from threefs.smallpond.shuffle import (
    GivenPartitioner,
    HashPartitioner,
    Partitioner,
    RandomPartitioner,
    RangePartitioner,
    ShuffleFile,
    partition_reader,
    partition_rows,
    read_partition,
    write_shuffle,
)
from threefs.smallpond.shuffle import write as writing
from threefs.smallpond.shuffle.write import Compression

pytestmark = pytest.mark.unit
ROWS = 5000


def table_of_all_kinds(rows: int = ROWS) -> pa.Table:
    random = np.random.default_rng(5)
    number = np.arange(rows)
    text = [None if at % 11 == 0 else "x" * (at % 23) + str(at) for at in number.tolist()]
    return pa.table(
        {
            "row": number,
            "key": random.integers(0, 500, rows),
            "small": pa.array(number % 100, pa.int8()),
            "short": pa.array(number % 1000, pa.uint16()),
            "float": pa.array(random.random(rows), pa.float32()),
            "nulls": pa.array([None if at % 5 == 0 else at for at in number.tolist()]),
            "flag": pa.array([None if at % 13 == 0 else at % 2 == 0 for at in number.tolist()]),
            "text": pa.array(text),
            "large": pa.array(text, pa.large_string()),
            "view": pa.array(text, pa.string_view()),
            "bytes": pa.array(text).cast(pa.binary()),
            "fixed": pa.array([b"%07d" % at for at in number.tolist()], pa.binary(7)),
            "decimal": pa.array(number).cast(pa.decimal128(21, 2)),
            "date": pa.array(number % 1000, pa.int32()).cast(pa.date32()),
            "time": pa.array(number).cast(pa.timestamp("us", "UTC")),
            "word": pa.array([f"word {at % 3}" for at in number.tolist()]).dictionary_encode(),
            "list": pa.array([[at] * (at % 3) for at in number.tolist()]),
            "struct": pa.array([{"a": at, "b": str(at)} for at in number.tolist()]),
            "nothing": pa.nulls(rows),
        }
    )


def plain(table: pa.Table) -> pa.Table:
    """What the file's types make of a table."""
    word, view = table.schema.get_field_index("word"), table.schema.get_field_index("view")
    table = table.set_column(word, "word", table["word"].cast(pa.string()))
    return table.set_column(view, "view", table["view"].cast(pa.string()))


def sources(table: pa.Table, producers: int) -> list[pa.RecordBatchReader]:
    size = -(-table.num_rows // producers)
    return [table.slice(start, size).to_reader(700) for start in range(0, table.num_rows, size)]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("memory_bytes", [1 << 30, 400_000])
def test_every_row_arrives_once_and_in_order(tmp_path: Path, compression: Compression, memory_bytes: int) -> None:
    table = table_of_all_kinds()
    by = HashPartitioner(["key", "word"], 7)
    files = [
        write_shuffle(
            source, tmp_path / str(number), by, compression=compression, memory_bytes=memory_bytes, threads=number + 1
        )
        for number, source in enumerate(sources(table, 3))
    ]
    assert (max(file.rounds for file in files) > 1) is (memory_bytes < 1 << 20)
    parts = [read_partition(files, partition) for partition in range(7)]
    owners = by.owners(table.combine_chunks().to_batches()[0], 0)
    for partition, part in enumerate(parts):
        part.validate(full=True)
        assert part.equals(plain(table).filter(pa.array(owners == partition)))
    assert list(partition_rows(files)) == [part.num_rows for part in parts]


def test_pieces_of_large_batches_and_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PIECE_ROWS", 333)
    table = table_of_all_kinds().slice(17, 4001)
    file = write_shuffle(table.to_reader(), tmp_path / "f", HashPartitioner(["row"], 3), threads=2)
    found = pa.concat_tables(read_partition([file], partition) for partition in range(3))
    assert found.sort_by("row").equals(plain(table).combine_chunks())


def test_engines_read_it_without_a_copy(tmp_path: Path) -> None:
    table = table_of_all_kinds().select(["row", "key", "text"])
    file = write_shuffle(table.to_reader(), tmp_path / "f", HashPartitioner(["key"], 4))
    part = read_partition([file], 2)
    before = pa.total_allocated_bytes()
    again = read_partition([file], 2)
    assert pa.total_allocated_bytes() - before < again.nbytes / 10
    expected = (part.num_rows, part["row"].to_numpy().sum())
    assert duckdb.sql("select count(*), sum(row) from part").fetchall() == [expected]
    assert pl.from_arrow(part).select(pl.len(), pl.sum("row")).row(0) == expected  # type: ignore[union-attr]


def test_any_arrow_reader_reads_the_whole_file(tmp_path: Path) -> None:
    table = table_of_all_kinds()
    write_shuffle(table.to_reader(), tmp_path / "f", HashPartitioner(["key"], 4))
    assert pa.ipc.open_stream(tmp_path / "f").read_all().sort_by("row").equals(plain(table).combine_chunks())


def test_descriptors_do_not_grow_with_partitions(tmp_path: Path) -> None:
    table = pa.table({"p": range(3000)})
    file = write_shuffle(table.to_reader(), tmp_path / "f", GivenPartitioner("p", 3000))
    assert len(repr(file)) < 300
    for partition in (0, 1500, 2999):
        assert read_partition([file], partition)["p"].to_pylist() == [partition]


def test_empty_inputs_keep_their_schema(tmp_path: Path) -> None:
    table = table_of_all_kinds()
    file = write_shuffle(table.slice(0, 0).to_reader(), tmp_path / "f", HashPartitioner(["key"], 3))
    assert file.rows == 0
    assert read_partition([file], 2).equals(plain(table).slice(0, 0))
    assert read_partition([file, file], 0).num_rows == 0


def test_given_partitions_without_their_column(tmp_path: Path) -> None:
    table = pa.table({"p": [1, 0, 3, 1], "v": [10, 11, 12, 13]})
    file = write_shuffle(table.to_reader(), tmp_path / "f", GivenPartitioner("p", 4), drop=["p"])
    assert [read_partition([file], p).to_pylist() for p in range(4)] == [
        [{"v": 11}],
        [{"v": 10}, {"v": 13}],
        [],
        [{"v": 12}],
    ]


@pytest.mark.parametrize(("values", "points"), [
    (pa.array([5, None, 1, 9, 3, 5, -4]), pa.array([3, 5])),
    (pa.array(["m", None, "a", "z", "c", "m", ""]), pa.array(["c", "m"])),
    (pa.array([5.0, None, 1, float("nan"), 3, 5, -4]), pa.array([3.0, 5.0])),
    (pa.array([5, None, 1, 9, 3, 5, -4]).cast(pa.decimal128(21, 2)), pa.array([3, 5])),
    (pa.array([5, None, 1, 9, 3, 5, -4], pa.timestamp("s")), pa.array([3, 5], pa.timestamp("s"))),
])  # fmt: skip
def test_ranges(values: pa.Array, points: pa.Array) -> None:
    batch = pa.RecordBatch.from_arrays([values], ["v"])
    assert list(RangePartitioner("v", points).owners(batch, 0)) == [2, 2, 0, 2, 1, 2, 0]
    assert list(RangePartitioner("v", points, nulls="first").owners(batch, 0)) == [2, 0, 0, 2, 1, 2, 0]
    assert list(RangePartitioner("v", points, descending=True).owners(batch, 0)) == [0, 2, 2, 0, 1, 0, 2]


def test_random_places_are_spread_and_repeatable(tmp_path: Path) -> None:
    table = pa.table({"v": range(20_000)})
    files = [write_shuffle(table.to_reader(), tmp_path / str(n), RandomPartitioner(4, seed=3)) for n in range(2)]
    rows = partition_rows(files[:1])
    assert np.abs(rows - 5000.0).max() < 300
    assert read_partition(files[:1], 1).equals(read_partition(files[1:], 1))


def _failing(rows: int) -> pa.RecordBatchReader:
    def batches():  # type: ignore[no-untyped-def]
        yield from pa.table({"k": range(rows)}).to_batches()
        raise RuntimeError("the source broke")

    return pa.RecordBatchReader.from_batches(pa.schema({"k": pa.int64()}), batches())


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the source broke"):
        write_shuffle(_failing(1000), tmp_path / "f", HashPartitioner(["k"], 2), memory_bytes=1000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (HashPartitioner(["absent"], 2), "no column 'absent'"),
        (GivenPartitioner("row", 100), "partition key 4999 is out of range 0-99"),
        (GivenPartitioner("nulls", 9000), "is null in 1000 rows"),
        (GivenPartitioner("text", 100), "has type string"),
        (RangePartitioner("row", pa.array(["a"])), "do not fit column row"),
        (RangePartitioner("list", pa.array([[1]])), "has no ranges"),
    ],
)
def test_wrong_partitions_are_named(tmp_path: Path, by: Partitioner, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_shuffle(table_of_all_kinds().to_reader(), tmp_path / "f", by)
    assert os.listdir(tmp_path) == []


def test_other_wrong_arguments(tmp_path: Path) -> None:
    source = pa.table({"k": [1]}).to_reader()
    with pytest.raises(UserError, match="0 partitions"):
        HashPartitioner(["k"], 0)
    with pytest.raises(UserError, match="at least one column"):
        HashPartitioner([], 2)
    with pytest.raises(UserError, match="must not be null"):
        RangePartitioner("k", pa.array([1, None]))
    with pytest.raises(UserError, match="unknown compression 'gzip'"):
        write_shuffle(source, tmp_path / "f", HashPartitioner(["k"], 2), compression="gzip")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no column 'z' to drop"):
        write_shuffle(source, tmp_path / "f", HashPartitioner(["k"], 2), drop=["z"])
    with pytest.raises(UserError, match="no files"):
        partition_reader([], 0)


def _written(path: Path, table: pa.Table) -> ShuffleFile:
    return write_shuffle(table.to_reader(), path, HashPartitioner(["k"], 2))


def test_files_of_different_columns_do_not_mix(tmp_path: Path) -> None:
    one = _written(tmp_path / "a", pa.table({"k": range(10)}))
    other = _written(tmp_path / "b", pa.table({"k": range(10), "v": range(10)}))
    with pytest.raises(UserError, match="has other columns than"):
        read_partition([one, other], 0)


def test_a_cut_file_is_noticed(tmp_path: Path) -> None:
    file = _written(tmp_path / "a", pa.table({"k": range(1000)}))
    os.truncate(file.path, file.index_offset + 10)
    with pytest.raises(Corrupt, match="ends within its index"):
        read_partition([file], 1)
