from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChainTarget(_message.Message):
    __slots__ = ("target", "chain", "chain_version")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    target: int
    chain: int
    chain_version: int
    def __init__(self, target: _Optional[int] = ..., chain: _Optional[int] = ..., chain_version: _Optional[int] = ...) -> None: ...

class QueryLastChunkRequest(_message.Message):
    __slots__ = ("at", "inode")
    AT_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    inode: int
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., inode: _Optional[int] = ...) -> None: ...

class QueryLastChunkReply(_message.Message):
    __slots__ = ("index", "length", "chunk_count")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    index: int
    length: int
    chunk_count: int
    def __init__(self, index: _Optional[int] = ..., length: _Optional[int] = ..., chunk_count: _Optional[int] = ...) -> None: ...

class SeenChunk(_message.Message):
    __slots__ = ("number", "ticket")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    number: int
    ticket: Ticket
    def __init__(self, number: _Optional[int] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ...) -> None: ...

class FindChunksRequest(_message.Message):
    __slots__ = ("at", "inode", "first", "last", "limit")
    AT_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    inode: int
    first: int
    last: int
    limit: int
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., inode: _Optional[int] = ..., first: _Optional[int] = ..., last: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class FindChunksReply(_message.Message):
    __slots__ = ("chunks",)
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[SeenChunk]
    def __init__(self, chunks: _Optional[_Iterable[_Union[SeenChunk, _Mapping]]] = ...) -> None: ...

class RemoveChunksRequest(_message.Message):
    __slots__ = ("at", "inode", "chunks")
    AT_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    inode: int
    chunks: _containers.RepeatedCompositeFieldContainer[SeenChunk]
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., inode: _Optional[int] = ..., chunks: _Optional[_Iterable[_Union[SeenChunk, _Mapping]]] = ...) -> None: ...

class RemoveChunksReply(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: int
    def __init__(self, removed: _Optional[int] = ...) -> None: ...

class TruncateChunkRequest(_message.Message):
    __slots__ = ("at", "inode", "chunk", "length", "chunk_bytes", "ticket")
    AT_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    inode: int
    chunk: SeenChunk
    length: int
    chunk_bytes: int
    ticket: Ticket
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., inode: _Optional[int] = ..., chunk: _Optional[_Union[SeenChunk, _Mapping]] = ..., length: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ...) -> None: ...

