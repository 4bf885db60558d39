"""The mount daemon: wiring. Follows the cluster, keeps a client session, mounts, and stores everything at its end.

`start` returns when programs can use the mount; `wait` returns when somebody has unmounted it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from threefs.client.file import FileOptions, FileTable
from threefs.client.meta.client import MetaClient, routed_nodes
from threefs.client.routing import ClientSessionAgent, RoutingClient
from threefs.client.storage.types import StorageClient
from threefs.common.config import overlay
from threefs.common.errors import ThreefsError, UserError
from threefs.common.files import Credentials
from threefs.common.ids import ROOT_INODE, ClientId
from threefs.common.net.interface import Carrier, Transport
from threefs.common.routing import NodeType
from threefs.common.runtime.interface import Runtime
from threefs.fuse.config import MountConfig
from threefs.fuse.mount import Mount

_log = logging.getLogger(__name__)

LEAD_S = 1.0  # between looks at which metadata daemon is in use
LEAD_S_MAX = 30.0
MakeStorage = Callable[[RoutingClient, Transport], StorageClient]


class MountServer:
    """One mount of one cluster."""

    def __init__(
        self,
        config: MountConfig,
        *,
        runtime: Runtime,
        carrier: Carrier,
        make_storage: MakeStorage,
        hostname: str = "",
        pid: int = 0,
    ) -> None:
        self.config = self._file_config = config
        self.client_id = ClientId(runtime.uuid())
        self._runtime = runtime
        self._transport = carrier.transport()
        self.routing = RoutingClient(runtime, self._transport, config.mgmtd)
        self.storage = make_storage(self.routing, self._transport)
        self.mount: Mount | None = None  # made by `start`, when it is known what the cluster's configuration adds
        self._leading: asyncio.Task[None] | None = None
        self._session = ClientSessionAgent(
            runtime,
            self.routing.mgmtd,
            self.client_id,
            node_type=NodeType.FUSE,
            hostname=hostname,
            pid=pid,
            description=f"mount at {config.mountpoint}",
            on_config=self.take_config,
        )

    async def start(self) -> None:
        """Mounts once mgmtd and a metadata daemon have answered: a mount that is there can be used."""
        await self.routing.start()
        cluster, wanted = self.routing.routing.cluster_id, self.config.cluster_id
        if wanted and wanted != cluster:
            raise UserError(
                f"mgmtd at {', '.join(self.config.mgmtd)} is that of cluster {cluster!r}, not {wanted!r}",
                "correct mgmtd or cluster_id in the configuration",
            )
        await self._session.start()
        meta = self._make_meta()
        await meta.stat(ROOT_INODE)
        files = FileTable(self._runtime, meta, self.storage, _file_options(self.config))
        files.start()
        mount = Mount(self.config, runtime=self._runtime, meta=meta, files=files)
        mount.start(f"3fs.{cluster}" if cluster else "3fs")
        self.mount = mount
        if not self.config.token:  # a lookup of the receiving threads carries none
            self._leading = self._runtime.spawn(self._lead_lookups(meta, mount), name="lead lookups")
        _log.info("cluster %s is mounted at %s", cluster, mount.path)

    async def _lead_lookups(self, meta: MetaClient, mount: Mount) -> None:
        """Tells the receiving threads which daemon to ask; one that fails them is asked again after a while."""
        pause_s = LEAD_S
        while True:
            try:
                answered = await mount.ask_meta(meta.caller.address())
            except (ThreefsError, OSError) as exc:
                _log.info("lookups go the long way: %s", exc)
                answered = False
            pause_s = LEAD_S if answered else min(2 * pause_s, LEAD_S_MAX)
            await self._runtime.sleep(pause_s)

    def _make_meta(self) -> MetaClient:
        return MetaClient(
            self._runtime,
            self._transport,
            routed_nodes(lambda: self.routing.routing),
            self.client_id,
            user=Credentials(0, 0, token=self.config.token),
            timeout_s=self.config.meta_timeout_s,
        )

    async def wait(self) -> None:
        """Returns when the mount was taken away from outside (umount)."""
        assert self.mount is not None, "wait comes after start"
        await self.mount.ended.wait()

    async def stop(self) -> None:
        """Unmounts and stores what was written; then says good-bye, so that nobody waits for this client."""
        if self._leading is not None:
            self._leading.cancel()
        if self.mount is not None:
            await self.mount.stop()
        await self._session.stop()
        await self.routing.stop()
        await self._transport.close()

    def take_config(self, text: str, version: int) -> Sequence[str]:
        """Takes over a new cluster configuration, once mounted only its hot keys; returns those that wait for a
        restart."""
        starting = self.mount is None
        where = f"cluster configuration {version}"
        taken = overlay(self.config, text, where=where, file=self._file_config, starting=starting)
        self.config = taken.config
        if self.mount is not None:
            self.mount.take_config(taken.config)
        return taken.waiting


def _file_options(config: MountConfig) -> FileOptions:
    return FileOptions(
        dirty_bytes_max=config.write.dirty_bytes_max,
        batches_in_flight_max=config.write.batches_in_flight_max,
        write_back_s=config.write.write_back_s,
        report_s=config.write.report_s,
        length_s_max=config.cache.attr_s,
        read_ahead_bytes=0,  # the kernel does it
    )
