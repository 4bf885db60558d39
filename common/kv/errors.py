"""Errors of the transactional store, by what `KvEngine.transact` may do about them."""

from __future__ import annotations

from threefs.common.errors import StoreError


class KvConflict(StoreError):
    """Another transaction changed what this one read; it had no effect. Run it again."""

    code = 501


class KvTooOld(StoreError):
    """The snapshot is older than the engine keeps; it had no effect. Run it again."""

    code = 502


class KvMaybeCommitted(StoreError):
    """The outcome is unknown. Run it again only if the body is idempotent."""

    code = 503


class KvUnavailable(StoreError):
    """The store cannot be reached or opened; the message says what to start or install."""

    code = 504


class KvLimitError(StoreError):
    """A key, value or transaction is larger than the engine takes; the message names the limit."""

    code = 505


class KvOwned(StoreError):
    """Another process owns this embedded store; the message names it."""

    code = 506
