"""Who is primary: one record in the store. Only this module compares clocks; all others ask `Lease.is_valid()`.

A holder renews the record every `extend_s`. Another mgmtd takes it once it has seen the same renewal for `lease_s` on
its own clock; the holder believes in it until `lease_s - margin_s` after it *sent* its last successful renewal. So
two mgmtds never believe at once as long as their clocks run at nearly the same speed; what they show does not matter.
A mgmtd that is started again takes its own record at once: its former life is over.
"""

from __future__ import annotations

import logging

from threefs.common.errors import ThreefsError
from threefs.common.ids import NodeId
from threefs.common.kv.interface import KvEngine, Transaction
from threefs.common.runtime.interface import Runtime
from threefs.mgmtd.config import LeaseConfig
from threefs.mgmtd.store import LEASE_KEY, read_lease
from threefs.proto import mgmtd_pb2 as pb

_log = logging.getLogger(__name__)


class Lease:
    """This daemon's share in the lease: `tick` every `extend_s`, ask `is_valid` before every answer."""

    def __init__(self, runtime: Runtime, engine: KvEngine, config: LeaseConfig, *, node: NodeId) -> None:
        self.holder = runtime.uuid()
        self.primary = pb.LeaseRecord()  # the record as last seen; an empty one: nobody
        self._runtime = runtime
        self._engine = engine
        self._config = config
        self._own = pb.LeaseRecord(node=node, holder=self.holder, started_us=runtime.wall_us())
        self._seen_since = runtime.now()  # since when `primary` has not changed
        self._trusted_until = float("-inf")

    def set_address(self, address: str) -> None:
        """Where others reach this daemon; known once it listens, before the first `tick`."""
        self._own.address = address

    def is_valid(self) -> bool:
        """True while no other mgmtd can have taken the lease."""
        return self._runtime.now() < self._trusted_until

    async def tick(self) -> bool:
        """Renews, takes or watches the record; True if this daemon is primary afterwards."""
        sent_at = self._runtime.now()
        try:
            held = await self._engine.transact(self._renew, timeout_s=self._config.lease_s / 2)
        except ThreefsError as exc:
            _log.warning("the lease could not be renewed or read: %s", exc)
            return self.is_valid()
        if held:
            self._trusted_until = sent_at + self._config.lease_s - self._config.margin_s
        else:
            self._trusted_until = float("-inf")
        return self.is_valid()

    async def _renew(self, transaction: Transaction) -> bool:
        record = await read_lease(transaction)
        if record != self.primary:
            self.primary, self._seen_since = record, self._runtime.now()
        if record.holder != self.holder and not self._may_take(record):
            return False
        self._own.renewals = record.renewals + 1
        transaction.set(LEASE_KEY, self._own.SerializeToString())
        return True

    def _may_take(self, record: pb.LeaseRecord) -> bool:
        if not record.holder:
            return True
        if record.node == self._own.node and record.started_us < self._own.started_us:
            return True
        return self._runtime.now() - self._seen_since >= self._config.lease_s

    def distrust(self) -> None:
        """Something went wrong in this primary: no more answers until the next `tick` has renewed."""
        self._trusted_until = float("-inf")

    async def release(self) -> None:
        """Gives the lease back at a clean stop, so that another takes it at once; nothing if it is not held."""
        self.distrust()

        async def body(transaction: Transaction) -> None:
            if (await read_lease(transaction)).holder == self.holder:
                transaction.set(LEASE_KEY, b"")

        try:
            await self._engine.transact(body, timeout_s=1.0)
        except ThreefsError as exc:
            _log.warning("the lease was not given back: %s", exc)
