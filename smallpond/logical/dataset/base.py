"""What every data set can do: count, read, appear in SQL, be merged and be dealt out.

A data set is a description; it holds no open file and travels to workers as a small pickle. One rule: `fingerprint`
changes whenever the rows may have changed, because results are reused by it.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from threefs.common.errors import Unsupported
from threefs.smallpond.common import DEFAULT_BATCH_SIZE, split_evenly
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.io import filesystem

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


class DataSet(ABC):
    """Base of all data sets. `columns` narrows what is read; None means all."""

    columns: list[str] | None = None

    @property
    @abstractmethod
    def num_rows(self) -> int: ...

    @property
    def empty(self) -> bool:
        return self.num_rows == 0

    @property
    def has_no_columns(self) -> bool:
        """What a function without a row to see leaves: not even its columns are known."""
        return False

    @property
    def paths(self) -> list[str]:
        """The paths as they were given: files, folders or patterns."""
        return []

    @property
    def resolved_paths(self) -> list[str]:
        """The files behind the rows, sorted."""
        return []

    @property
    def absolute_paths(self) -> list[str]:
        """The paths as given, each with the folder that it is in."""
        return self.paths

    @property
    def num_files(self) -> int:
        return len(self.resolved_paths)

    @property
    def estimated_bytes(self) -> int:
        """Roughly what the rows take in memory; for planning only."""
        return sum(filesystem.file_info(path).size for path in self.resolved_paths) * 3

    @abstractmethod
    def fingerprint(self) -> str:
        """Content address: equal fingerprints mean equal rows."""

    @abstractmethod
    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        """SQL that selects the rows (`select …`)."""

    def create_view(self, conn: engine.Connection, name: str) -> None:
        """Make the rows known to a connection under `name`."""
        for path in self.resolved_paths[:1]:
            engine.register_filesystem_of(conn, path)
        text = f"CREATE OR REPLACE TEMP VIEW {engine.quote_name(name)} AS {self.sql_query_fragment(conn=conn)}"
        with engine.errors_of(text, f"reading {self}"):
            engine.do(conn, text)

    def drop_view(self, conn: engine.Connection, name: str) -> None:
        engine.do(conn, f"DROP VIEW IF EXISTS {engine.quote_name(name)}")

    def to_arrow_table(
        self, max_workers: int = 16, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.Table:
        return self.to_batch_reader(conn=conn).read_all()

    def to_batch_reader(
        self, batch_size: int = DEFAULT_BATCH_SIZE, filesystem: object = None, conn: engine.Connection | None = None
    ) -> pa.RecordBatchReader:
        """The rows in batches of at most `batch_size`. Without a connection of its own the caller reads to the end."""
        with engine.scratch() as scratch:
            connection = conn or scratch
            self.create_view(connection, "__rows")
            try:
                with engine.errors_of("", f"reading {self}"):
                    table = connection.sql("SELECT * FROM __rows").to_arrow_table()
            finally:
                self.drop_view(connection, "__rows")
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=batch_size))

    @staticmethod
    def merge(datasets: Sequence[DataSet]) -> DataSet:
        """One data set with the rows of all, in order."""
        merging = importlib.import_module(
            "threefs.smallpond.logical.dataset.merge"
        )  # it knows all kinds, none knows it
        found: DataSet = merging.merge_datasets(datasets)
        return found

    def log(self, num_rows: int = 200) -> None:
        """The first rows, for the log."""
        logger.info("%s: %d rows\n%s", self, self.num_rows, self.to_arrow_table().slice(0, num_rows).to_string())

    def to_pandas(self) -> pd.DataFrame:
        frame: pd.DataFrame = self.to_arrow_table().to_pandas()
        return frame

    def schema(self) -> pa.Schema:
        """Names and Arrow types of the columns, without reading the rows."""
        with engine.scratch() as connection:
            self.create_view(connection, "__rows")
            try:
                found: pa.Schema = connection.sql("SELECT * FROM __rows LIMIT 0").to_arrow_table().schema
            finally:
                self.drop_view(connection, "__rows")
        return found

    def select_columns(self, columns: Sequence[str]) -> DataSet:
        """The same rows with only these columns read. Readers that cannot narrow return themselves."""
        return self

    def partition_by_files(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        raise Unsupported(f"{type(self).__name__} has no files to deal out")

    def partition_by_rows(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        raise Unsupported(f"{type(self).__name__} cannot be split by rows: only parquet files and tables in memory can")

    kind: ClassVar[str] = "data"

    def __str__(self) -> str:
        paths = self.paths
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        return f"{self.kind} {', '.join(paths[:3])}{more}" if paths else self.kind

    __repr__ = __str__


class FilesDataSet(DataSet):
    """Base of data sets whose rows are in files: resolves paths once, deals out whole files."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        paths: str | Iterable[str],
        root_dir: str | None = "",
        recursive: bool = False,
        columns: list[str] | None = None,
        union_by_name: bool = False,
    ) -> None:
        given = [paths] if isinstance(paths, str) else [str(path) for path in paths]
        self._paths = [_joined(root_dir or "", path) for path in given]
        self.recursive = recursive
        self.columns = list(columns) if columns is not None else None
        self.union_by_name = union_by_name
        self._resolved: list[str] | None = None

    @property
    def paths(self) -> list[str]:
        return self._paths

    @property
    def resolved_paths(self) -> list[str]:
        if self._resolved is None:
            self._resolved = filesystem.resolve_paths(self._paths, recursive=self.recursive, suffixes=self.suffixes)
        return self._resolved

    def fingerprint(self) -> str:
        infos = [filesystem.file_info(path) for path in self.resolved_paths]
        return digest(type(self).__name__, self._reading(), [(info.path, info.size, info.version) for info in infos])

    def _reading(self) -> object:
        """What else decides the rows: subclasses add their options."""
        return (self.columns, self.union_by_name)

    def with_paths(self, paths: Sequence[str]) -> FilesDataSet:
        """The same options over other files, which are known to exist."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._paths = list(paths)
        twin._resolved = list(paths)
        return twin

    def partition_by_files(self, npartition: int, random_shuffle: bool = False) -> list[DataSet]:
        """Contiguous runs of the sorted (or shuffled) files; more parts than files leaves typed empty ones."""
        files = list(self.resolved_paths)
        if random_shuffle:
            random.Random(len(files)).shuffle(files)
        return [self._part(files[begin:end]) for begin, end in split_evenly(len(files), npartition)]

    def _part(self, files: list[str]) -> DataSet:
        return self.with_paths(files)


def _joined(root: str, path: str) -> str:
    if not root or path.startswith("/") or filesystem.protocol_of(path):
        return path
    return f"{root.rstrip('/')}/{path}"


def digest(*parts: Any) -> str:
    """A short content address of values whose `repr` says all about them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
