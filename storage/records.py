"""Chunk metadata on the wire: `storage.engine.ChunkMeta` to and from proto/storage.proto."""

from __future__ import annotations

from threefs.client.storage.channels import NOBODY, Ticket
from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, ClientId, InodeId
from threefs.proto import storage_pb2 as pb
from threefs.storage.engine import ChunkMeta


def chunk_to_proto(meta: ChunkMeta) -> pb.ChunkRecord:
    return pb.ChunkRecord(
        inode=meta.chunk.inode,
        number=meta.chunk.number,
        committed=meta.committed,
        committed_chain_version=meta.committed_chain_version,
        length=meta.length,
        crc32c=meta.crc32c,
        pending=meta.pending,
        pending_chain_version=meta.pending_chain_version,
        pending_length=meta.pending_length,
        pending_crc32c=meta.pending_crc32c,
        pending_remove=meta.pending_remove,
        chunk_bytes=meta.chunk_bytes,
        modified_us=meta.modified_us,
        ticket=ticket_to_proto(meta.ticket),
        pending_ticket=ticket_to_proto(meta.pending_ticket),
    )


def chunk_from_proto(record: pb.ChunkRecord) -> ChunkMeta:
    return ChunkMeta(
        ChunkId(InodeId(record.inode), record.number),
        ChunkVersion(record.committed),
        ChainVersion(record.committed_chain_version),
        record.length,
        record.crc32c,
        ChunkVersion(record.pending),
        ChainVersion(record.pending_chain_version),
        record.pending_length,
        record.pending_crc32c,
        record.pending_remove,
        record.chunk_bytes,
        record.modified_us,
        ticket_from_proto(record.ticket),
        ticket_from_proto(record.pending_ticket),
    )


def ticket_to_proto(ticket: Ticket) -> pb.Ticket | None:
    if ticket == NOBODY:
        return None
    return pb.Ticket(client=ticket.client, channel=ticket.channel, sequence=ticket.sequence)


def ticket_from_proto(message: pb.Ticket) -> Ticket:
    return Ticket(ClientId(message.client), message.channel, message.sequence) if message.sequence else NOBODY