class TruncateChunkReply(_message.Message):
    __slots__ = ("changed",)
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    def __init__(self, changed: _Optional[bool] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("client", "channel", "sequence")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    channel: int
    sequence: int
    def __init__(self, client: _Optional[bytes] = ..., channel: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class ChunkRecord(_message.Message):
    __slots__ = ("inode", "number", "committed", "committed_chain_version", "length", "crc32c", "pending", "pending_chain_version", "pending_length", "pending_crc32c", "pending_remove", "chunk_bytes", "modified_us", "ticket", "pending_ticket")
    INODE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    PENDING_CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    PENDING_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PENDING_CRC32C_FIELD_NUMBER: _ClassVar[int]
    PENDING_REMOVE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_US_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PENDING_TICKET_FIELD_NUMBER: _ClassVar[int]
    inode: int
    number: int
    committed: int
    committed_chain_version: int
    length: int
    crc32c: int
    pending: int
    pending_chain_version: int
    pending_length: int
    pending_crc32c: int
    pending_remove: bool
    chunk_bytes: int
    modified_us: int
    ticket: Ticket
    pending_ticket: Ticket
    def __init__(self, inode: _Optional[int] = ..., number: _Optional[int] = ..., committed: _Optional[int] = ..., committed_chain_version: _Optional[int] = ..., length: _Optional[int] = ..., crc32c: _Optional[int] = ..., pending: _Optional[int] = ..., pending_chain_version: _Optional[int] = ..., pending_length: _Optional[int] = ..., pending_crc32c: _Optional[int] = ..., pending_remove: _Optional[bool] = ..., chunk_bytes: _Optional[int] = ..., modified_us: _Optional[int] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., pending_ticket: _Optional[_Union[Ticket, _Mapping]] = ...) -> None: ...

class ListChunksRequest(_message.Message):
    __slots__ = ("target", "inode_begin", "number_begin", "inode_end", "limit")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    INODE_BEGIN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_BEGIN_FIELD_NUMBER: _ClassVar[int]
    INODE_END_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    target: int
    inode_begin: int
    number_begin: int
    inode_end: int
    limit: int
    def __init__(self, target: _Optional[int] = ..., inode_begin: _Optional[int] = ..., number_begin: _Optional[int] = ..., inode_end: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListChunksReply(_message.Message):
    __slots__ = ("chunks", "more")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[ChunkRecord]
    more: bool
    def __init__(self, chunks: _Optional[_Iterable[_Union[ChunkRecord, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class QueryChunkRequest(_message.Message):
    __slots__ = ("target", "inode", "number")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    target: int
    inode: int
    number: int
    def __init__(self, target: _Optional[int] = ..., inode: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class QueryChunkReply(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: ChunkRecord
    def __init__(self, chunk: _Optional[_Union[ChunkRecord, _Mapping]] = ...) -> None: ...

class VerifyChunkRequest(_message.Message):
    __slots__ = ("target", "inode", "number")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    target: int
    inode: int
    number: int
    def __init__(self, target: _Optional[int] = ..., inode: _Optional[int] = ..., number: _Optional[int] = ...) -> None: ...

class VerifyChunkReply(_message.Message):
    __slots__ = ("chunk", "intact", "problem")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    INTACT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    chunk: ChunkRecord
    intact: bool
    problem: str
    def __init__(self, chunk: _Optional[_Union[ChunkRecord, _Mapping]] = ..., intact: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class SpaceInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DiskSpace(_message.Message):
    __slots__ = ("disk_index", "capacity_bytes", "free_bytes", "used_bytes", "chunk_count", "failed", "problem")
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    disk_index: int
    capacity_bytes: int
    free_bytes: int
    used_bytes: int
    chunk_count: int
    failed: bool
    problem: str
    def __init__(self, disk_index: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., chunk_count: _Optional[int] = ..., failed: _Optional[bool] = ..., problem: _Optional[str] = ...) -> None: ...

class SpaceInfoReply(_message.Message):
    __slots__ = ("disks",)
    DISKS_FIELD_NUMBER: _ClassVar[int]
    disks: _containers.RepeatedCompositeFieldContainer[DiskSpace]
    def __init__(self, disks: _Optional[_Iterable[_Union[DiskSpace, _Mapping]]] = ...) -> None: ...

class ListTargetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LocalTarget(_message.Message):
    __slots__ = ("target", "disk_index", "local", "chain_version")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    target: int
    disk_index: int
    local: int
    chain_version: int
    def __init__(self, target: _Optional[int] = ..., disk_index: _Optional[int] = ..., local: _Optional[int] = ..., chain_version: _Optional[int] = ...) -> None: ...

class ListTargetsReply(_message.Message):
    __slots__ = ("targets",)
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[LocalTarget]
    def __init__(self, targets: _Optional[_Iterable[_Union[LocalTarget, _Mapping]]] = ...) -> None: ...

class CreateTargetRequest(_message.Message):
    __slots__ = ("target", "disk_index")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    target: int
    disk_index: int
    def __init__(self, target: _Optional[int] = ..., disk_index: _Optional[int] = ...) -> None: ...

class CreateTargetReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OfflineTargetRequest(_message.Message):
    __slots__ = ("target", "force")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    target: int
    force: bool
    def __init__(self, target: _Optional[int] = ..., force: _Optional[bool] = ...) -> None: ...

class OfflineTargetReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoveTargetRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: int
    def __init__(self, target: _Optional[int] = ...) -> None: ...

class RemoveTargetReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SyncStartRequest(_message.Message):
    __slots__ = ("at", "inode_begin", "number_begin", "limit")
    AT_FIELD_NUMBER: _ClassVar[int]
    INODE_BEGIN_FIELD_NUMBER: _ClassVar[int]
    NUMBER_BEGIN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    inode_begin: int
    number_begin: int
    limit: int
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., inode_begin: _Optional[int] = ..., number_begin: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class SyncStartReply(_message.Message):
    __slots__ = ("chunks", "more")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[ChunkRecord]
    more: bool
    def __init__(self, chunks: _Optional[_Iterable[_Union[ChunkRecord, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class ChannelRecord(_message.Message):
    __slots__ = ("client", "channel", "sequence", "version", "chain_version", "length", "crc32c")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    channel: int
    sequence: int
    version: int
    chain_version: int
    length: int
    crc32c: int
    def __init__(self, client: _Optional[bytes] = ..., channel: _Optional[int] = ..., sequence: _Optional[int] = ..., version: _Optional[int] = ..., chain_version: _Optional[int] = ..., length: _Optional[int] = ..., crc32c: _Optional[int] = ...) -> None: ...

class SyncDoneRequest(_message.Message):
    __slots__ = ("at", "channels")
    AT_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    channels: _containers.RepeatedCompositeFieldContainer[ChannelRecord]
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., channels: _Optional[_Iterable[_Union[ChannelRecord, _Mapping]]] = ...) -> None: ...

class SyncDoneReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RepairChunkRequest(_message.Message):
    __slots__ = ("at", "inode", "number", "damaged_target")
    AT_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_TARGET_FIELD_NUMBER: _ClassVar[int]
    at: ChainTarget
    inode: int
    number: int
    damaged_target: int
    def __init__(self, at: _Optional[_Union[ChainTarget, _Mapping]] = ..., inode: _Optional[int] = ..., number: _Optional[int] = ..., damaged_target: _Optional[int] = ...) -> None: ...

class RepairChunkReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...
