"""Sends staged updates on to the tail, along the newest chain, until everybody behind has committed.

Called by `storage.replication` with updates whose chunks it holds. The one rule: only a refusal for good, at the
first attempt, lets an update be taken back; after any attempt without a clear answer it stays pending here until
it is finished, because it may live on behind us.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence

from threefs.common.errors import (
    Busy,
    ChecksumMismatch,
    DataError,
    InternalError,
    NotServing,
    RequestError,
    ThreefsError,
    Timeout,
    from_wire,
)
from threefs.common.ids import ChainVersion
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry
from threefs.common.runtime.interface import Runtime
from threefs.native.buffers import buffer
from threefs.proto import data_plane
from threefs.storage import metrics
from threefs.storage.channels import Superseded
from threefs.storage.config import StorageConfig
from threefs.storage.engine import MissingUpdate, StaleUpdate, UpdateKind
from threefs.storage.replica import Place
from threefs.storage.targets import RoutingView, TargetSet
from threefs.storage.update import Op, ask_engine

_log = logging.getLogger(__name__)

Group = list[tuple[Op, Place]]


class Forwarder:
    """One daemon's way to the successors of its targets."""

    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        routing: RoutingView,
        targets: TargetSet,
        config: Callable[[], StorageConfig],
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._routing = routing
        self._targets = targets
        self._config = config

    async def forward(self, ops: Sequence[Op]) -> None:
        """Gives each open op a `tail_version` or an error; aborts the local state of those taken back."""
        retry = Retry(self._runtime, self._config().forward_timeout_s, first_s=0.005, most_s=0.5)
        waiting = [op for op in ops if op.is_open]
        while waiting:
            groups: dict[str, Group] = {}
            for op in waiting:
                self._next_hop(op, groups)
            if groups:
                await asyncio.gather(*[self._send(address, group) for address, group in groups.items()])
            waiting = [op for op in waiting if op.is_open and not op.tail_version]
            if any(op.unsure for op in waiting):
                await self._pause(retry, waiting)
                waiting = [op for op in waiting if op.is_open]
        for op in ops:
            if op.is_taken_back:
                await self._abort(op)

    def _next_hop(self, op: Op, groups: dict[str, Group]) -> None:
        """Where an op goes by the newest map: on to a successor, or nowhere since this is the tail."""
        try:
            place = self._targets.place(op.target, op.chain)
            _check_episode(op)
            address = self._routing.routing.target_address(place.successor) if place.successor is not None else ""
        except (ThreefsError, KeyError) as exc:
            op.unsure = True
            op.error = NotServing(f"target {op.target.id} left chain {op.chain} with chunk {op.chunk} in flight: {exc}")
            return
        if place.successor is None:
            op.tail_version = place.version
        else:
            op.target.channels.passed_on(op.chunk)
            groups.setdefault(address, []).append((op, place))

    async def _send(self, address: str, group: Group) -> None:
        """One attempt at one successor daemon; what is to be tried again stays open."""
        sent: list[Op] = []
        requests: list[data_plane.UpdateRequest] = []
        data: list[memoryview] = []
        for op, place in group:
            whole = await self._whole_content(op) if op.sends_whole(place) else None
            if op.error is None:
                requests.append(op.to_request(place, whole))
                data.append(op.data if whole is None else whole)
                sent.append(op)
        if sent:
            await self.deliver(address, sent, requests, data)

    async def deliver(
        self,
        address: str,
        ops: Sequence[Op],
        requests: Sequence[data_plane.UpdateRequest],
        data: Sequence[memoryview],
    ) -> None:
        """One call; its answers, or that there are none, are noted at the ops."""
        body, timeout_s = data_plane.pack_updates(requests), self._config().attempt_timeout_s
        try:
            reply = await self._transport.call(address, data_plane.UPDATE, body, data, timeout_s=timeout_s)
            answers, messages = data_plane.unpack_update_replies(reply.body, len(ops))
        except (ThreefsError, data_plane.Malformed) as exc:
            _log.debug("forwarding %d updates to %s failed: %s", len(ops), address, exc)
            for op in ops:
                op.unsure = True
            return
        for op, answer, message in zip(ops, answers, messages, strict=True):
            if answer.status:
                _take_refusal(op, answer.status, message)
            else:
                _take_success(op, answer)

    async def _whole_content(self, op: Op) -> memoryview | None:
        """The chunk's new content as staged here; None if it cannot be read (`op.error`)."""
        if op.kind is UpdateKind.REPLACE and len(op.data) == op.length:
            return op.data
        whole = buffer(op.length)
        for result in await ask_engine(self._targets, [op], op.target.engine.read([op.read_pending(whole)])):
            op.error = result.error
            if op.error is None and (result.length, result.crc32c) != (op.length, op.crc):
                op.error = InternalError(f"chunk {op.chunk}: pending content of target {op.target.id} changed")
            op.unsure = op.unsure or op.error is not None
        return whole

    async def _pause(self, retry: Retry, ops: Sequence[Op]) -> None:
        metrics.FORWARD_RETRIES.inc(len(ops))
        if retry.left_s <= 0:
            for op in ops:
                op.unsure = True
                op.error = Timeout(
                    f"chunk {op.chunk} did not reach the tail of chain {op.chain} "
                    f"within {self._config().forward_timeout_s:g} s"
                )
            return
        await retry.pause(Busy("the successor has not answered"))
        if retry.attempts % 4 == 0:  # the long poll brings a new map sooner, unless it hangs
            try:
                await self._routing.refresh(timeout_s=1.0)
            except ThreefsError as exc:
                _log.debug("no newer map: %s", exc)

    async def _abort(self, op: Op) -> None:
        op.target.channels.resolved(op.chunk)
        try:
            await op.target.engine.abort(op.target.id, op.chunk, op.version)
        except ThreefsError as exc:
            _log.warning("cannot abort version %d of chunk %s: %s", op.version, op.chunk, exc)


def _check_episode(op: Op) -> None:
    """NotServing if the target fell behind its chain since it admitted the update: it may be a member again by the
    newest map, even the last one, but what it had staged before says nothing about that chain."""
    if op.target.episode != op.episode:
        raise NotServing("it fell behind since it admitted the update")


def _take_success(op: Op, answer: data_plane.UpdateReply) -> None:
    """The successor has committed: the same content, or two replicas differ, which nobody may overlook."""
    if op.kind is not UpdateKind.REMOVE and (answer.bytes, answer.crc32c) != (op.length, op.crc):
        metrics.REPLICAS_DIFFER.inc()
        op.unsure = True
        op.error = InternalError(
            f"chunk {op.chunk}, version {op.version}: {op.length} bytes with CRC32C {op.crc:#010x} at target "
            f"{op.target.id}, {answer.bytes} with {answer.crc32c:#010x} at its successor; run fsck"
        )
        _log.error("replicas differ: %s", op.error)
        return
    op.tail_version = ChainVersion(answer.chain_version)


def _take_refusal(op: Op, status: int, message: str) -> None:
    """Why the successor did not carry it out: for good, for now, or because it cannot build on what it has."""
    error = from_wire(status, errno.EIO, message)
    if status in (MissingUpdate.code, ChecksumMismatch.code) and not op.whole and op.kind is not UpdateKind.REMOVE:
        op.whole = True
    elif status in (StaleUpdate.code, Superseded.code):
        op.unsure = True
        op.error = InternalError(f"chunk {op.chunk}, version {op.version}: the successor says: {message}")
    elif isinstance(error, RequestError | DataError):
        op.error = error
    else:
        op.unsure = True
