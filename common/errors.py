"""Every operating error of 3fs, grouped by what the caller can do about it.

    ThreefsError
    ├── TransientError        retry the same request, after a pause
    │   ├── Timeout           no answer in time; the request may have been carried out
    │   ├── Unreachable       the peer's connection failed; the request may have been carried out
    │   ├── Busy              a lock, channel or queue is taken
    │   │   └── NotCommitted  a newer version of the chunk is on its way here: ask the chain's tail
    │   └── Throttled         the peer or the store asks for a slower pace
    ├── RoutingError          refresh the routing, then retry
    │   ├── StaleRouting      the chain version of the request is not the target's
    │   ├── NotServing        the target (or the whole chain) does not serve now
    │   └── NotPrimary        another mgmtd holds the lease
    ├── RequestError          give up: the request cannot succeed as it is
    │   ├── FileError         a POSIX answer (`errno`): ENOENT, EEXIST, EACCES …
    │   ├── BadRequest        an argument is out of range or malformed
    │   ├── Unauthenticated   a token is missing, wrong or expired
    │   ├── NotFound          no such node, target, chain, chunk, configuration …
    │   ├── Conflict          it exists, or its state forbids the change
    │   ├── NoSpace           disk or quota is full
    │   └── Unsupported       the peer or platform cannot do this
    ├── DataError             the bytes are wrong: another replica may have them right
    │   ├── ChecksumMismatch  CRC32C differs from the one stored or sent
    │   └── Corrupt           a frame, record or file does not parse
    ├── StoreError            the transactional store (see `common.kv`)
    └── InternalError         report a bug

Our own mistakes are assertions, not errors. `UserError` is what the command line prints without a traceback.
`CODES` is the one table of numbers on the wire; `to_errno` and `grpc_status_name` are the only mappings.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import ClassVar, Final


class ThreefsError(Exception):
    """Base of all operating errors. `code` identifies the class on the wire."""

    code: ClassVar[int] = 1
    errno: int = _errno.EIO


class TransientError(ThreefsError):
    code = 100
    errno = _errno.EAGAIN


class Timeout(TransientError):
    code = 101
    errno = _errno.ETIMEDOUT


class Unreachable(TransientError):
    code = 102
    errno = _errno.EHOSTUNREACH


class Refused(Unreachable):
    """Nobody listens at the address: the machine said so itself."""

    code = 106


class Busy(TransientError):
    code = 103
    errno = _errno.EBUSY


class Throttled(TransientError):
    code = 104


class NotCommitted(Busy):
    code = 105


class RoutingError(ThreefsError):
    code = 200
    errno = _errno.EAGAIN


class StaleRouting(RoutingError):
    code = 201


class NotServing(RoutingError):
    code = 202


class NotPrimary(RoutingError):
    code = 203


class RequestError(ThreefsError):
    code = 300
    errno = _errno.EINVAL


class FileError(RequestError):
    """A POSIX answer. `FileError(errno.ENOENT, "/a/b")` reads as «No such file or directory: /a/b»."""

    code = 301

    def __init__(self, number: int, subject: str = "") -> None:
        super().__init__(os.strerror(number) + (f": {subject}" if subject else ""))
        self.errno = number
        self.subject = subject


class BadRequest(RequestError):
    code = 302


class Unauthenticated(RequestError):
    code = 303
    errno = _errno.EACCES


class NotFound(RequestError):
    code = 304
    errno = _errno.ENOENT


class Conflict(RequestError):
    code = 305
    errno = _errno.EEXIST


class NoSpace(RequestError):
    code = 306
    errno = _errno.ENOSPC


class Unsupported(RequestError):
    code = 307
    errno = _errno.EOPNOTSUPP


class DataError(ThreefsError):
    code = 400


class ChecksumMismatch(DataError):
    code = 401


class Corrupt(DataError):
    code = 402


class StoreError(ThreefsError):
    """The transactional store could not do it; subclasses live in `common.kv.errors`."""

    code = 500


class InternalError(ThreefsError):
    """A bug of ours or of a peer: an answer that makes no sense, an exception that nobody foresaw."""

    code = 600


class UserError(Exception):
    """What the person at the prompt did or has: printed as one sentence and a hint, never a traceback."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


def _all_errors(base: type[ThreefsError]) -> dict[int, type[ThreefsError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        below = _all_errors(child)
        assert not found.keys() & below.keys(), f"error code used twice under {base.__name__}"
        found.update(below)
    return found


CODES: Final[dict[int, type[ThreefsError]]] = _all_errors(ThreefsError)

_GRPC: Final[dict[type[ThreefsError], str]] = {
    Timeout: "DEADLINE_EXCEEDED",
    Unreachable: "UNAVAILABLE",
    TransientError: "RESOURCE_EXHAUSTED",
    RoutingError: "ABORTED",
    FileError: "FAILED_PRECONDITION",
    BadRequest: "INVALID_ARGUMENT",
    Unauthenticated: "UNAUTHENTICATED",
    NotFound: "NOT_FOUND",
    Conflict: "ALREADY_EXISTS",
    NoSpace: "RESOURCE_EXHAUSTED",
    Unsupported: "UNIMPLEMENTED",
    RequestError: "INVALID_ARGUMENT",
    DataError: "DATA_LOSS",
    StoreError: "UNAVAILABLE",
    ThreefsError: "INTERNAL",
}


def grpc_status_name(error: ThreefsError) -> str:
    """The gRPC status of an error: that of its nearest ancestor in the table."""
    return next(_GRPC[cls] for cls in type(error).__mro__ if cls in _GRPC)


def to_errno(error: BaseException) -> int:
    """The errno that a program above a mount or a file object sees."""
    return error.errno if isinstance(error, ThreefsError) else _errno.EIO


def to_wire(error: BaseException) -> tuple[int, int, str]:
    """(code, errno, message) of an error; anything that is no ThreefsError travels as InternalError."""
    if isinstance(error, FileError):
        return error.code, error.errno, error.subject
    if isinstance(error, ThreefsError):
        return error.code, error.errno, str(error)
    return InternalError.code, _errno.EIO, f"{type(error).__name__}: {error}"


def from_wire(code: int, number: int, message: str) -> ThreefsError:
    """Inverse of `to_wire`; a code that this release does not know becomes its hundred's base class."""
    if code == FileError.code:
        return FileError(number, message)
    cls = CODES.get(code) or CODES.get(code // 100 * 100, InternalError)
    return cls(message)
