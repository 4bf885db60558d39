"""The descriptors of `native/engine.h` as bytes: what a batch is made of before C sees it, and what comes back in it.

`NativeEngine` packs and unpacks whole batches with them. One rule: the sizes are compared with the compiler's when this
is imported, so that a field that is added on one side only stops the daemon, not the data.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from threefs.client.storage.channels import Ticket
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, ClientId, TargetId
from threefs.native._core import ffi
from threefs.storage.engine import READ_ARRAY, ChunkMeta, Finished, Outcome, Update

UPDATE: Final = struct.Struct("=Q16sQQQIIIIIIiIIIQ16sQII")
UPDATE_RESULT: Final = struct.Struct("=72xiIIIQ")
READ: Final = struct.Struct("=Q16sQIIIiQQQIIQ")
READ_RESULT: Final = struct.Struct("=44xiQQQIIQ")
COMMIT: Final = struct.Struct("=Q16sQQiIQ")
COMMIT_RESULT: Final = struct.Struct("=40xi4xQ")
META: Final = struct.Struct("=Q16sQQQQQIIIIIIiI16sQII16sQII")
FINISHED: Final = struct.Struct("=Q16sQIIQQQII")
ID: Final = struct.Struct(">QII")
GRANT: Final = struct.Struct("=QQII")

for _layout, _name in (
    (UPDATE, "update"),
    (READ, "read"),
    (COMMIT, "commit"),
    (META, "meta"),
    (GRANT, "grant"),
    (FINISHED, "finished"),
):
    assert _layout.size == ffi.sizeof(f"struct engine_{_name}"), f"engine_{_name} is packed wrongly"
assert READ.size == READ_ARRAY.itemsize, "READ_ARRAY is not struct engine_read"


def release(views: Sequence[Any]) -> None:
    """Lets go of buffers at once. Left to the collector of cycles (a traceback makes one), a memoryview that is cleared
    before the view upon it crashes CPython 3.11."""
    for view in views:
        ffi.release(view)


def pack_update(packed: bytearray, offset: int, update: Update) -> object:
    """Fills one descriptor; returns the view of the data, to be kept until the ticket comes back."""
    view = ffi.from_buffer(update.data)
    UPDATE.pack_into(
        packed,
        offset,
        update.target,
        ID.pack(update.chunk[0], 0, update.chunk[1]),
        update.version,
        update.chain_version,
        int(ffi.cast("uintptr_t", view)),
        update.offset,
        update.length if update.kind in (3, 4) else len(view),
        update.chunk_bytes,
        update.crc32c or 0,
        update.kind,
        update.crc32c is not None,
        0,
        0,
        0,
        0,
        0,
        update.ticket.client,
        update.ticket.sequence,
        update.ticket.channel,
        0,
    )
    return view


def pack_finished(target: TargetId, item: Finished) -> bytes:
    ticket, outcome = item.ticket, item.outcome
    return FINISHED.pack(
        target,
        ticket.client,
        ticket.sequence,
        ticket.channel,
        0,
        outcome.version,
        outcome.chain_version,
        item.finished_us,
        outcome.length,
        outcome.crc32c,
    )


def finished(fields: tuple[Any, ...]) -> Finished:
    _, client, sequence, channel, _, version, chain_version, finished_us, length, crc = fields
    outcome = Outcome(ChunkVersion(version), ChainVersion(chain_version), length, crc)
    return Finished(Ticket(ClientId(client), channel, sequence), outcome, finished_us)


def meta(fields: tuple[Any, ...]) -> ChunkMeta:
    return ChunkMeta(
        chunk=ChunkId.unpack(fields[1]),
        committed=fields[2],
        committed_chain_version=fields[3],
        pending=fields[4],
        pending_chain_version=fields[5],
        modified_us=fields[6],
        length=fields[7],
        crc32c=fields[8],
        pending_length=fields[9],
        pending_crc32c=fields[10],
        pending_remove=bool(fields[11]),
        chunk_bytes=fields[12],
        ticket=Ticket(ClientId(fields[15]), fields[17], fields[16]),
        pending_ticket=Ticket(ClientId(fields[19]), fields[21], fields[20]),
    )
