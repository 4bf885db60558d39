"""Two metadata daemons on a real etcd of three members, one of which is killed meanwhile."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.meta.harness import CONFIG, Room
from tests.meta.worker import DIRECTORIES, Worker

from threefs.common.ids import ROOT_INODE
from threefs.common.kv.etcd_local import EtcdLocal
from threefs.common.kv.factory import open_engine
from threefs.common.net.ports import free_ports
from threefs.common.runtime.real import RealRuntime
from threefs.meta.config import GarbageConfig

pytestmark = pytest.mark.cluster


def test_the_namespace_stays_sound(tmp_path: Path) -> None:
    etcd = EtcdLocal(tmp_path, free_ports(6), transaction_ops_max=128)
    etcd.start()
    try:
        asyncio.run(_race(etcd))
    finally:
        etcd.stop()


async def _race(etcd: EtcdLocal) -> None:
    runtime = RealRuntime()
    await etcd.wait_ready(runtime)
    engines = [await open_engine(etcd.config("meta/"), runtime) for _ in range(2)]
    config = CONFIG.model_copy(update={"garbage": GarbageConfig(file_delay_s=0, retry_s=0.1)})
    room = Room(daemons=2, config=config, real=(runtime, engines))
    try:
        await room.start()
        for directory in DIRECTORIES:
            await room.client.mkdirs(ROOT_INODE, directory)
        workers = [Worker(room, number) for number in range(3)]
        await asyncio.gather(_kill_a_member(etcd), *(worker.run(15) for worker in workers))
        for worker in workers:
            await worker.compare()
        for name in DIRECTORIES[:2]:
            await room.client.remove_recursive(ROOT_INODE, name)
        while room.storage.chunks or (await room.client.list(2)).entries:
            await room.collect(1, 0.1)
        await room.check()
    finally:
        for engine in engines:
            await engine.close()
        await runtime.close()


async def _kill_a_member(etcd: EtcdLocal) -> None:
    await asyncio.sleep(1)
    etcd.stop(0, signal.SIGKILL)
    await asyncio.sleep(2)
    etcd.start(0)
