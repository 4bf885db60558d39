"""Sinks: results become the user's files, all at once.

Every partition is staged in a hidden folder of the target's file system; one last task moves the staged files to where
readers look. A folder that did not exist, or is overwritten, appears by one rename; files appended to a folder appear
one by one, each whole. A run that fails removes its staging folder: nobody sees half of an output.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable, Sequence

from threefs.common.errors import Conflict
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.execution.operators.output import Result
from threefs.smallpond.execution.runtime_ctx import TaskContext
from threefs.smallpond.io import filesystem
from threefs.smallpond.io.arrow import ParquetOptions, write_parquet
from threefs.smallpond.logical.dataset import DataSet, FileSet, ParquetDataSet, PartitionedDataSet
from threefs.smallpond.logical.dataset.partitioned import UnionDataSet
from threefs.smallpond.logical.node import DataSinkNode

MANIFEST = ".MANIFEST.txt"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


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


def remove_staging(node: DataSinkNode, run_id: str) -> None:
    filesystem.remove_path(staging_folder(node, run_id))


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
        filesystem.make_directory(node.sink_path)
        _write_manifest(node, staged)
        return FileSet(staged), None
    staging = staging_folder(node, context.run_id)
    if _swaps(node):
        check_target(node)
        final = _swap_in(node, staging, staged)
    else:
        final = _move_in(node, staging, staged)
    _write_manifest(node, final)
    filesystem.remove_path(staging)
    return FileSet(final), None


def _swap_in(node: DataSinkNode, staging: str, staged: list[str]) -> list[str]:
    """The staging folder takes the target's place: readers see the old folder or the new one."""
    target = node.sink_path.rstrip("/")
    if os.path.isdir(target):
        if not _exchange(staging, target):
            old = f"{staging}.old"
            os.rename(target, old)
            os.rename(staging, target)
            os.rename(old, staging)
        shutil.rmtree(staging, ignore_errors=True)
    else:
        os.rename(staging, target)
    return [target + path[len(staging) :] for path in staged]


def _exchange(first: str, second: str) -> bool:
    """Swap two folders atomically; False where the file system or the C library cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, first.encode(), _AT_FDCWD, second.encode(), _RENAME_EXCHANGE) == 0)


def _move_in(node: DataSinkNode, staging: str, staged: list[str]) -> list[str]:
    """Files one by one; with "overwrite" those that were there go when the new ones are in."""
    target = node.sink_path.rstrip("/")
    before = _visible_files(target) if node.mode == "overwrite" else []
    final = []
    for path in staged:
        place = _free_name(target + path[len(staging) :])
        filesystem.make_directory(place.rpartition("/")[0])
        filesystem.rename(path, place)
        final.append(place)
    for path in before:
        filesystem.remove_path(path)
    return final


def _free_name(path: str) -> str:
    """`stem.1.parquet` beside `stem.parquet`, and so on."""
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.partition(".")
    number = 0
    while filesystem.exists(path):
        number += 1
        path = f"{folder}/{stem}.{number}{dot}{suffix}"
    return path


def _visible_files(path: str) -> list[str]:
    if not filesystem.is_directory(path):
        return []
    return filesystem.resolve_paths([path], recursive=True)


def _write_manifest(node: DataSinkNode, files: Sequence[str]) -> None:
    """One path a line; hidden, so that readers of the folder pass it by."""
    if filesystem.protocol_of(node.sink_path):
        with filesystem.open_file(f"{node.sink_path.rstrip('/')}/{MANIFEST}", "wb") as file:
            file.write("".join(f"{path}\n" for path in files).encode())
    else:
        filesystem.write_text_atomically(os.path.join(node.sink_path, MANIFEST), "".join(f"{path}\n" for path in files))
