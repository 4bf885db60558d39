"""The data plane's handlers: frames to batches and back. Called by the server for every read, write and update.

The one rule: no more batches are carried out at a time than configured; beyond it the caller is told to slow down
at once, so that queues stay short and time-outs mean something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from threefs.common.errors import Corrupt, ThreefsError, Throttled
from threefs.common.ids import ChainId
from threefs.common.net.interface import Handler, Reply, Request
from threefs.common.routing import Routing
from threefs.common.runtime.interface import Runtime
from threefs.proto import data_plane
from threefs.proto.data_plane import UpdateReply, UpdateRequest
from threefs.storage import metrics
from threefs.storage.config import StorageConfig
from threefs.storage.reading import Reader
from threefs.storage.replication import Replicator
from threefs.storage.targets import RoutingView, TargetSet
from threefs.storage.update import Op, op_from_request, to_reply

CLIENT_KINDS: Final = (data_plane.KIND_WRITE, data_plane.KIND_EXTEND)  # what cuts or removes names what it has seen


class DataService:
    def __init__(
        self,
        runtime: Runtime,
        routing: RoutingView,
        targets: TargetSet,
        reader: Reader,
        replicator: Replicator,
        config: Callable[[], StorageConfig],
    ) -> None:
        self._runtime = runtime
        self._routing = routing
        self._targets = targets
        self._reader = reader
        self._replicator = replicator
        self._config = config
        self._reads = 0
        self._writes = 0

    def handlers(self) -> Mapping[int, Handler]:
        return {data_plane.READ: self.read, data_plane.WRITE: self.write, data_plane.UPDATE: self.update}

    async def read(self, request: Request) -> Reply:
        if self._reads >= self._config().batches_in_flight_max:
            raise Throttled(f"{self._reads} read batches are in flight here")
        self._reads += 1
        began = self._runtime.now()
        try:
            return await self._reader.read(request)
        finally:
            self._reads -= 1
            metrics.READ_SECONDS.observe(self._runtime.now() - began)

    async def write(self, request: Request) -> Reply:
        if self._writes >= self._config().batches_in_flight_max:
            raise Throttled(f"{self._writes} write batches are in flight here")
        self._writes += 1
        try:
            return await self._carry_out(request, from_client=True)
        finally:
            self._writes -= 1

    async def update(self, request: Request) -> Reply:
        """From a predecessor: not limited, because what it waits for was let in at its head."""
        return await self._carry_out(request, from_client=False)

    async def _carry_out(self, request: Request, *, from_client: bool) -> Reply:
        began = self._runtime.now()
        try:
            items = data_plane.unpack_updates(request.body, len(request.data))
        except data_plane.Malformed as exc:
            raise Corrupt(f"from {request.peer}: {exc}") from exc
        if from_client and any(item.flags or item.kind not in CLIENT_KINDS for item in items):
            raise Corrupt(f"from {request.peer}: a client's updates write or extend, and have no flags")
        await self._catch_up(items)
        ops, answers = self._take(items, request.data)
        await self._replicator.carry_out(ops, from_client=from_client)
        replies: list[UpdateReply] = []
        messages: list[bytes] = []
        waiting = iter(ops)
        for answer in answers:
            reply, message = to_reply(next(waiting)) if answer is None else _refuse(answer)
            if message:
                metrics.REFUSED.labels(reason=str(reply.status)).inc()
            replies.append(reply)
            messages.append(message)
        metrics.WRITE_OPS.inc(len(items))
        metrics.WRITE_BYTES.inc(len(request.data))
        metrics.WRITE_BATCH_BYTES.observe(len(request.data))
        metrics.WRITE_SECONDS.observe(self._runtime.now() - began)
        return Reply(data_plane.pack_update_replies(replies, messages))

    def _take(self, items: list[UpdateRequest], data: memoryview) -> tuple[list[Op], list[ThreefsError | None]]:
        """The ops, and for each item None or why there is none."""
        ops: list[Op] = []
        answers: list[ThreefsError | None] = []
        start = 0
        for item in items:
            size = item.data_bytes
            try:
                ops.append(op_from_request(item, self._targets.find(item.target), data[start : start + size]))
                answers.append(None)
            except ThreefsError as exc:
                answers.append(exc)
            start += size
        return ops, answers

    async def _catch_up(self, items: list[UpdateRequest]) -> None:
        """If a sender knows a newer chain than this daemon, that asks mgmtd before it judges."""
        routing = self._routing.routing
        if any(_is_behind(routing, item) for item in items):
            await refresh_quietly(self._routing)
            self._targets.follow()


def _is_behind(routing: Routing, item: UpdateRequest) -> bool:
    chain = routing.chains.get(ChainId(item.chain))
    return chain is None or chain.version < item.chain_version


async def refresh_quietly(routing: RoutingView) -> None:
    """The newest map if mgmtd answers within a second, else what is here."""
    try:
        await routing.refresh(timeout_s=1.0)
    except ThreefsError:
        return


def _refuse(error: ThreefsError) -> tuple[UpdateReply, bytes]:
    message = data_plane.clip_message(str(error))
    return UpdateReply(error.code, len(message), 0, 0, 0, 0, 0), message
