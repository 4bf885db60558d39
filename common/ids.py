"""Identifiers. Every id in the cluster has one type here, so that mypy tells a chain from a target.

The packed form of a chunk id is documented once, at `ChunkId.pack`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, NewType

NodeId = NewType("NodeId", int)  # u32; a daemon, or a client's mount
TargetId = NewType("TargetId", int)  # u64; one replica's place on one disk
ChainId = NewType("ChainId", int)  # u32; an ordered list of targets
ChainTableId = NewType("ChainTableId", int)  # u32; an ordered list of chains
ChainVersion = NewType("ChainVersion", int)  # grows by one with each change of the chain's members or states
ChunkVersion = NewType("ChunkVersion", int)  # grows by one with each update of a chunk; 0 means "no such chunk"
RoutingVersion = NewType("RoutingVersion", int)
InodeId = NewType("InodeId", int)  # u64
ClientId = NewType("ClientId", bytes)  # 16 random bytes; one per client process
RequestId = NewType("RequestId", bytes)  # 16 random bytes; the same on every retry of one request
SessionId = NewType("SessionId", bytes)  # 16 random bytes; one write-open file

ROOT_INODE: Final = InodeId(1)  # the FUSE kernel's root as well, so no translation is needed
GC_ROOT_INODE: Final = InodeId(2)
FIRST_FREE_INODE: Final = InodeId(0x1000)

CHUNK_INDEX_MAX: Final = 2**32 - 1

_CHUNK_ID = struct.Struct(">QII")


class ChunkId(NamedTuple):
    """One chunk of one file: the bytes [number * chunk_bytes, (number + 1) * chunk_bytes)."""

    inode: InodeId
    number: int

    def pack(self) -> bytes:
        """16 bytes that sort by inode, then number: BE64 inode, BE32 zero (reserved), BE32 number."""
        return _CHUNK_ID.pack(self.inode, 0, self.number)

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> ChunkId:
        """Inverse of `pack`; raises ValueError on a wrong size or a reserved field that is not zero."""
        if len(raw) != _CHUNK_ID.size:
            raise ValueError(f"chunk id has {len(raw)} bytes, expected {_CHUNK_ID.size}")
        inode, reserved, number = _CHUNK_ID.unpack(raw)
        if reserved:
            raise ValueError(f"chunk id has reserved field {reserved:#x}, expected 0")
        return cls(InodeId(inode), number)

    def __str__(self) -> str:
        return f"{self.inode:#x}.{self.number}"
