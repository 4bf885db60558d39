from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConfigStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONFIG_NORMAL: _ClassVar[ConfigStatus]
    CONFIG_DIRTY: _ClassVar[ConfigStatus]
    CONFIG_FAILED: _ClassVar[ConfigStatus]
CONFIG_NORMAL: ConfigStatus
CONFIG_DIRTY: ConfigStatus
CONFIG_FAILED: ConfigStatus

class RoutingNode(_message.Message):
    __slots__ = ("id", "type", "status", "address", "grpc_address", "hostname", "pid", "tags", "config_version")
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    id: int
    type: int
    status: int
    address: str
    grpc_address: str
    hostname: str
    pid: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    config_version: int
    def __init__(self, id: _Optional[int] = ..., type: _Optional[int] = ..., status: _Optional[int] = ..., address: _Optional[str] = ..., grpc_address: _Optional[str] = ..., hostname: _Optional[str] = ..., pid: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., config_version: _Optional[int] = ...) -> None: ...

class RoutingTarget(_message.Message):
    __slots__ = ("id", "node", "chain", "disk_index", "public", "local", "used_bytes", "low_space")
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOW_SPACE_FIELD_NUMBER: _ClassVar[int]
    id: int
    node: int
    chain: int
    disk_index: int
    public: int
    local: int
    used_bytes: int
    low_space: bool
    def __init__(self, id: _Optional[int] = ..., node: _Optional[int] = ..., chain: _Optional[int] = ..., disk_index: _Optional[int] = ..., public: _Optional[int] = ..., local: _Optional[int] = ..., used_bytes: _Optional[int] = ..., low_space: _Optional[bool] = ...) -> None: ...

class RoutingChain(_message.Message):
    __slots__ = ("id", "version", "targets", "states", "preferred")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_FIELD_NUMBER: _ClassVar[int]
    id: int
    version: int
    targets: _containers.RepeatedScalarFieldContainer[int]
    states: _containers.RepeatedScalarFieldContainer[int]
    preferred: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., version: _Optional[int] = ..., targets: _Optional[_Iterable[int]] = ..., states: _Optional[_Iterable[int]] = ..., preferred: _Optional[_Iterable[int]] = ...) -> None: ...

class RoutingTable(_message.Message):
    __slots__ = ("id", "version", "chains")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    id: int
    version: int
    chains: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., version: _Optional[int] = ..., chains: _Optional[_Iterable[int]] = ...) -> None: ...

class RoutingMap(_message.Message):
    __slots__ = ("version", "cluster_id", "nodes", "targets", "chains", "tables")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    version: int
    cluster_id: str
    nodes: _containers.RepeatedCompositeFieldContainer[RoutingNode]
    targets: _containers.RepeatedCompositeFieldContainer[RoutingTarget]
    chains: _containers.RepeatedCompositeFieldContainer[RoutingChain]
    tables: _containers.RepeatedCompositeFieldContainer[RoutingTable]
    def __init__(self, version: _Optional[int] = ..., cluster_id: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[RoutingNode, _Mapping]]] = ..., targets: _Optional[_Iterable[_Union[RoutingTarget, _Mapping]]] = ..., chains: _Optional[_Iterable[_Union[RoutingChain, _Mapping]]] = ..., tables: _Optional[_Iterable[_Union[RoutingTable, _Mapping]]] = ...) -> None: ...

class ConfigRecord(_message.Message):
    __slots__ = ("node_type", "version", "toml", "description", "created_us")
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOML_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CREATED_US_FIELD_NUMBER: _ClassVar[int]
    node_type: int
    version: int
    toml: str
    description: str
    created_us: int
    def __init__(self, node_type: _Optional[int] = ..., version: _Optional[int] = ..., toml: _Optional[str] = ..., description: _Optional[str] = ..., created_us: _Optional[int] = ...) -> None: ...

class GetPrimaryRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPrimaryReply(_message.Message):
    __slots__ = ("node", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: int
    address: str
    def __init__(self, node: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class GetRoutingRequest(_message.Message):
    __slots__ = ("seen_version", "wait_s")
    SEEN_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    seen_version: int
    wait_s: float
    def __init__(self, seen_version: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class GetRoutingReply(_message.Message):
    __slots__ = ("routing", "version")
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    routing: RoutingMap
    version: int
    def __init__(self, routing: _Optional[_Union[RoutingMap, _Mapping]] = ..., version: _Optional[int] = ...) -> None: ...

class RegisterNodeRequest(_message.Message):
    __slots__ = ("node", "cluster_id", "incarnation", "started_us", "release")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    node: RoutingNode
    cluster_id: str
    incarnation: bytes
    started_us: int
    release: str
    def __init__(self, node: _Optional[_Union[RoutingNode, _Mapping]] = ..., cluster_id: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., started_us: _Optional[int] = ..., release: _Optional[str] = ...) -> None: ...

class RegisterNodeReply(_message.Message):
    __slots__ = ("cluster_id", "timings", "config")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    timings: Timings
    config: ConfigRecord
    def __init__(self, cluster_id: _Optional[str] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., config: _Optional[_Union[ConfigRecord, _Mapping]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("heartbeat_interval_s", "failure_timeout_s")
    HEARTBEAT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    FAILURE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    heartbeat_interval_s: float
    failure_timeout_s: float
    def __init__(self, heartbeat_interval_s: _Optional[float] = ..., failure_timeout_s: _Optional[float] = ...) -> None: ...

class TargetReport(_message.Message):
    __slots__ = ("target", "local", "chain_version", "disk_index", "used_bytes", "low_space")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOW_SPACE_FIELD_NUMBER: _ClassVar[int]
    target: int
    local: int
    chain_version: int
    disk_index: int
    used_bytes: int
    low_space: bool
    def __init__(self, target: _Optional[int] = ..., local: _Optional[int] = ..., chain_version: _Optional[int] = ..., disk_index: _Optional[int] = ..., used_bytes: _Optional[int] = ..., low_space: _Optional[bool] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("node", "incarnation", "number", "targets", "config_version", "config_status", "config_message")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_STATUS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    node: int
    incarnation: bytes
    number: int
    targets: _containers.RepeatedCompositeFieldContainer[TargetReport]
    config_version: int
    config_status: ConfigStatus
    config_message: str
    def __init__(self, node: _Optional[int] = ..., incarnation: _Optional[bytes] = ..., number: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[TargetReport, _Mapping]]] = ..., config_version: _Optional[int] = ..., config_status: _Optional[_Union[ConfigStatus, str]] = ..., config_message: _Optional[str] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("timings", "routing_version", "config")
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    ROUTING_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    timings: Timings
    routing_version: int
    config: ConfigRecord
    def __init__(self, timings: _Optional[_Union[Timings, _Mapping]] = ..., routing_version: _Optional[int] = ..., config: _Optional[_Union[ConfigRecord, _Mapping]] = ...) -> None: ...

class UnregisterNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: int
    def __init__(self, node: _Optional[int] = ...) -> None: ...

class UnregisterNodeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnableNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: int
    def __init__(self, node: _Optional[int] = ...) -> None: ...

class EnableNodeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DisableNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: int
    def __init__(self, node: _Optional[int] = ...) -> None: ...

class DisableNodeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetNodeTagsRequest(_message.Message):
    __slots__ = ("node", "tags")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    node: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class SetNodeTagsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetUniversalTagsRequest(_message.Message):
    __slots__ = ("name", "tags")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ...) -> None: ...

class SetUniversalTagsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetUniversalTagsRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetUniversalTagsReply(_message.Message):
    __slots__ = ("tags",)
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tags: _Optional[_Iterable[str]] = ...) -> None: ...

class SetClusterConfigRequest(_message.Message):
    __slots__ = ("node_type", "toml", "description")
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    TOML_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    node_type: int
    toml: str
    description: str
    def __init__(self, node_type: _Optional[int] = ..., toml: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class SetClusterConfigReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class GetClusterConfigRequest(_message.Message):
    __slots__ = ("node_type", "version")
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    node_type: int
    version: int
    def __init__(self, node_type: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class GetClusterConfigReply(_message.Message):
    __slots__ = ("config",)
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    config: ConfigRecord
    def __init__(self, config: _Optional[_Union[ConfigRecord, _Mapping]] = ...) -> None: ...

class GetConfigVersionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetConfigVersionsReply(_message.Message):
    __slots__ = ("configs", "nodes")
    CONFIGS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    configs: _containers.RepeatedCompositeFieldContainer[ConfigRecord]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeConfigState]
    def __init__(self, configs: _Optional[_Iterable[_Union[ConfigRecord, _Mapping]]] = ..., nodes: _Optional[_Iterable[_Union[NodeConfigState, _Mapping]]] = ...) -> None: ...

class NodeConfigState(_message.Message):
    __slots__ = ("node", "version", "status", "message")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    node: int
    version: int
    status: ConfigStatus
    message: str
    def __init__(self, node: _Optional[int] = ..., version: _Optional[int] = ..., status: _Optional[_Union[ConfigStatus, str]] = ..., message: _Optional[str] = ...) -> None: ...

class ChainSetting(_message.Message):
    __slots__ = ("chain", "targets")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    chain: int
    targets: _containers.RepeatedCompositeFieldContainer[TargetPlace]
    def __init__(self, chain: _Optional[int] = ..., targets: _Optional[_Iterable[_Union[TargetPlace, _Mapping]]] = ...) -> None: ...

class TargetPlace(_message.Message):
    __slots__ = ("target", "node", "disk_index")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    target: int
    node: int
    disk_index: int
    def __init__(self, target: _Optional[int] = ..., node: _Optional[int] = ..., disk_index: _Optional[int] = ...) -> None: ...

class SetChainsRequest(_message.Message):
    __slots__ = ("chains",)
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    chains: _containers.RepeatedCompositeFieldContainer[ChainSetting]
    def __init__(self, chains: _Optional[_Iterable[_Union[ChainSetting, _Mapping]]] = ...) -> None: ...

class SetChainsReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetChainTableRequest(_message.Message):
    __slots__ = ("table", "chains")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    CHAINS_FIELD_NUMBER: _ClassVar[int]
    table: int
    chains: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, table: _Optional[int] = ..., chains: _Optional[_Iterable[int]] = ...) -> None: ...

class SetChainTableReply(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class UpdateChainRequest(_message.Message):
    __slots__ = ("chain", "mode", "target")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ADD: _ClassVar[UpdateChainRequest.Mode]
        REMOVE: _ClassVar[UpdateChainRequest.Mode]
    ADD: UpdateChainRequest.Mode
    REMOVE: UpdateChainRequest.Mode
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    chain: int
    mode: UpdateChainRequest.Mode
    target: TargetPlace
    def __init__(self, chain: _Optional[int] = ..., mode: _Optional[_Union[UpdateChainRequest.Mode, str]] = ..., target: _Optional[_Union[TargetPlace, _Mapping]] = ...) -> None: ...

class UpdateChainReply(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: RoutingChain
    def __init__(self, chain: _Optional[_Union[RoutingChain, _Mapping]] = ...) -> None: ...

class RotateLastServingRequest(_message.Message):
    __slots__ = ("chain", "chain_version")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    chain: int
    chain_version: int
    def __init__(self, chain: _Optional[int] = ..., chain_version: _Optional[int] = ...) -> None: ...

class RotateLastServingReply(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: RoutingChain
    def __init__(self, chain: _Optional[_Union[RoutingChain, _Mapping]] = ...) -> None: ...

class SetPreferredOrderRequest(_message.Message):
    __slots__ = ("chain", "targets")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    chain: int
    targets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, chain: _Optional[int] = ..., targets: _Optional[_Iterable[int]] = ...) -> None: ...

class SetPreferredOrderReply(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: RoutingChain
    def __init__(self, chain: _Optional[_Union[RoutingChain, _Mapping]] = ...) -> None: ...

class RotateAsPreferredRequest(_message.Message):
    __slots__ = ("chain", "chain_version")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    CHAIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    chain: int
    chain_version: int
    def __init__(self, chain: _Optional[int] = ..., chain_version: _Optional[int] = ...) -> None: ...

class RotateAsPreferredReply(_message.Message):
    __slots__ = ("chain",)
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    chain: RoutingChain
    def __init__(self, chain: _Optional[_Union[RoutingChain, _Mapping]] = ...) -> None: ...

class OrphanTarget(_message.Message):
    __slots__ = ("target", "node", "disk_index", "used_bytes", "local")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    DISK_INDEX_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    target: int
    node: int
    disk_index: int
    used_bytes: int
    local: int
    def __init__(self, target: _Optional[int] = ..., node: _Optional[int] = ..., disk_index: _Optional[int] = ..., used_bytes: _Optional[int] = ..., local: _Optional[int] = ...) -> None: ...

class ListOrphanTargetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListOrphanTargetsReply(_message.Message):
    __slots__ = ("targets",)
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[OrphanTarget]
    def __init__(self, targets: _Optional[_Iterable[_Union[OrphanTarget, _Mapping]]] = ...) -> None: ...

class ClientSession(_message.Message):
    __slots__ = ("client", "hostname", "pid", "node_type", "description", "started_us", "config_version", "extended_us", "tags", "config_status", "config_message")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    NODE_TYPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_US_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_STATUS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    hostname: str
    pid: int
    node_type: int
    description: str
    started_us: int
    config_version: int
    extended_us: int
    tags: _containers.RepeatedScalarFieldContainer[str]
    config_status: ConfigStatus
    config_message: str
    def __init__(self, client: _Optional[bytes] = ..., hostname: _Optional[str] = ..., pid: _Optional[int] = ..., node_type: _Optional[int] = ..., description: _Optional[str] = ..., started_us: _Optional[int] = ..., config_version: _Optional[int] = ..., extended_us: _Optional[int] = ..., tags: _Optional[_Iterable[str]] = ..., config_status: _Optional[_Union[ConfigStatus, str]] = ..., config_message: _Optional[str] = ...) -> None: ...

class ExtendClientSessionRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: ClientSession
    def __init__(self, session: _Optional[_Union[ClientSession, _Mapping]] = ...) -> None: ...

class ExtendClientSessionReply(_message.Message):
    __slots__ = ("extend_interval_s", "config")
    EXTEND_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    extend_interval_s: float
    config: ConfigRecord
    def __init__(self, extend_interval_s: _Optional[float] = ..., config: _Optional[_Union[ConfigRecord, _Mapping]] = ...) -> None: ...

class EndClientSessionRequest(_message.Message):
    __slots__ = ("client",)
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    def __init__(self, client: _Optional[bytes] = ...) -> None: ...

class EndClientSessionReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClientSessionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClientSessionsReply(_message.Message):
    __slots__ = ("sessions", "since_us", "session_timeout_s", "complete")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    SESSION_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[ClientSession]
    since_us: int
    session_timeout_s: float
    complete: bool
    def __init__(self, sessions: _Optional[_Iterable[_Union[ClientSession, _Mapping]]] = ..., since_us: _Optional[int] = ..., session_timeout_s: _Optional[float] = ..., complete: _Optional[bool] = ...) -> None: ...

class GetClientSessionRequest(_message.Message):
    __slots__ = ("client",)
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    def __init__(self, client: _Optional[bytes] = ...) -> None: ...

class GetClientSessionReply(_message.Message):
    __slots__ = ("session", "complete")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    session: ClientSession
    complete: bool
    def __init__(self, session: _Optional[_Union[ClientSession, _Mapping]] = ..., complete: _Optional[bool] = ...) -> None: ...

class LeaseRecord(_message.Message):
    __slots__ = ("node", "address", "holder", "started_us", "renewals")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    RENEWALS_FIELD_NUMBER: _ClassVar[int]
    node: int
    address: str
    holder: bytes
    started_us: int
    renewals: int
    def __init__(self, node: _Optional[int] = ..., address: _Optional[str] = ..., holder: _Optional[bytes] = ..., started_us: _Optional[int] = ..., renewals: _Optional[int] = ...) -> None: ...

class NodeRecord(_message.Message):
    __slots__ = ("node", "incarnation", "started_us", "release")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    node: RoutingNode
    incarnation: bytes
    started_us: int
    release: str
    def __init__(self, node: _Optional[_Union[RoutingNode, _Mapping]] = ..., incarnation: _Optional[bytes] = ..., started_us: _Optional[int] = ..., release: _Optional[str] = ...) -> None: ...

class UniversalTags(_message.Message):
    __slots__ = ("tags",)
    TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tags: _Optional[_Iterable[str]] = ...) -> None: ...
