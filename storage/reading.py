"""The read path: batches of reads, answered from committed states. Linearisable unless a read is relaxed.

The engine gives committed content together with the pending version at one moment. Without a pending version, that
moment is when the read took place. With one, only the tail may answer, unless it was made the tail with updates on
their way that its predecessor in that place may have committed (`LocalTarget.decides`); any other says NotCommitted,
and the client asks the tail. The one rule: a daemon that is fenced *after*
the read does not answer, because the chain may have gone on without it while it read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from threefs.common.errors import ChecksumMismatch, Corrupt, NotCommitted, NotServing, ThreefsError
from threefs.common.ids import ChunkId, ChunkVersion
from threefs.common.net.interface import Reply, Request
from threefs.native.buffers import buffer
from threefs.proto import data_plane
from threefs.proto.data_plane import Array, ReadReply, ReadRequest
from threefs.storage import metrics
from threefs.storage.engine import READ_ARRAY, DiskFailed, ReadOp, ReadResult
from threefs.storage.replica import Place, check_serving, check_version
from threefs.storage.targets import Disk, LocalTarget, TargetSet

AT_ONCE_BYTES_MAX: Final = 1 << 20  # asked for in one frame; 100 us of the event loop. Larger ones go through a thread

OnDamage = Callable[[LocalTarget, Place, ChunkId, ChunkVersion], None]
QUICK_ELEMENTS = 4  # below, objects are cheaper than arrays
_WHERE = ("target", "chain", "chain_version")
_Where = tuple[LocalTarget, Place, bool] | ThreefsError  # bool: decides, when the read began


class Reader:
    """Answers reads of this daemon's targets."""

    def __init__(self, targets: TargetSet, *, is_fenced: Callable[[], bool], on_damage: OnDamage) -> None:
        self._targets = targets
        self._is_fenced = is_fenced
        self._on_damage = on_damage

    async def read(self, request: Request) -> Reply:
        return self._read_at_once(request.body) or await self._read_each(request)

    def _read_at_once(self, body: bytes) -> Reply | None:
        """The reply if the engine of one disk has all that is asked for at hand; no work per element in Python."""
        try:
            places = {key: self._place(*key) for key in data_plane.read_keys(body)}
        except (data_plane.Malformed, ThreefsError):
            return None  # the ordinary way says what is wrong, element by element
        disks = {target.disk.index: target.disk for target, _, _ in places.values()}
        asked = data_plane.read_bytes(body)
        if len(disks) != 1 or asked > AT_ONCE_BYTES_MAX or self._is_fenced():
            return None
        grants = [(target, chain, version, decides) for (target, chain, version), (_, _, decides) in places.items()]
        [disk] = disks.values()
        data = buffer(asked)
        answer = disk.engine.read_frame(body, data, grants)
        if answer is None:
            return None
        metrics.READ_OPS.inc(len(answer.replies) // data_plane.READ_REPLY_BYTES)
        metrics.READ_BYTES.inc(answer.data_bytes)
        return Reply(bytes(answer.replies), (data[: answer.data_bytes],))

    async def _read_each(self, request: Request) -> Reply:
        try:
            array = data_plane.unpack_reads(request.body)
        except data_plane.Malformed as exc:
            raise Corrupt(f"from {request.peer}: {exc}") from exc
        data = buffer(int(array["bytes"].sum(dtype=np.uint64)))
        metrics.READ_OPS.inc(len(array))
        metrics.READ_BYTES.inc(len(data))
        quick = await self._read_quickly(array, data) if len(array) >= QUICK_ELEMENTS else None
        if quick is not None:
            return quick
        items = data_plane.read_requests(array)
        wheres = self._locate(items)
        results = await self._read_all(items, wheres, data)
        if self._is_fenced():
            raise NotServing("this daemon cannot reach mgmtd: it answers no reads")
        return self._reply(items, wheres, results, data)

    async def _read_quickly(self, items: Array, data: memoryview) -> Reply | None:
        """A batch from one disk in which nothing is wrong, without an object for each element; else None."""
        disk: Disk | None = None
        for target, chain, version in set(zip(*(items[name].tolist() for name in _WHERE), strict=True)):
            try:
                found, _, _ = self._place(target, chain, version)
            except ThreefsError:
                return None
            if disk is not None and found.disk is not disk:
                return None
            disk = found.disk
        assert disk is not None, "a batch has at least one element"
        reads = np.zeros(len(items), READ_ARRAY)
        for name in ("target", "chunk", "offset", "bytes"):
            reads[name] = items[name]
        try:
            await disk.engine.read_array(reads, data)
        except DiskFailed as exc:
            self._targets.fail_disk(disk, exc)
            return None
        if reads["error"].any() or reads["pending"].any() or (reads["length"] != items["bytes"]).any():
            return None
        if self._is_fenced():
            raise NotServing("this daemon cannot reach mgmtd: it answers no reads")
        replies = np.zeros(len(items), data_plane.READ_REPLY_ARRAY)
        replies["bytes"] = reads["length"]
        replies["crc32c"] = reads["crc32c"]
        replies["version"] = reads["committed"]
        return Reply(replies.tobytes(), (data,))

    def _locate(self, items: Sequence[ReadRequest]) -> list[_Where]:
        """Target and place of each item, or why it may not be read here; found once for equal ones."""
        known: dict[tuple[int, int, int], _Where] = {}
        found: list[_Where] = []
        for item in items:
            key = (item.target, item.chain, item.chain_version)
            where = known.get(key)
            if where is None:
                try:
                    where = self._place(*key)
                except ThreefsError as exc:
                    where = exc
                known[key] = where
            found.append(where)
        return found

    def _place(self, target_id: int, chain: int, chain_version: int) -> tuple[LocalTarget, Place, bool]:
        """A target of this daemon, its place in the chain, and whether it decides what is pending there; raises why it
        may not be read under this version."""
        target = self._targets.find(target_id)
        place = self._targets.place(target, chain)
        check_version(place, chain_version)
        check_serving(place, target.life.phase)
        return target, place, target.decides(place)

    async def _read_all(
        self, items: Sequence[ReadRequest], wheres: Sequence[_Where], data: memoryview
    ) -> list[ReadResult]:
        results = [ReadResult(error=where) if isinstance(where, ThreefsError) else _NOTHING for where in wheres]
        batches: dict[int, tuple[Disk, list[int], list[ReadOp]]] = {}
        start = 0
        for index, (item, where) in enumerate(zip(items, wheres, strict=True)):
            view = data[start : start + item.bytes]
            start += item.bytes
            if not isinstance(where, ThreefsError):
                disk = where[0].disk
                _, indices, ops = batches.setdefault(disk.index, (disk, [], []))
                indices.append(index)
                ops.append(ReadOp(where[0].id, ChunkId.unpack(item.chunk), item.offset, view))
        answers = await asyncio.gather(*[self._ask(disk, ops) for disk, _, ops in batches.values()])
        for (_, indices, _), found in zip(batches.values(), answers, strict=True):
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        return results

    async def _ask(self, disk: Disk, ops: Sequence[ReadOp]) -> list[ReadResult]:
        try:
            return await disk.engine.read(ops)
        except DiskFailed as exc:
            self._targets.fail_disk(disk, exc)
            return [ReadResult(error=NotServing(f"disk {disk.index} failed: {exc}"))] * len(ops)

    def _reply(
        self,
        items: Sequence[ReadRequest],
        wheres: Sequence[_Where],
        results: Sequence[ReadResult],
        data: memoryview,
    ) -> Reply:
        replies: list[ReadReply] = []
        messages: list[bytes] = []
        pieces: list[memoryview] = []
        start, gap = 0, False
        for item, where, result in zip(items, wheres, results, strict=True):
            error = result.error or _pending_error(item, where, result)
            if error is None:
                length = result.length
                replies.append(ReadReply(0, 0, length, result.crc32c, 0, result.committed))
            else:
                length = 0
                message = data_plane.clip_message(str(error))
                messages.append(message)
                replies.append(ReadReply(error.code, len(message), 0, 0, 0, result.committed))
                self._note_error(item, where, error, result.committed)
            pieces.append(data[start : start + length])
            start += item.bytes
            gap = gap or length != item.bytes
        return Reply(data_plane.pack_read_replies(replies, messages), pieces if gap else (data,))

    def _note_error(self, item: ReadRequest, where: _Where, error: ThreefsError, version: ChunkVersion) -> None:
        metrics.REFUSED.labels(reason=type(error).__name__).inc()
        if isinstance(error, ChecksumMismatch) and not isinstance(where, ThreefsError):
            target, place, _ = where
            self._on_damage(target, place, ChunkId.unpack(item.chunk), version)


_NOTHING = ReadResult()


def _pending_error(item: ReadRequest, where: _Where, result: ReadResult) -> ThreefsError | None:
    """NotCommitted if the committed state may be outdated."""
    if not result.pending or item.flags & data_plane.READ_RELAXED or isinstance(where, ThreefsError):
        return None
    if where[2]:
        return None
    metrics.NOT_COMMITTED.inc()
    return NotCommitted(
        f"chunk {ChunkId.unpack(item.chunk)}: version {result.pending} is on its way through target {item.target}"
    )
