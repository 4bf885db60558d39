"""The Python face of `native/fuse_*.c`: a mounted session, and requests that are answered exactly once.

`Mount` (in `mount.py`) is the only caller. An answer sends the bytes and frees the request at once; touching a
request after its answer is an assertion failure, not a crash.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Any, Final

from threefs.common.errors import UserError
from threefs.common.files import NAME_BYTES_MAX, FileType, Inode
from threefs.native._fuse import ffi, lib

BATCH = 64
_PREFIX = "BRIDGE_"
OPERATIONS: Final[dict[int, str]] = {
    number: name.removeprefix(_PREFIX).lower() for number, name in ffi.typeof("enum bridge_op").elements.items()
}
INTERRUPT: Final[int] = lib.BRIDGE_INTERRUPT
UNKNOWN_INODE: Final = 0xFFFFFFFF  # for "..", whose number nobody uses
BLOCK = 512

_attr: Any = ffi.new("struct bridge_attr *")  # filled and used up without an await in between


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    mount_options: tuple[str, ...]
    max_transfer_bytes: int
    max_background: int
    read_ahead_bytes: int
    threads: int
    entry_s: float
    attr_s: float
    negative_s: float


def _fill(inode: Inode) -> Any:
    attr = _attr
    attr.ino = inode.id
    attr.size = len(os.fsencode(inode.symlink)) if inode.type is FileType.SYMLINK else inode.length
    attr.blocks = (inode.length + BLOCK - 1) // BLOCK if inode.type is FileType.FILE else 0
    attr.rdev = inode.rdev
    attr.atime_us = inode.atime_us
    attr.mtime_us = inode.mtime_us
    attr.ctime_us = inode.ctime_us
    attr.mode = inode.st_mode
    attr.nlink = inode.nlink
    attr.uid = inode.uid
    attr.gid = inode.gid
    return attr


class Request:
    """One request of the kernel. The `reply_*` methods return False if the kernel no longer wanted the answer."""

    __slots__ = ("_pointer", "id", "operation")

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self.id: int = pointer.id
        self.operation: int = pointer.op

    @property
    def raw(self) -> Any:
        """The C structure (see fuse_requests.h), valid until the answer."""
        assert self._pointer is not None, f"request {self.id} was answered already"
        return self._pointer

    @property
    def answered(self) -> bool:
        return self._pointer is None

    @property
    def name(self) -> bytes:
        raw = self.raw
        return bytes(ffi.buffer(raw.name, raw.name_length))

    @property
    def name_out(self) -> bytes:
        raw = self.raw
        return bytes(ffi.buffer(raw.name_out, raw.name_out_length))

    def payload(self) -> memoryview:
        """The bytes that came with it, valid until the answer."""
        raw = self.raw
        return memoryview(ffi.buffer(raw.data, raw.data_length))

    def take_payload(self) -> memoryview:
        """The same bytes, the caller's to keep; freed with the last view."""
        raw = self.raw
        data, length, receive_buffer = raw.data, raw.data_length, raw.receive_buffer
        raw.data = raw.receive_buffer = ffi.NULL
        owned = ffi.gc(data, lambda pointer: lib.bridge_free_payload(pointer, receive_buffer), length)
        return memoryview(ffi.buffer(owned, length))

    def _spend(self) -> Any:
        pointer = self.raw
        self._pointer = None
        return pointer

    def reply_error(self, number: int) -> bool:
        return not lib.bridge_reply_error(self._spend(), number)

    def reply_done(self) -> bool:
        return self.reply_error(0)

    def reply_entry(self, inode: Inode) -> bool:
        return not lib.bridge_reply_entry(self._spend(), _fill(inode))

    def reply_negative(self) -> bool:
        return not lib.bridge_reply_negative(self._spend())

    def reply_attr(self, inode: Inode, *, valid_s: float = -1.0) -> bool:
        """`valid_s`: how long the kernel may believe it, if not as long as usual."""
        return not lib.bridge_reply_attr(self._spend(), _fill(inode), valid_s)

    def reply_create(self, inode: Inode, handle: int) -> bool:
        return not lib.bridge_reply_create(self._spend(), _fill(inode), handle, 0)

    def reply_open(self, handle: int, *, keep_cache: bool = False) -> bool:
        return not lib.bridge_reply_open(self._spend(), handle, keep_cache, 0)

    def reply_data(self, data: bytes | memoryview) -> bool:
        return not lib.bridge_reply_data(self._spend(), ffi.from_buffer(data), len(data))

    def reply_text(self, text: bytes) -> bool:
        return not lib.bridge_reply_text(self._spend(), text)

    def reply_written(self, size: int) -> bool:
        return not lib.bridge_reply_written(self._spend(), size)

    def reply_size(self, size: int) -> bool:
        return not lib.bridge_reply_size(self._spend(), size)

    def reply_position(self, offset: int) -> bool:
        return not lib.bridge_reply_position(self._spend(), offset)

    def reply_space(self, *, block_bytes: int, blocks: int, free_blocks: int, files: int) -> bool:
        return not lib.bridge_reply_space(self._spend(), block_bytes, blocks, free_blocks, files, files, NAME_BYTES_MAX)


