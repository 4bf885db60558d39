"""Opens the folders that a storage daemon is configured with: the real form of `OpenEngine`.

A folder belongs to one daemon of one cluster: `disk.toml` in it says which, so that a folder mounted in the wrong
place, or left over from another cluster, is refused instead of being served. Used by the command line only.
"""

from __future__ import annotations

import asyncio
import os
import tomllib
from pathlib import Path

from threefs.common.errors import Conflict, Corrupt, UserError
from threefs.storage.config import DiskConfig, StorageConfig
from threefs.storage.engine import ChunkEngine, DiskFailed
from threefs.storage.native_engine import EngineOptions, NativeEngine

IDENTITY = "disk.toml"


class OpenDisk:
    """`(index, disk) -> engine` for the disks of one configuration."""

    def __init__(self, config: StorageConfig) -> None:
        self._config = config

    async def __call__(self, index: int, disk: DiskConfig) -> ChunkEngine:
        """UserError with a next step if the folder cannot be used, is another's, or is in use."""
        folder = Path(disk.path)
        await asyncio.to_thread(self._claim, folder)
        try:
            return await NativeEngine.open(folder, EngineOptions(capacity_bytes=disk.capacity_bytes))
        except Conflict as exc:
            raise UserError(
                f"disk folder {folder} is in use: {exc}", "stop that daemon, or name another folder"
            ) from exc
        except DiskFailed as exc:
            raise UserError(f"disk folder {folder} cannot be used: {exc}", "check the disk and its mount") from exc
        except Corrupt as exc:
            raise UserError(
                f"disk folder {folder} is damaged: {exc}", "empty it; its targets are filled again from their replicas"
            ) from exc

    def _claim(self, folder: Path) -> None:
        """Creates the folder and its identity, or compares it."""
        identity = folder / IDENTITY
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = tomllib.loads(identity.read_text()) if identity.exists() else None
        except OSError as exc:
            raise UserError(f"disk folder {folder}: {exc.strerror}", "create it, or fix its owner and mode") from exc
        except tomllib.TOMLDecodeError as exc:
            raise UserError(f"{identity} is damaged: {exc}", "restore it, or empty the folder") from exc
        mine = {"cluster_id": self._config.cluster_id, "node_id": self._config.node_id}
        if found is None:
            self._write(identity, mine)
            return
        other = found.get("cluster_id")
        if mine["cluster_id"] and other and other != mine["cluster_id"]:
            raise UserError(
                f"disk folder {folder} belongs to cluster {other}, this daemon to {mine['cluster_id']}",
                "name another folder; or empty this one, if that cluster is gone",
            )
        if found.get("node_id") != self._config.node_id:
            raise UserError(
                f"disk folder {folder} belongs to node {found.get('node_id')}, this daemon is {self._config.node_id}",
                "correct node_id or the folder in the configuration",
            )
        if mine["cluster_id"] and not other:
            self._write(identity, mine)

    def _write(self, identity: Path, values: dict[str, object]) -> None:
        """Durable and whole: a rename of a synced file."""
        lines = [f'cluster_id = "{values["cluster_id"]}"', f"node_id = {values['node_id']}"]
        draft = identity.with_suffix(".new")
        try:
            with open(draft, "w") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.rename(identity)
            folder = os.open(identity.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise UserError(f"cannot write {identity}: {exc.strerror}", "check the disk and its mount") from exc
