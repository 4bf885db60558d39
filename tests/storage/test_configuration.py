"""What the cluster sets for its storage daemons: in force at once, gone when it is no longer set."""

from __future__ import annotations

import asyncio

from tests.storage.conftest import Cluster

from threefs.client.routing import MgmtdClient
from threefs.common.routing import NodeType


def test_settings_are_in_force_while_the_cluster_has_them(cluster: Cluster) -> None:
    async def main() -> None:
        admin = MgmtdClient(cluster.runtimes["client"], cluster.transport, ["mgmtd:1"])

        async def until_low(expected: bool) -> None:
            for _ in range(100):
                found = {
                    status.low_space for server in cluster.servers.values() for status in server.targets.statuses()
                }
                if found == {expected}:
                    return
                await asyncio.sleep(0.1)
            raise AssertionError(f"low_space is {found}, not {expected}, after 10 s")

        await until_low(False)
        await admin.set_config(NodeType.STORAGE, "low_space_permille = 1000\nsync_retry_s = 0.25\n")
        await cluster.write(0, b"some")
        await until_low(True)
        assert [server.config.sync_retry_s for server in cluster.servers.values()] == [0.25] * 3
        await admin.set_config(NodeType.STORAGE, "sync_retry_s = 0.25\n")
        await until_low(False)
        reply = await admin.get_config_versions()
        assert [node.message for node in reply.nodes] == [""] * 3

    cluster.run(main)
