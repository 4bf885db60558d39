"""A mount on clients in memory, as a process of its own: `python -m tests.mount.memory_mount MOUNTPOINT [OPTION]`.

Its own process, because a program that faults on a mapped file while it holds the interpreter's lock would wait for
itself. Prints "ready" once mounted, ends on SIGTERM. Lookups go over TCP to the metadata service in the same process,
as with daemons; `--lookups=HOST:PORT` sends them elsewhere. `--full`: storage refuses every write with NoSpace.
SIGUSR1: storage stops answering, and answers again with the next; each says so on stdout. SIGUSR2: Python, not the
threads that receive requests, sleeps while there is a file `asleep` beside MOUNTPOINT, and says so on stdout.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

import uvloop
from tests.mount.memory_cluster import MemoryStorage, start_meta

from threefs.client.file import FileTable
from threefs.common.errors import NoSpace, UserError
from threefs.common.ids import ROOT_INODE
from threefs.common.net.frame_server import FrameServer
from threefs.common.runtime.real import RealRuntime
from threefs.fuse.config import MountConfig
from threefs.fuse.mount import Mount
from threefs.meta.quick_lookup import QuickLookup
from threefs.proto import lookup


async def serve(path: str, *options: str) -> None:
    runtime = RealRuntime()
    storage = MemoryStorage()
    storage.error = NoSpace("target 1 has no space left") if "--full" in options else None
    meta, environment = await start_meta(runtime, storage)
    await meta.setattr(ROOT_INODE, mode=0o1777)
    files = FileTable(runtime, meta, storage)
    files.start()
    mountpoint = Path(path)
    config = MountConfig(mountpoint=mountpoint, mgmtd=["none:0"], interrupt_after_s=0.1)
    mount = Mount(config, runtime=runtime, meta=meta, files=files)
    mount.start("memory")
    lookups = FrameServer(runtime, "127.0.0.1:0", {lookup.METHOD: QuickLookup(environment)})
    await lookups.start()
    elsewhere = [option.partition("=")[2] for option in options if option.startswith("--lookups=")]
    await mount.ask_meta(elsewhere[0] if elsewhere else lookups.address)

    def toggle() -> None:
        stops = storage.answers.is_set()
        (storage.answers.clear if stops else storage.answers.set)()
        print("hangs" if stops else "answers", flush=True)

    def nap() -> None:
        print("naps", flush=True)
        while (mountpoint.parent / "asleep").exists():
            time.sleep(0.01)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, nap)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mount.ended.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, toggle)
    print("ready", flush=True)
    await mount.ended.wait()
    await mount.stop()
    await lookups.close()
    await runtime.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    try:
        uvloop.run(serve(*sys.argv[1:]))
    except UserError as exc:
        sys.exit(f"error: {exc}; {exc.hint}")
