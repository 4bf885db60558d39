"""How a metadata request reaches a live daemon: choice of the daemon, request ids, retries, fail-over.

Only `MetaClient` uses this. The rule it keeps: one request keeps one request id over all its attempts, so a daemon
that sees it twice carries it out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from threefs.client.meta.types import MetaNode
from threefs.common.errors import RequestError, ThreefsError, Timeout, Unreachable
from threefs.common.files import Credentials
from threefs.common.ids import ClientId, NodeId, RequestId
from threefs.common.net.interface import Transport
from threefs.common.net.service import Retry, invoke
from threefs.common.rendezvous import owner
from threefs.common.routing import NodeStatus, NodeType, Routing
from threefs.common.runtime.interface import Runtime
from threefs.proto import meta_pb2 as pb
from threefs.proto.rpc import Method

LAST_ATTEMPT_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 0.25  # between attempts: a daemon that is started again is found that soon
ReplyT = TypeVar("ReplyT", bound=Message)
MetaNodes = Callable[[], Sequence[MetaNode]]


def fixed_nodes(addresses: Sequence[str]) -> MetaNodes:
    """Daemons at known addresses: tools and tests that have no routing."""
    nodes = [MetaNode(NodeId(index), address) for index, address in enumerate(addresses)]
    return lambda: nodes


def routed_nodes(routing: Callable[[], Routing]) -> MetaNodes:
    """The metadata daemons that mgmtd hears from; if it hears from none, all that are not disabled."""

    known: list[MetaNode] = []
    seen: Routing | None = None

    def nodes() -> list[MetaNode]:
        nonlocal known, seen
        current = routing()
        if current is not seen:
            metas = [node for node in current.nodes.values() if node.type is NodeType.META]
            connected = [node for node in metas if node.status is NodeStatus.CONNECTED]
            usable = connected or [node for node in metas if node.status is not NodeStatus.DISABLED]
            known, seen = [MetaNode(node.id, node.address) for node in usable], current
        return known

    return nodes


def new_request_id(runtime: Runtime) -> RequestId:
    """BE48 milliseconds since 1970, then 80 random bits: records of requests sort by age, old ones first."""
    stamp = (runtime.wall_us() // 1000) & ((1 << 48) - 1)
    return RequestId(stamp.to_bytes(6, "big") + runtime.random.randbytes(10))


class MetaCaller:
    """Sends one request until it is answered or its time is over."""

    def __init__(
        self,
        runtime: Runtime,
        transport: Transport,
        nodes: MetaNodes,
        client_id: ClientId,
        *,
        timeout_s: float,
        attempt_s: float,
    ) -> None:
        self._runtime = runtime
        self._transport = transport
        self._nodes = nodes
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._attempt_s = attempt_s
        self._preferred = runtime.random.randrange(1 << 30)  # sticky: grows by one when the daemon in use fails

    def header(self, user: Credentials, *, mutation: bool) -> pb.Header:
        header = pb.Header(client_id=self._client_id)
        header.user.uid = user.uid
        header.user.gid = user.gid
        if user.groups:
            header.user.groups.extend(user.groups)
        if user.token:
            header.user.token = user.token
        if mutation:
            header.request_id = new_request_id(self._runtime)
        return header

    async def call(
        self, method: Method[Any, ReplyT], message: Any, *, inode: int | None = None, attempt_s: float | None = None
    ) -> ReplyT:
        """The reply. `inode`: start with the daemon that owns it, where work on one inode comes together.

        Raises what the daemon raised if retrying cannot help, the last error once the time is over.
        """
        retry: Retry | None = None  # made when the first attempt has failed
        limit_s = min(attempt_s or self._attempt_s, self._timeout_s)
        began = self._runtime.now()
        moved = 0
        while True:
            preferred = self._preferred
            try:
                address = self._address(inode, moved)
                return await invoke(self._transport, address, method, message, timeout_s=limit_s)
            except RequestError:
                raise  # an answer: most names that are looked up before a create do not exist
            except (Timeout, Unreachable) as exc:
                moved += 1
                if inode is None and self._preferred == preferred:  # else another request has moved it already
                    self._preferred += 1
                error: ThreefsError = exc
            except ThreefsError as exc:
                error = exc
            retry = retry or Retry(self._runtime, self._timeout_s - (self._runtime.now() - began), most_s=PAUSE_S_MAX)
            await _pause(retry, error)
            limit_s = min(attempt_s or self._attempt_s, retry.left_s)

    def address(self) -> str:
        """The daemon in use; Unreachable if none is known."""
        return self._address(None, 0)

    def _address(self, inode: int | None, moved: int) -> str:
        nodes = self._nodes()
        if not nodes:
            raise Unreachable("no metadata daemon is known; see `3fs node list`")
        if len(nodes) == 1:
            return nodes[0].address
        first = self._preferred if inode is None else owner(inode, [node.id for node in nodes]) + moved
        return nodes[first % len(nodes)].address


async def _pause(retry: Retry, error: ThreefsError) -> None:
    """Waits before the next attempt; raises `error` if there is no time left for one that means anything."""
    await retry.pause(error)
    if retry.left_s < LAST_ATTEMPT_S_MIN:
        raise error
