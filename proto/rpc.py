"""A method of a control service: its number on frames, its name on gRPC, its message types.

Method numbers are (service << 8 | position in the .proto file, from 1): append methods, never reorder them.
Service 5 is the storage data plane, whose bodies are descriptor arrays instead of messages; 6 is the lookups that
mounts ask without Python (`threefs.proto.lookup`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

RequestT = TypeVar("RequestT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Message)

SERVICE_NUMBERS = {"Core": 1, "Mgmtd": 2, "Meta": 3, "Storage": 4, "StorageData": 5}


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT, ReplyT]):
    service: str
    name: str  # CamelCase, as in the .proto file
    number: int
    request: type[RequestT]
    reply: type[ReplyT]

    @property
    def grpc_path(self) -> str:
        return f"/threefs.{self.service}/{self.name}"


def snake_case(name: str) -> str:
    """`GetRouting` as Python names it: `get_routing`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
