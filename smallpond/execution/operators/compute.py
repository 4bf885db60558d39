"""The user's Python on whole partitions."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from threefs.smallpond.errors import SMALLPOND_ERRORS, UserCodeError
from threefs.smallpond.execution.operators.output import Result, keep
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.dataset import DataSet, FileSet
from threefs.smallpond.logical.dataset.memory import table_from_pandas, table_from_polars
from threefs.smallpond.logical.node import ArrowComputeNode, BatchFormat, Node, PythonScriptNode


def run(node: ArrowComputeNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    tables = [item.to_arrow_table() for item in inputs if item is not None]
    with user_code(node, context):
        found = as_table(node.process(context, frames_of(tables, node.batch_format)), node)
    return keep(found.to_batches(), found.schema, context, node.parquet_options)


def run_script(node: PythonScriptNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    output = context.output_file(".files")
    os.makedirs(output, exist_ok=True)
    with user_code(node, context):
        done = node.process(context, [item for item in inputs if item is not None], output)
    if not done:
        filesystem.remove_path(output)
        raise UserCodeError(
            f"{node} (made at {node.location}) returned {done!r}: a script returns True when it succeeded"
        )
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(output) for name in names)
    return FileSet(files), None


def frames_of(tables: list[pa.Table], batch_format: BatchFormat) -> list[Any]:
    """Tables as what a user's function works on."""
    if batch_format == "pandas":
        return [table.to_pandas() for table in tables]
    if batch_format == "polars":
        import polars

        return [polars.from_arrow(table) for table in tables]
    return tables


def as_table(value: Any, node: Node) -> pa.Table:
    """What a user's function may return for rows: an Arrow table or batch, a pandas or a polars frame."""
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if type(value).__module__.startswith("polars"):
        return table_from_polars(value)
    if hasattr(value, "__arrow_c_stream__"):
        return pa.table(value)
    if type(value).__module__.startswith("pandas"):
        return table_from_pandas(value)
    raise UserCodeError(f"{node} (made at {node.location}) returned {type(value).__name__}, not a table or a frame")


@contextmanager
def user_code(node: Node, context: TaskContext) -> Iterator[None]:
    """What the user's function raises, with the step and the line of the function that raised."""
    try:
        yield
    except SMALLPOND_ERRORS:
        raise
    except MemoryError:
        raise
    except Exception as exc:
        frames = traceback.extract_tb(exc.__traceback__)
        place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        raise UserCodeError(
            f"the function of {node} (made at {node.location}) raised {type(exc).__name__}{place}: {exc}"
        ) from exc
