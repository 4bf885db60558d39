"""Data sets: what flows between nodes. Descriptors of rows, cheap to send; the rows stay in files or in a few bytes."""

from threefs.smallpond.logical.dataset.base import DataSet
from threefs.smallpond.logical.dataset.files import FileSet
from threefs.smallpond.logical.dataset.memory import ArrowTableDataSet, PandasDataSet
from threefs.smallpond.logical.dataset.merge import merge_datasets
from threefs.smallpond.logical.dataset.parquet import ParquetDataSet
from threefs.smallpond.logical.dataset.partitioned import PartitionedDataSet, ShuffledDataSet
from threefs.smallpond.logical.dataset.query import SqlQueryDataSet
from threefs.smallpond.logical.dataset.text import CsvDataSet, JsonDataSet

__all__ = [
    "ArrowTableDataSet",
    "CsvDataSet",
    "DataSet",
    "FileSet",
    "JsonDataSet",
    "PandasDataSet",
    "ParquetDataSet",
    "PartitionedDataSet",
    "ShuffledDataSet",
    "SqlQueryDataSet",
    "merge_datasets",
]
