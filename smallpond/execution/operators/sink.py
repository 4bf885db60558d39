"""Sinks: results become the user's files, all at once.

Every partition is staged in a hidden folder of the target's file system; one last task (`commit`) moves the staged
files to where readers look. A folder that did not exist, or is overwritten, appears by one rename; files appended to a
folder appear one by one, each whole. A run that fails takes back what it moved: nobody sees half of an output.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from threefs.common.errors import Conflict
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.execution.operators import commit
from threefs.smallpond.execution.operators.output import Result
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.io import filesystem
from threefs.smallpond.io.arrow import ParquetOptions, write_parquet
from threefs.smallpond.logical.dataset import DataSet, FileSet, ParquetDataSet, PartitionedDataSet
from threefs.smallpond.logical.dataset.partitioned import UnionDataSet
from threefs.smallpond.logical.node import DataSinkNode


def run(node: DataSinkNode, role: str, context: TaskContext, inputs: Sequence[DataSet | None]) -> Result:
    present = [item for item in inputs if item is not None]
    return _commit(node, context, present) if role == "commit" else _stage(node, context, present)


def check_target(node: DataSinkNode) -> None:
    """Refuse before any work is done what the commit would refuse after it."""
    path = node.sink_path
    if filesystem.exists(path) and not filesystem.is_directory(path):
        raise Conflict(f"{path} is a file: a result is written as a folder of files")
    if node.mode == "error" and _visible_files(path):
        raise Conflict(f"{path} has files already: choose mode='overwrite' or mode='append', or another path")


def staging_folder(node: DataSinkNode, run_id: str) -> str:
    """Beside the target when it is to appear at once, else within it (it may be the root of a mount)."""
    path = node.sink_path.rstrip("/")
    parent, _, name = path.rpartition("/")
    if _swaps(node) and parent:
        return f"{parent}/.{name}.staging-{run_id}"
    return f"{path}/.staging-{run_id}"


def end_run(node: DataSinkNode, run_id: str, failed: bool) -> None:
    """Nothing stays of a run but its output; nothing at all of one that failed."""
    staging = staging_folder(node, run_id)
    if failed:
        commit.roll_back(node, staging)
    commit.clean_up(node, staging)


def _swaps(node: DataSinkNode) -> bool:
    path = node.sink_path
    if node.type == "manifest" or filesystem.protocol_of(path):
        return False
    return node.mode in ("overwrite", "error") and not os.path.ismount(path)


# ---- staging ----


def _stage(node: DataSinkNode, context: TaskContext, inputs: Sequence[DataSet]) -> Result:
    if not inputs:
        return FileSet([]), 0
    (source,) = inputs
    if node.type == "manifest":
        folder = os.path.join(context.output_root, f"{os.path.basename(node.sink_path)}-{context.run_id}")
    else:
        folder = staging_folder(node, context.run_id)
    filesystem.make_directory(folder)
    if node.partition_by or node.format != "parquet":
        return FileSet(list(_write_with_duckdb(node, context, source, folder))), None
    return FileSet(list(_stage_parquet(node, context, source, folder))), None


def _stage_parquet(node: DataSinkNode, context: TaskContext, source: DataSet, folder: str) -> Iterable[str]:
    stem = f"{folder}/part-{context.task_index:05d}"
    if isinstance(source, FileSet):
        for number, path in enumerate(source.resolved_paths):
            yield _take_file(node, path, f"{stem}-{number}-{os.path.basename(path)}")
        return
    parts = _flat(source)
    for number, part in enumerate(parts):
        target = f"{stem}.parquet" if len(parts) == 1 else f"{stem}-{number}.parquet"
        if isinstance(part, ParquetDataSet) and part.single_whole_file:
            yield _take_file(node, part.single_whole_file, target)
            continue
        reader = part.to_batch_reader()
        options = ParquetOptions(**node.options) if node.options else ParquetOptions()  # type: ignore[arg-type]
        write_parquet(reader, reader.schema, target, options, context.metadata())
        yield target


def _flat(source: DataSet) -> list[DataSet]:
    """Whole files one by one, so that they can be linked; everything else as it is."""
    if isinstance(source, PartitionedDataSet):
        return [part for item in source.datasets for part in _flat(item)]
    if isinstance(source, UnionDataSet):
        return [part for item in source.parts for part in _flat(item)]
    if isinstance(source, ParquetDataSet):
        return list(source.by_file())
    return [source]


def _take_file(node: DataSinkNode, path: str, target: str) -> str:
    filesystem.remove_path(target)  # of an attempt that failed half-way
    if node.type == "copy":
        filesystem.copy_file(path, target)
    else:
        filesystem.link_or_copy(path, target)
    return target


def _write_with_duckdb(node: DataSinkNode, context: TaskContext, source: DataSet, folder: str) -> Iterable[str]:
    """Text formats, and folders by key."""
    suffix = {"parquet": "parquet", "csv": "csv", "json": "jsonl"}[node.format]
    name = f"part-{context.task_index:05d}"
    target = f"{folder}/{name}" if node.partition_by else f"{folder}/{name}.{suffix}"
    options = [f"FORMAT {node.format}", *_copy_options(node)]
    if node.partition_by:
        keys = ", ".join(map(engine.quote_name, node.partition_by))
        options += [
            f"PARTITION_BY ({keys})",
            f"FILENAME_PATTERN {engine.quote(name + '-{i}')}",
            "OVERWRITE_OR_IGNORE true",
        ]
        target = folder
    settings = engine.EngineSettings(context.cpu_limit, int(context.memory_limit * 0.9), f"{context.temp_root}/sink")
    with engine.session(settings) as connection:
        engine.register_filesystem_of(connection, folder)
        source.create_view(connection, "__rows")
        text = f"COPY (SELECT * FROM __rows) TO {engine.quote(target)} ({', '.join(options)})"
        try:
            with engine.errors_of(text, f"writing {node.sink_path}"):
                engine.do(connection, text)
        finally:
            source.drop_view(connection, "__rows")
    if not node.partition_by:
        return [target]
    found = filesystem.resolve_paths([folder], recursive=True) if filesystem.exists(folder) else []
    return [path for path in found if os.path.basename(path).startswith(f"{name}-")]


def _copy_options(node: DataSinkNode) -> list[str]:
    found = {"compression": "zstd", "compression_level": 1} if node.format == "parquet" else {"header": True}
    if node.format == "json":
        found = {}
    found = {**found, **node.options}
    return [f"{name.upper()} {engine.quote(v) if isinstance(v, str) else str(v).lower()}" for name, v in found.items()]


# ---- commit ----


def _commit(node: DataSinkNode, context: TaskContext, inputs: Sequence[DataSet]) -> Result:
    staged = [path for item in inputs for path in item.resolved_paths]
    if node.type == "manifest":
        commit.list_only(node, staged)
        return FileSet(staged), None
    staging = staging_folder(node, context.run_id)
    if _swaps(node):
        if not commit.has_swapped(node, staging):
            check_target(node)
        return FileSet(commit.swap_in(node, staging, staged)), None
    old = _visible_files(node.sink_path) if node.mode == "overwrite" else []
    return FileSet(commit.move_in(node, staging, staged, old)), None


def _visible_files(path: str) -> list[str]:
    if not filesystem.is_directory(path):
        return []
    return filesystem.resolve_paths([path], recursive=True)
