"""A live mount: takes requests from the bridge, runs the operation of each, sees that each is answered.

`MountServer` makes one from its configuration; tests make one on clients of their own. One event loop runs it all.
The rule kept here: every request that was taken is answered exactly once, whatever the operation does.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from dataclasses import dataclass
from typing import Final

from threefs.client.file import FileTable
from threefs.client.meta.client import MetaClient
from threefs.client.open_inode import BLOCK_BYTES_MAX
from threefs.common.errors import RequestError, ThreefsError, to_errno
from threefs.common.runtime.interface import Runtime
from threefs.fuse import attributes, data, directories, metrics, mountpoint, names, xattrs
from threefs.fuse.bridge import BATCH, INTERRUPT, OPERATIONS, Bridge, BridgeOptions, Request
from threefs.fuse.config import MountConfig
from threefs.fuse.context import Context, Operation
from threefs.fuse.credentials import CredentialsCache, is_being_killed
from threefs.fuse.parents import KnownDirectories

_log = logging.getLogger(__name__)

_HANDLERS: Final[dict[str, Operation]] = {
    operation.__name__: operation
    for operation in (
        names.lookup,
        names.readlink,
        names.mknod,
        names.mkdir,
        names.symlink,
        names.link,
        names.unlink,
        names.rmdir,
        names.rename,
        attributes.getattr,
        attributes.setattr,
        attributes.statfs,
        data.create,
        data.open,
        data.read,
        data.write,
        data.flush,
        data.fsync,
        data.release,
        data.lseek,
        data.fallocate,
        data.copy_file_range,
        directories.opendir,
        directories.readdir,
        directories.readdirplus,
        directories.releasedir,
        directories.fsyncdir,
        xattrs.setxattr,
        xattrs.getxattr,
        xattrs.listxattr,
        xattrs.removexattr,
    )
}
_BY_NUMBER: Final = {number: _HANDLERS[name] for number, name in OPERATIONS.items() if number != INTERRUPT}
_NUMBERS: Final = {name: number for number, name in OPERATIONS.items()}
_READS: Final = frozenset({_NUMBERS["read"], _NUMBERS["copy_file_range"]})
_NEVER_BROKEN_OFF: Final = frozenset(
    {_NUMBERS["open"], _NUMBERS["create"]}
)  # whoever ends them leaves a session behind
KILL_CHECK_S: Final = 0.1  # between looks at a process that was sent a signal
_CHANGES_NAMES: Final = frozenset(  # and with them directories, those that are moved or removed included
    number
    for number, name in OPERATIONS.items()
    if name in ("mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename")
)
_CHANGES_ONE: Final = frozenset(
    number for number, name in OPERATIONS.items() if name in ("setattr", "setxattr", "removexattr")
)
DRAIN_S_MAX: Final = 10.0  # a clean end waits so long for requests that are being worked on


@dataclass(frozen=True, slots=True)
class _Running:
    """A request that is being worked on, and who waits for it."""

    task: asyncio.Task[None]
    began_s: float
    operation: int
    pid: int


class Mount:
    def __init__(self, config: MountConfig, *, runtime: Runtime, meta: MetaClient, files: FileTable) -> None:
        self._config = config
        self._runtime = runtime
        self._meta = meta
        self._files = files
        self._running: dict[int, _Running] = {}
        self._seconds = {number: metrics.SECONDS.labels(name) for number, name in OPERATIONS.items()}
        self._credentials = CredentialsCache(runtime.now, token=config.token, groups_s_max=config.group_cache_s)
        self._meta_address = ""  # where lookups are asked
        self.path = ""  # where it is mounted, once it is
        self.ended = asyncio.Event()  # the kernel closed the connection: somebody unmounted

    def start(self, fs_name: str) -> None:
        """Mounts and begins to serve. UserError names what is wrong with the mount point."""
        path = mountpoint.prepare(self._config.mountpoint)
        self._bridge = Bridge(path, self._options(fs_name))
        self._context = Context(
            self._meta,
            self._files,
            self._credentials,
            self._bridge,
            BLOCK_BYTES_MAX,
            self._runtime.now,
            KnownDirectories(self._runtime.now, self._config.cache.attr_s),
        )
        self.path = path
        self._files.watch = self._bridge.note_open
        metrics.LOOKUPS.set_function(lambda: self._bridge.lookups)
        metrics.IN_FLIGHT.set_function(lambda: len(self._running))
        metrics.OPEN_FILES.set_function(lambda: len(self._context.open_files))
        self._event_fd = self._bridge.start()
        asyncio.get_running_loop().add_reader(self._event_fd, self._drain)
        mountpoint.set_read_ahead(self.path, self._config.cache.read_ahead_kib)

    async def stop(self) -> None:
        """Unmounts, stores what was written, answers what is left."""
        self._bridge.unmount()
        await self._files.flush_all()
        await self._finish(DRAIN_S_MAX)
        asyncio.get_running_loop().remove_reader(self._event_fd)
        await self._finish(0)
        for file in self._context.open_files.values():
            try:
                await file.close()
            except ThreefsError as exc:
                _log.error("inode %#x: data written lately is lost: %s", file.inode, exc)
        self._context.open_files.clear()
        await self._files.end_sessions()
        self._bridge.destroy()

    async def ask_meta(self, address: str) -> bool:
        """Lets lookups be asked of the metadata daemon at "host:port"; False if those of before had failed."""
        asking = self._bridge.asks_meta
        if not asking or address != self._meta_address:
            host, _, port = address.rpartition(":")
            found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            self._bridge.set_meta(*found[0][4][:2])
            first, self._meta_address = not self._meta_address, address
            return asking or first
        return True

    async def _finish(self, timeout_s: float) -> None:
        """Lets running requests end; those that do not are cancelled."""
        tasks = [running.task for running in self._running.values()]
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(asyncio.gather(*tasks, return_exceptions=True))
        except TimeoutError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _options(self, fs_name: str) -> BridgeOptions:
        config = self._config
        options = ["default_permissions", f"fsname={fs_name}", "subtype=3fs", f"max_read={config.max_transfer_bytes}"]
        options += ["allow_other"] if config.allow_other else []
        options += ["ro"] if config.read_only else []
        return BridgeOptions(
            mount_options=tuple(options),
            max_transfer_bytes=config.max_transfer_bytes,
            max_background=config.max_background,
            read_ahead_bytes=config.cache.read_ahead_kib << 10,
            threads=config.receive_threads,
            entry_s=config.cache.entry_s,
            attr_s=config.cache.attr_s,
            negative_s=config.cache.negative_s,
        )

    # --- requests -----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Called when the bridge has something: starts a task for each request."""
        requests, loop = self._bridge.take(), asyncio.get_running_loop()
        for request in requests:
            if request.operation == INTERRUPT:
                loop.call_soon(self._interrupt, request.id)  # a task that is ended before it began answers nothing
                self._bridge.free_notice(request)
            else:
                task = loop.create_task(self._serve(request))
                self._running[request.id] = _Running(task, self._runtime.now(), request.operation, request.raw.pid)
        if len(requests) < BATCH and self._bridge.ended:
            self.ended.set()
            loop.remove_reader(self._event_fd)

    async def _serve(self, request: Request) -> None:
        number, operation = request.id, request.operation
        changed = request.raw.ino if operation in _CHANGES_ONE else 0
        try:
            await _BY_NUMBER[operation](self._context, request)
        except asyncio.CancelledError:
            self._answer_error(request, operation, errno.EINTR)
        except RequestError as exc:
            self._answer_error(request, operation, to_errno(exc))
        except ThreefsError as exc:
            _log.error("%s failed: %s", OPERATIONS[operation], exc)
            again = exc.errno == errno.EAGAIN  # what was retried for a minute will not do if the program tries again
            self._answer_error(request, operation, errno.EIO if again else exc.errno)
        except Exception:
            _log.exception("%s failed; this is a bug", OPERATIONS[operation])
            self._answer_error(request, operation, errno.EIO)
        finally:
            if changed:
                self._context.directories.forget(changed)
            elif operation in _CHANGES_NAMES:
                self._context.directories.forget_all()
            if not request.answered:
                _log.error("%s was not answered; this is a bug", OPERATIONS[operation])
                request.reply_error(errno.EIO)
            self._seconds[operation].observe(self._runtime.now() - self._running.pop(number).began_s)

    def _answer_error(self, request: Request, operation: int, number: int) -> None:
        metrics.ERRORS.labels(OPERATIONS[operation], errno.errorcode.get(number, str(number))).inc()
        if not request.answered:
            request.reply_error(number)

    def _interrupt(self, number: int) -> None:
        """A signal came for a process that waits, and is told only once. A process that is being killed waits no
        longer. Programs whose runtime signals itself all the time (timers, preemption) do not expect an operation
        on a file to fail, so for others only a read that hangs is ended."""
        running = self._running.get(number)
        if running is None or running.operation in _NEVER_BROKEN_OFF:
            return
        hangs = self._runtime.now() - running.began_s >= self._config.interrupt_after_s
        if (running.operation in _READS and hangs) or is_being_killed(running.pid):
            running.task.cancel()
        else:
            asyncio.get_running_loop().call_later(KILL_CHECK_S, self._interrupt, number)

    def take_config(self, config: MountConfig) -> None:
        """Takes the hot fields of a new configuration over."""
        self._config = config
        self._credentials.groups_s_max = config.group_cache_s
