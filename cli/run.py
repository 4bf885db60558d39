"""`3fs run ROLE --config FILE`: one daemon in the foreground, under any supervisor. Of a development cluster:
`python -m threefs.cli.run ROLE FILE`."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from threefs.cli.core_service import CoreService
from threefs.cli.daemons import ProcessConfig, Role, World, role_named
from threefs.cli.entry import guarded, run_async
from threefs.cli.notify import notify
from threefs.common import logs
from threefs.common.config import Config, load
from threefs.common.errors import UserError
from threefs.common.net.frame_server import FrameCarrier
from threefs.common.runtime.real import RealRuntime

_log = logging.getLogger(__name__)


def run(role_name: str, config_path: Path) -> None:
    """Runs until SIGTERM or SIGINT; UserError if it cannot start."""
    role = role_named(role_name)
    config = load(config_path, role.config)
    process: ProcessConfig = config.process
    name = f"{role_name}-{role.node_id(config)}" if role.node_id(config) else role_name
    logs.setup(node=name, level=process.log_level, json_lines=process.log_json)
    _serve_metrics(process.metrics_listen)
    run_async(_main(role, config, config_path.read_text()))


async def _main(role: Role, config: Config, text: str) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    runtime = RealRuntime()
    core = CoreService(role=role.name, node_id=role.node_id(config), config_text=lambda: text)
    async with AsyncExitStack() as closing:
        closing.push_async_callback(runtime.close)
        world = World(runtime, FrameCarrier(runtime), core, closing)
        daemon = await role.build(config, world)
        await daemon.start()
        _settle_memory()
        notify("READY=1")
        _log.info("ready")
        waits = [runtime.spawn(wait, name="end") for wait in (stopping.wait(), *_own_end(daemon))]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        _log.info("stopping")
        await daemon.stop()


def _own_end(daemon: object) -> Iterator[Coroutine[Any, Any, Any]]:
    """A mount ends by itself when somebody unmounts it."""
    if (wait := getattr(daemon, "wait", None)) is not None:
        yield wait()


def _settle_memory() -> None:
    """What was made at the start lives as long as the process: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _serve_metrics(listen: str) -> None:
    if not listen:
        return
    from prometheus_client import start_http_server

    host, _, port = listen.rpartition(":")
    try:
        start_http_server(int(port), host)
    except OSError as exc:
        raise UserError(
            f"cannot serve metrics at {listen}: {exc.strerror}", "set another process.metrics_listen, or none"
        ) from exc


if __name__ == "__main__":
    guarded(lambda: run(sys.argv[1], Path(sys.argv[2])))
