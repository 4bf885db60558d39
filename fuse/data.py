"""Operations on open files: create, open, read, write, flush, fsync, release, and those on ranges."""

from __future__ import annotations

import errno
import logging
import os

from threefs.client import sparse
from threefs.client.file import OpenFile
from threefs.common.errors import FileError, ThreefsError
from threefs.common.ids import InodeId
from threefs.fuse import metrics
from threefs.fuse.bridge import Request
from threefs.fuse.context import FMODE_EXEC, Context
from threefs.native.buffers import buffer

_log = logging.getLogger(__name__)
COPY_BYTES = 4 << 20  # read at once by copy_file_range
COPY_BYTES_MAX = 64 << 20  # in one request; the caller goes on from there


async def create(context: Context, request: Request) -> None:
    raw = request.raw
    mode = raw.attr.mode & 0o7777
    parent, user = InodeId(raw.ino), context.user(request)
    try:
        file = await context.files.create(parent, request.name, raw.flags, mode=mode, user=user)
    except ThreefsError:
        context.directories.forget(parent)
        raise
    if file.created:
        context.directories.note_new_file(parent, file.attributes().ctime_us)
    handle = context.next_handle()
    context.open_files[handle] = file
    inode = file.attributes()
    context.told.note(inode)
    if not request.reply_create(inode, handle):
        await _drop(context, handle)


async def open(context: Context, request: Request) -> None:
    """The page cache survives if the kernel filled it under the size and times that the file has now; if not, it
    must also not trust its attributes, which may be as old as their timeout."""
    raw = request.raw
    user = context.credentials.of(0, 0, 0) if raw.flags & FMODE_EXEC else context.user(request)
    file = await context.files.open(InodeId(raw.ino), raw.flags & ~FMODE_EXEC, user=user)
    handle = context.next_handle()
    context.open_files[handle] = file
    inode = file.attributes()
    keep = context.told.is_current(inode)
    if not keep:
        context.bridge.invalidate_attributes(inode.id)
    if not request.reply_open(handle, keep_cache=keep):
        await _drop(context, handle)


async def _drop(context: Context, handle: int) -> None:
    """The opener was interrupted, so no release will come."""
    await context.open_files.pop(handle).close()


async def read(context: Context, request: Request) -> None:
    raw = request.raw
    memory = buffer(raw.size)
    count = await context.file(request).state.read_into(raw.offset, memory)
    request.reply_data(memory[:count])
    metrics.BYTES_READ.inc(count)


async def write(context: Context, request: Request) -> None:
    raw = request.raw
    file, size, offset = context.file(request), raw.data_length, raw.offset
    owned = raw.receive_buffer != 0 and size >= context.block_bytes
    data = request.take_payload() if owned else request.payload()
    await file.pwrite(offset, data, owned=owned)
    request.reply_written(size)
    metrics.BYTES_WRITTEN.inc(size)


async def flush(context: Context, request: Request) -> None:
    await context.file(request).flush()
    request.reply_done()


async def fsync(context: Context, request: Request) -> None:
    await context.file(request).fsync()
    request.reply_done()


async def release(context: Context, request: Request) -> None:
    """The last descriptor of an open file is gone; nobody waits for this answer."""
    file = context.open_files.pop(request.raw.fh)
    try:
        await file.close(wait=False)
    except ThreefsError as exc:
        _log.error("closing inode %#x: %s", file.inode, exc)
    if context.files.find(file.inode) is None:
        context.bridge.note_settled(file.inode)
    request.reply_done()


async def lseek(context: Context, request: Request) -> None:
    raw = request.raw
    state = context.file(request).state
    find = {os.SEEK_DATA: sparse.next_data, os.SEEK_HOLE: sparse.next_hole}.get(raw.flags)
    if find is None:
        raise FileError(errno.EINVAL, f"whence {raw.flags}")
    request.reply_position(await find(state, raw.offset))


async def fallocate(context: Context, request: Request) -> None:
    raw = request.raw
    file = context.file(request)
    if raw.ino != file.inode or not file.writable:
        raise FileError(errno.EBADF)
    await sparse.allocate(file.state, raw.offset, raw.size, sparse.Fallocate(raw.flags))
    request.reply_done()


async def copy_file_range(context: Context, request: Request) -> None:
    raw = request.raw
    source, target = context.file(request), context.open_files[raw.fh_out]
    done = await _copy(source, target, raw.offset, raw.offset_out, min(raw.size, COPY_BYTES_MAX))
    request.reply_written(done)


async def _copy(source: OpenFile, target: OpenFile, start: int, to: int, size: int) -> int:
    done = 0
    while done < size:
        memory = buffer(min(COPY_BYTES, size - done))
        count = await source.state.read_into(start + done, memory)
        await target.pwrite(to + done, memory[:count], owned=True)
        done += count
        if count < len(memory):
            break
    return done
