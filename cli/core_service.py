"""The Core service of every daemon: who it is, what configuration is in force, and a polite way to stop it."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable

from threefs.common.net.interface import Request
from threefs.proto import core_pb2 as pb

RELEASE = "0.1.0"


class CoreService:
    """`config_text` gives the configuration that is in force as TOML."""

    def __init__(self, *, role: str, node_id: int, config_text: Callable[[], str]) -> None:
        self._role = role
        self._node_id = node_id
        self._config_text = config_text
        self._started_us = time.time_ns() // 1000
        self.cluster_id: Callable[[], str] = str
        self.take_config: Callable[[str], list[str]] | None = None

    async def echo(self, request: pb.EchoRequest, context: Request) -> pb.EchoReply:
        return pb.EchoReply(payload=request.payload)

    async def get_info(self, request: pb.GetInfoRequest, context: Request) -> pb.GetInfoReply:
        return pb.GetInfoReply(
            node_id=self._node_id,
            role=self._role,
            cluster_id=self.cluster_id(),
            pid=os.getpid(),
            release=RELEASE,
            started_us=self._started_us,
            resident_bytes=resident_bytes(),
        )

    async def get_config(self, request: pb.GetConfigRequest, context: Request) -> pb.GetConfigReply:
        return pb.GetConfigReply(toml=self._config_text())

    async def hot_update_config(self, request: pb.HotUpdateConfigRequest, context: Request) -> pb.HotUpdateConfigReply:
        changed = self.take_config(request.toml) if self.take_config else []
        return pb.HotUpdateConfigReply(changed_keys=changed)

    async def shutdown(self, request: pb.ShutdownRequest, context: Request) -> pb.ShutdownReply:
        os.kill(os.getpid(), signal.SIGTERM)
        return pb.ShutdownReply()


def resident_bytes() -> int:
    """What this process has in memory now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
