"""The store of results: one folder a stage, named by its content address, shared by all jobs of a data root.

    results/<2 digits>/<stage key>/<prefix>.parquet, .shuffle     what tasks wrote
    results/<2 digits>/<stage key>/<unique>.done                  pickled {task: (data set, files with their sizes)}

A worker writes a `.done` record when it has finished a bundle of tasks; files without a record are leftovers that
nobody reads. So a result exists for everybody or for nobody, with no lock and no rename of data, and a run that is
killed loses only the tasks that were running. One rule: `load` returns only results whose files are all there in full.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from threefs.smallpond.logical.dataset import DataSet

KEEP_BYTES = 10 << 30  # of results kept at the end of a session, the most recently used ones
GRACE_SECONDS = 3600.0  # folders younger than this may belong to a job that runs now


@dataclass(frozen=True)
class StoredResult:
    dataset: DataSet
    rows: int | None
    files: tuple[tuple[str, int], ...]

    def complete(self) -> bool:
        for path, size in self.files:
            try:
                if os.stat(path).st_size != size:
                    return False
            except OSError:
                return False
        return True


class ResultStore:
    def __init__(self, root: str) -> None:
        self.root = root

    def folder(self, key: str) -> str:
        return os.path.join(self.root, key[:2], key)

    def load(self, key: str) -> dict[int, StoredResult]:
        """The finished tasks of a stage. Records that do not read are leftovers of a crash: skipped."""
        folder = Path(self.folder(key))
        found: dict[int, StoredResult] = {}
        if not folder.is_dir():
            return found
        for record in folder.glob("*.done"):
            try:
                entries: dict[int, StoredResult] = pickle.loads(record.read_bytes())
            except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError):
                continue
            found.update({task: entry for task, entry in entries.items() if entry.complete()})
        if found:
            os.utime(folder)  # recently used
        return found

    def commit(self, key: str, entries: dict[int, StoredResult]) -> None:
        """Make the results of a bundle known, all at once."""
        folder = self.folder(key)
        os.makedirs(folder, exist_ok=True)
        name = uuid.uuid4().hex
        fresh = os.path.join(folder, f"{name}.new")
        with open(fresh, "wb") as file:
            file.write(_dumps(entries))
        os.replace(fresh, os.path.join(folder, f"{name}.done"))

    def forget(self, key: str) -> None:
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def evict(self, keep_bytes: int = KEEP_BYTES, grace_seconds: float = GRACE_SECONDS) -> int:
        """Remove the results used longest ago until `keep_bytes` are left; returns the bytes removed."""
        folders = []
        for folder in Path(self.root).glob("*/*"):
            try:
                used = folder.stat().st_mtime
                folders.append((used, sum(entry.stat().st_size for entry in folder.iterdir()), folder))
            except OSError:  # another session evicts it
                continue
        excess = sum(size for _, size, _ in folders) - keep_bytes
        removed = 0
        for used, size, folder in sorted(folders, key=lambda item: item[0]):
            if removed >= excess or used > time.time() - grace_seconds:
                break
            shutil.rmtree(folder, ignore_errors=True)
            removed += size
        return removed


def stored(dataset: DataSet, rows: int | None, own_folder: str) -> StoredResult:
    """A result with the files of its own; files of the input that it merely names are not its own."""
    paths = [path for path in dataset.resolved_paths if path.startswith(own_folder)]
    return StoredResult(dataset, rows, tuple((path, os.stat(path).st_size) for path in paths))


def _dumps(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return bytes(cloudpickle.dumps(value))
