from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Credentials(_message.Message):
    __slots__ = ("uid", "gid", "groups", "token")
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    uid: int
    gid: int
    groups: _containers.RepeatedScalarFieldContainer[int]
    token: str
    def __init__(self, uid: _Optional[int] = ..., gid: _Optional[int] = ..., groups: _Optional[_Iterable[int]] = ..., token: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("user", "client_id", "request_id")
    USER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    user: Credentials
    client_id: bytes
    request_id: bytes
    def __init__(self, user: _Optional[_Union[Credentials, _Mapping]] = ..., client_id: _Optional[bytes] = ..., request_id: _Optional[bytes] = ...) -> None: ...

class At(_message.Message):
    __slots__ = ("inode", "path")
    INODE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    inode: int
    path: bytes
    def __init__(self, inode: _Optional[int] = ..., path: _Optional[bytes] = ...) -> None: ...

class Layout(_message.Message):
    __slots__ = ("table", "table_version", "chunk_bytes", "stripe", "chains")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    TABLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    STRIPE_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    table: int
    table_version: int
    chunk_bytes: int
    stripe: int
    chains: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, table: _Optional[int] = ..., table_version: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., stripe: _Optional[int] = ..., chains: _Optional[_Iterable[int]] = ...) -> None: ...

class Inode(_message.Message):
    __slots__ = ("id", "type", "mode", "uid", "gid", "nlink", "length", "atime_us", "mtime_us", "ctime_us", "layout", "parent", "symlink", "rdev", "truncate_version", "flags")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    NLINK_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ATIME_US_FIELD_NUMBER: _ClassVar[int]
    MTIME_US_FIELD_NUMBER: _ClassVar[int]
    CTIME_US_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SYMLINK_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    id: int
    type: int
    mode: int
    uid: int
    gid: int
    nlink: int
    length: int
    atime_us: int
    mtime_us: int
    ctime_us: int
    layout: Layout
    parent: int
    symlink: bytes
    rdev: int
    truncate_version: int
    flags: int
    def __init__(self, id: _Optional[int] = ..., type: _Optional[int] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., nlink: _Optional[int] = ..., length: _Optional[int] = ..., atime_us: _Optional[int] = ..., mtime_us: _Optional[int] = ..., ctime_us: _Optional[int] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., parent: _Optional[int] = ..., symlink: _Optional[bytes] = ..., rdev: _Optional[int] = ..., truncate_version: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class InodeReply(_message.Message):
    __slots__ = ("inode",)
    INODE_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("header", "at", "follow", "bare")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    BARE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    follow: bool
    bare: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., follow: _Optional[bool] = ..., bare: _Optional[bool] = ...) -> None: ...

class BatchStatRequest(_message.Message):
    __slots__ = ("header", "items", "follow")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    header: Header
    items: _containers.RepeatedCompositeFieldContainer[At]
    follow: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., items: _Optional[_Iterable[_Union[At, _Mapping]]] = ..., follow: _Optional[bool] = ...) -> None: ...

class BatchStatReply(_message.Message):
    __slots__ = ("results",)
    class Result(_message.Message):
        __slots__ = ("inode", "errno")
        INODE_FIELD_NUMBER: _ClassVar[int]
        ERRNO_FIELD_NUMBER: _ClassVar[int]
        inode: Inode
        errno: int
        def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., errno: _Optional[int] = ...) -> None: ...
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchStatReply.Result]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchStatReply.Result, _Mapping]]] = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("header", "at", "mode", "flags", "session", "layout", "pin")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    mode: int
    flags: int
    session: bytes
    layout: Layout
    pin: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., mode: _Optional[int] = ..., flags: _Optional[int] = ..., session: _Optional[bytes] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ..., pin: _Optional[bool] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("header", "at", "flags", "session", "pin")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    flags: int
    session: bytes
    pin: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., flags: _Optional[int] = ..., session: _Optional[bytes] = ..., pin: _Optional[bool] = ...) -> None: ...

class OpenReply(_message.Message):
    __slots__ = ("inode", "created", "session")
    INODE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    inode: Inode
    created: bool
    session: bool
    def __init__(self, inode: _Optional[_Union[Inode, _Mapping]] = ..., created: _Optional[bool] = ..., session: _Optional[bool] = ...) -> None: ...

