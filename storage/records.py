"""Chunk metadata on the wire: `storage.engine.ChunkMeta` to and from proto/storage.proto."""

from __future__ import annotations

from threefs.common.ids import ChainVersion, ChunkId, ChunkVersion, InodeId
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
    )
