"""Being a client of the cluster: a session that mgmtd sees alive. Used by mounts and by `FileSystem`.

The one rule: a client whose session is gone may lose its write sessions, so a session is extended well within
its timeout and ended only by `stop`.
"""

from __future__ import annotations

import asyncio
import logging

from threefs.client.routing.heartbeat import ConfigFollower, OnConfig
from threefs.client.routing.mgmtd_client import MgmtdClient
from threefs.common.errors import ThreefsError
from threefs.common.ids import ClientId
from threefs.common.routing import NodeType
from threefs.common.runtime.interface import Runtime
from threefs.proto import mgmtd_pb2 as pb
from threefs.proto.mgmtd_rpc import Mgmtd

_log = logging.getLogger(__name__)


class ClientSessionAgent:
    """Keeps the session of one client process alive and delivers the cluster configuration of its type."""

    def __init__(
        self,
        runtime: Runtime,
        mgmtd: MgmtdClient,
        client: ClientId,
        *,
        node_type: NodeType = NodeType.CLIENT,
        hostname: str = "",
        pid: int = 0,
        description: str = "",
        on_config: OnConfig | None = None,
    ) -> None:
        self._runtime = runtime
        self._mgmtd = mgmtd
        self._config = ConfigFollower(on_config)
        self._session = pb.ClientSession(
            client=client,
            hostname=hostname,
            pid=pid,
            node_type=node_type,
            description=description,
            started_us=runtime.wall_us(),
        )
        self._interval_s = 1.0
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, timeout_s: float = 30.0) -> None:
        """Opens the session; Timeout if no mgmtd answers."""
        await self._extend(timeout_s)
        self._task = self._runtime.spawn(self._run(), name="client session")

    async def stop(self) -> None:
        """Ends the session, so that nobody waits for its timeout."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        request = pb.EndClientSessionRequest(client=self._session.client)
        try:
            await self._mgmtd.call(Mgmtd.END_CLIENT_SESSION, request, timeout_s=1.0)
        except ThreefsError as exc:
            _log.info("mgmtd did not hear of this client's end: %s", exc)

    async def _run(self) -> None:
        while True:
            await self._runtime.sleep(self._runtime.jitter(self._interval_s))
            try:
                await self._extend(self._interval_s * 2)
            except ThreefsError as exc:
                _log.warning("client session was not extended: %s", exc)

    async def _extend(self, timeout_s: float) -> None:
        self._session.config_version = self._config.version
        self._session.config_status = self._config.status
        self._session.config_message = self._config.message
        request = pb.ExtendClientSessionRequest(session=self._session)
        reply = await self._mgmtd.call(Mgmtd.EXTEND_CLIENT_SESSION, request, timeout_s=timeout_s)
        self._interval_s = reply.extend_interval_s
        if reply.HasField("config"):
            self._config.take(reply.config)