class LengthHint(_message.Message):
    __slots__ = ("length", "truncate_version", "mtime_us")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MTIME_US_FIELD_NUMBER: _ClassVar[int]
    length: int
    truncate_version: int
    mtime_us: int
    def __init__(self, length: _Optional[int] = ..., truncate_version: _Optional[int] = ..., mtime_us: _Optional[int] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("header", "inode", "session", "hint")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    inode: int
    session: bytes
    hint: LengthHint
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., inode: _Optional[int] = ..., session: _Optional[bytes] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ...) -> None: ...

class SyncRequest(_message.Message):
    __slots__ = ("header", "inode", "hint", "precise")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    PRECISE_FIELD_NUMBER: _ClassVar[int]
    header: Header
    inode: int
    hint: LengthHint
    precise: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., inode: _Optional[int] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ..., precise: _Optional[bool] = ...) -> None: ...

class ReportLengthsRequest(_message.Message):
    __slots__ = ("header", "items")
    class Item(_message.Message):
        __slots__ = ("inode", "hint")
        INODE_FIELD_NUMBER: _ClassVar[int]
        HINT_FIELD_NUMBER: _ClassVar[int]
        inode: int
        hint: LengthHint
        def __init__(self, inode: _Optional[int] = ..., hint: _Optional[_Union[LengthHint, _Mapping]] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    items: _containers.RepeatedCompositeFieldContainer[ReportLengthsRequest.Item]
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., items: _Optional[_Iterable[_Union[ReportLengthsRequest.Item, _Mapping]]] = ...) -> None: ...

class ReportLengthsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TruncateRequest(_message.Message):
    __slots__ = ("header", "at", "length", "opened")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    length: int
    opened: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., length: _Optional[int] = ..., opened: _Optional[bool] = ...) -> None: ...

class SetAttributesRequest(_message.Message):
    __slots__ = ("header", "at", "follow", "mode", "uid", "gid", "atime_us", "mtime_us", "atime_now", "mtime_now")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    ATIME_US_FIELD_NUMBER: _ClassVar[int]
    MTIME_US_FIELD_NUMBER: _ClassVar[int]
    ATIME_NOW_FIELD_NUMBER: _ClassVar[int]
    MTIME_NOW_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    follow: bool
    mode: int
    uid: int
    gid: int
    atime_us: int
    mtime_us: int
    atime_now: bool
    mtime_now: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., follow: _Optional[bool] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., atime_us: _Optional[int] = ..., mtime_us: _Optional[int] = ..., atime_now: _Optional[bool] = ..., mtime_now: _Optional[bool] = ...) -> None: ...

class MakeDirectoryRequest(_message.Message):
    __slots__ = ("header", "at", "mode", "parents", "layout")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    mode: int
    parents: bool
    layout: Layout
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., mode: _Optional[int] = ..., parents: _Optional[bool] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ...) -> None: ...

class MakeSymlinkRequest(_message.Message):
    __slots__ = ("header", "at", "target")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    target: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., target: _Optional[bytes] = ...) -> None: ...

class MakeNodeRequest(_message.Message):
    __slots__ = ("header", "at", "type", "mode", "rdev")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    type: int
    mode: int
    rdev: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., type: _Optional[int] = ..., mode: _Optional[int] = ..., rdev: _Optional[int] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("header", "source", "target", "follow")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    header: Header
    source: At
    target: At
    follow: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., source: _Optional[_Union[At, _Mapping]] = ..., target: _Optional[_Union[At, _Mapping]] = ..., follow: _Optional[bool] = ...) -> None: ...

class RenameRequest(_message.Message):
    __slots__ = ("header", "source", "target", "flags")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    source: At
    target: At
    flags: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., source: _Optional[_Union[At, _Mapping]] = ..., target: _Optional[_Union[At, _Mapping]] = ..., flags: _Optional[int] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("header", "at", "kind")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FILE: _ClassVar[RemoveRequest.Kind]
        DIRECTORY: _ClassVar[RemoveRequest.Kind]
        RECURSIVE: _ClassVar[RemoveRequest.Kind]
    FILE: RemoveRequest.Kind
    DIRECTORY: RemoveRequest.Kind
    RECURSIVE: RemoveRequest.Kind
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    kind: RemoveRequest.Kind
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., kind: _Optional[_Union[RemoveRequest.Kind, str]] = ...) -> None: ...