class EntryPacker:
    """The answer to one readdir or readdirplus, filled until it is full."""

    def __init__(self, request: Request, *, plus: bool) -> None:
        self._request = request
        self._plus = plus
        self._room: int = request.raw.size
        self._memory = ffi.new("char[]", self._room)
        self._used = 0

    def add(self, name: bytes, number: int, mode: int, inode: Inode | None, next_offset: int) -> bool:
        """False if it does not fit any more. Without `inode` only number and type are told."""
        if inode is not None:
            attr = _fill(inode)
        else:
            attr = _attr
            attr.ino, attr.mode = number, mode
        plus = (1 if inode is not None else 2) if self._plus else 0
        used = lib.bridge_add_entry(
            self._request.raw, self._memory + self._used, self._room - self._used, name, attr, next_offset, plus
        )
        self._used += used
        return bool(used)

    def reply(self) -> bool:
        return self._request.reply_data(memoryview(ffi.buffer(self._memory, self._used)))


class Bridge:
    """A mount and the connection behind it."""

    def __init__(self, mountpoint: str, options: BridgeOptions) -> None:
        """Mounts. UserError if libfuse or the kernel refuses."""
        joined = ffi.new("char[]", ",".join(options.mount_options).encode())
        native = ffi.new("struct bridge_options *")
        native.mount_options = joined
        native.max_transfer = options.max_transfer_bytes
        native.max_background = options.max_background
        native.max_readahead = options.read_ahead_bytes
        native.threads = options.threads
        native.entry_timeout_s = options.entry_s
        native.attr_timeout_s = options.attr_s
        native.negative_timeout_s = options.negative_s
        self._bridge = lib.bridge_mount(os.fsencode(mountpoint), native)
        if self._bridge == ffi.NULL:
            number = ffi.errno
            raise UserError(
                f"cannot mount at {mountpoint}: {os.strerror(number)}",
                "mounting needs root (or fusermount3) and /dev/fuse; libfuse's own message is above",
            )
        self._batch = ffi.new("struct bridge_request *[]", BATCH)

    def start(self) -> int:
        """Starts to receive; returns the descriptor that is readable while requests wait."""
        number = lib.bridge_start(self._bridge)
        if number:
            raise UserError(f"cannot start receiving threads: {os.strerror(number)}", "raise the limit on threads")
        return int(lib.bridge_event_fd(self._bridge))

    @property
    def ended(self) -> bool:
        """True once the kernel has closed the connection."""
        return bool(lib.bridge_ended(self._bridge))

    def take(self) -> list[Request]:
        """The next requests, at most `BATCH`."""
        count = lib.bridge_take(self._bridge, self._batch, BATCH)
        return [Request(self._batch[index]) for index in range(count)]

    def free_notice(self, request: Request) -> None:
        """An interrupt needs no answer, only to be freed."""
        lib.bridge_free_notice(request._spend())

    def invalidate_attributes(self, inode: int) -> None:
        """The kernel asks again before it believes a size or time. Never blocks."""
        number = lib.bridge_invalidate_inode(self._bridge, inode, -1, 0)
        assert number in (0, errno.ENOENT, errno.ENOSYS), f"invalidation of {inode:#x}: {os.strerror(number)}"

    def note_open(self, inode: int, open: bool) -> None:
        """Lookups of an inode that this process has open are its business."""
        if self._bridge != ffi.NULL:  # what is written may be stored after the mount's end
            (lib.bridge_note_open if open else lib.bridge_note_closed)(self._bridge, inode)

    def set_meta(self, host: str, port: int) -> None:
        """Lookups are asked of the daemon there (a numeric address), until it fails to answer."""
        number = lib.bridge_set_meta(self._bridge, host.encode(), str(port).encode())
        assert not number, f"{host}:{port}: {os.strerror(number)}"

    @property
    def asks_meta(self) -> bool:
        return bool(lib.bridge_asks_meta(self._bridge))

    @property
    def lookups(self) -> int:
        """How many were answered without Python."""
        return int(lib.bridge_lookups(self._bridge)) if self._bridge != ffi.NULL else 0

    def note_settled(self, inode: int) -> None:
        """No descriptor of the file is open, and all that was written is stored."""
        lib.bridge_note_settled(self._bridge, inode)

    def unmount(self) -> None:
        """Takes the mount out of the tree; files that are open keep being served."""
        lib.bridge_unmount(self._bridge)

    def destroy(self) -> None:
        """Ends the connection. Every request that was taken must have been answered."""
        lib.bridge_destroy(self._bridge)
        self._bridge = ffi.NULL