class RemoveReply(_message.Message):
    __slots__ = ("inode", "nlink")
    INODE_FIELD_NUMBER: _ClassVar[int]
    NLINK_FIELD_NUMBER: _ClassVar[int]
    inode: int
    nlink: int
    def __init__(self, inode: _Optional[int] = ..., nlink: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("header", "at", "after", "limit", "attributes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    after: bytes
    limit: int
    attributes: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., after: _Optional[bytes] = ..., limit: _Optional[int] = ..., attributes: _Optional[bool] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("entries", "more")
    class Entry(_message.Message):
        __slots__ = ("name", "inode", "type", "attributes")
        NAME_FIELD_NUMBER: _ClassVar[int]
        INODE_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
        name: bytes
        inode: int
        type: int
        attributes: Inode
        def __init__(self, name: _Optional[bytes] = ..., inode: _Optional[int] = ..., type: _Optional[int] = ..., attributes: _Optional[_Union[Inode, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[ListReply.Entry]
    more: bool
    def __init__(self, entries: _Optional[_Iterable[_Union[ListReply.Entry, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class RealPathRequest(_message.Message):
    __slots__ = ("header", "at")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class RealPathReply(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    def __init__(self, path: _Optional[bytes] = ...) -> None: ...

class StatFsRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class StatFsReply(_message.Message):
    __slots__ = ("capacity_bytes", "free_bytes")
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    capacity_bytes: int
    free_bytes: int
    def __init__(self, capacity_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ...) -> None: ...

class GetXattrRequest(_message.Message):
    __slots__ = ("header", "at", "name")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    name: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., name: _Optional[bytes] = ...) -> None: ...

class GetXattrReply(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    def __init__(self, value: _Optional[bytes] = ...) -> None: ...

class SetXattrRequest(_message.Message):
    __slots__ = ("header", "at", "name", "value", "flags")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    name: bytes
    value: bytes
    flags: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., name: _Optional[bytes] = ..., value: _Optional[bytes] = ..., flags: _Optional[int] = ...) -> None: ...

class SetXattrReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListXattrsRequest(_message.Message):
    __slots__ = ("header", "at")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ...) -> None: ...

class ListXattrsReply(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, names: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RemoveXattrRequest(_message.Message):
    __slots__ = ("header", "at", "name")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    name: bytes
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., name: _Optional[bytes] = ...) -> None: ...

class RemoveXattrReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetLayoutRequest(_message.Message):
    __slots__ = ("header", "at", "layout")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    at: At
    layout: Layout
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., at: _Optional[_Union[At, _Mapping]] = ..., layout: _Optional[_Union[Layout, _Mapping]] = ...) -> None: ...

class SessionRef(_message.Message):
    __slots__ = ("inode", "session")
    INODE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    inode: int
    session: bytes
    def __init__(self, inode: _Optional[int] = ..., session: _Optional[bytes] = ...) -> None: ...

class PruneSessionsRequest(_message.Message):
    __slots__ = ("header", "sessions", "settled")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    header: Header
    sessions: _containers.RepeatedCompositeFieldContainer[SessionRef]
    settled: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., sessions: _Optional[_Iterable[_Union[SessionRef, _Mapping]]] = ..., settled: _Optional[bool] = ...) -> None: ...

class PruneSessionsReply(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: int
    def __init__(self, removed: _Optional[int] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("uid", "name", "gid", "groups", "root", "admin", "token_ends_us")
    UID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ENDS_US_FIELD_NUMBER: _ClassVar[int]
    uid: int
    name: str
    gid: int
    groups: _containers.RepeatedScalarFieldContainer[int]
    root: bool
    admin: bool
    token_ends_us: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, uid: _Optional[int] = ..., name: _Optional[str] = ..., gid: _Optional[int] = ..., groups: _Optional[_Iterable[int]] = ..., root: _Optional[bool] = ..., admin: _Optional[bool] = ..., token_ends_us: _Optional[_Iterable[int]] = ...) -> None: ...

class PutUserRequest(_message.Message):
    __slots__ = ("header", "user", "new_token", "token_lifetime_us", "revoke_tokens", "grace_us", "create_only")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_LIFETIME_US_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GRACE_US_FIELD_NUMBER: _ClassVar[int]
    CREATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    header: Header
    user: User
    new_token: bool
    token_lifetime_us: int
    revoke_tokens: bool
    grace_us: int
    create_only: bool
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., user: _Optional[_Union[User, _Mapping]] = ..., new_token: _Optional[bool] = ..., token_lifetime_us: _Optional[int] = ..., revoke_tokens: _Optional[bool] = ..., grace_us: _Optional[int] = ..., create_only: _Optional[bool] = ...) -> None: ...

class PutUserReply(_message.Message):
    __slots__ = ("user", "token")
    USER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    user: User
    token: str
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ..., token: _Optional[str] = ...) -> None: ...

class GetUserRequest(_message.Message):
    __slots__ = ("header", "uid")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    header: Header
    uid: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., uid: _Optional[int] = ...) -> None: ...

class UserReply(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: User
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ...) -> None: ...

class ListUsersRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class ListUsersReply(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[User]
    def __init__(self, users: _Optional[_Iterable[_Union[User, _Mapping]]] = ...) -> None: ...

class RemoveUserRequest(_message.Message):
    __slots__ = ("header", "uid")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    header: Header
    uid: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., uid: _Optional[int] = ...) -> None: ...

class RemoveUserReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIRequest(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: Header
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("header", "kind", "cursor", "limit")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INODES: _ClassVar[ScanRequest.Kind]
        ENTRIES: _ClassVar[ScanRequest.Kind]
        SESSIONS: _ClassVar[ScanRequest.Kind]
        GARBAGE: _ClassVar[ScanRequest.Kind]
        REQUESTS: _ClassVar[ScanRequest.Kind]
    INODES: ScanRequest.Kind
    ENTRIES: ScanRequest.Kind
    SESSIONS: ScanRequest.Kind
    GARBAGE: ScanRequest.Kind
    REQUESTS: ScanRequest.Kind
    HEADER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    header: Header
    kind: ScanRequest.Kind
    cursor: bytes
    limit: int
    def __init__(self, header: _Optional[_Union[Header, _Mapping]] = ..., kind: _Optional[_Union[ScanRequest.Kind, str]] = ..., cursor: _Optional[bytes] = ..., limit: _Optional[int] = ...) -> None: ...

class ScanReply(_message.Message):
    __slots__ = ("inodes", "entries", "sessions", "garbage", "requests", "next")
    class Entry(_message.Message):
        __slots__ = ("parent", "name", "inode", "type")
        PARENT_FIELD_NUMBER: _ClassVar[int]
        NAME_FIELD_NUMBER: _ClassVar[int]
        INODE_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        parent: int
        name: bytes
        inode: int
        type: int
        def __init__(self, parent: _Optional[int] = ..., name: _Optional[bytes] = ..., inode: _Optional[int] = ..., type: _Optional[int] = ...) -> None: ...
    class Session(_message.Message):
        __slots__ = ("inode", "session", "client_id", "created_us")
        INODE_FIELD_NUMBER: _ClassVar[int]
        SESSION_FIELD_NUMBER: _ClassVar[int]
        CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
        CREATED_US_FIELD_NUMBER: _ClassVar[int]
        inode: int
        session: bytes
        client_id: bytes
        created_us: int
        def __init__(self, inode: _Optional[int] = ..., session: _Optional[bytes] = ..., client_id: _Optional[bytes] = ..., created_us: _Optional[int] = ...) -> None: ...
    class Garbage(_message.Message):
        __slots__ = ("inode", "type", "due_us")
        INODE_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        DUE_US_FIELD_NUMBER: _ClassVar[int]
        inode: int
        type: int
        due_us: int
        def __init__(self, inode: _Optional[int] = ..., type: _Optional[int] = ..., due_us: _Optional[int] = ...) -> None: ...
    INODES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    GARBAGE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    inodes: _containers.RepeatedCompositeFieldContainer[Inode]
    entries: _containers.RepeatedCompositeFieldContainer[ScanReply.Entry]
    sessions: _containers.RepeatedCompositeFieldContainer[ScanReply.Session]
    garbage: _containers.RepeatedCompositeFieldContainer[ScanReply.Garbage]
    requests: int
    next: bytes
    def __init__(self, inodes: _Optional[_Iterable[_Union[Inode, _Mapping]]] = ..., entries: _Optional[_Iterable[_Union[ScanReply.Entry, _Mapping]]] = ..., sessions: _Optional[_Iterable[_Union[ScanReply.Session, _Mapping]]] = ..., garbage: _Optional[_Iterable[_Union[ScanReply.Garbage, _Mapping]]] = ..., requests: _Optional[int] = ..., next: _Optional[bytes] = ...) -> None: ...
