"""Accounts and tokens. With authentication on, a request is whoever its token says.

A token is `3fs1.<uid>.<secret>`; the store keeps only SHA-256 of the secret, so a copy of the store logs nobody in.
A token of an account with `root` may act for any uid: the request's uid, gid and groups then count as they are.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from typing import Final

from threefs.common.errors import Conflict, Corrupt, FileError, NotFound, Unauthenticated
from threefs.common.files import Credentials
from threefs.common.runtime.interface import Runtime
from threefs.meta import store
from threefs.meta.context import Environment
from threefs.meta.view import View

_PREFIX: Final = "3fs1"
_SECRET_BYTES: Final = 24
TOKENS_MAX: Final = 5  # live ones of one account: the oldest goes when a sixth is made


@dataclass(frozen=True, slots=True)
class Token:
    secret_sha256: str  # hex
    ends_us: int  # 0: no end

    def is_live(self, now_us: int) -> bool:
        return not self.ends_us or now_us < self.ends_us


@dataclass(frozen=True, slots=True)
class Account:
    uid: int
    name: str
    gid: int
    groups: tuple[int, ...] = ()
    root: bool = False
    admin: bool = False
    tokens: tuple[Token, ...] = ()


def pack_account(account: Account) -> bytes:
    """JSON, readable with the store's own tools: name, gid, groups, root, admin, tokens as [hash, end]."""
    return json.dumps(
        {
            "version": 1,
            "name": account.name,
            "gid": account.gid,
            "groups": account.groups,
            "root": account.root,
            "admin": account.admin,
            "tokens": [[token.secret_sha256, token.ends_us] for token in account.tokens],
        },
        sort_keys=True,
    ).encode()


def unpack_account(uid: int, raw: bytes) -> Account:
    fields = json.loads(raw)
    if fields["version"] != 1:
        raise Corrupt(f"account {uid} has a record of version {fields['version']}, expected 1")
    tokens = tuple(Token(secret, ends_us) for secret, ends_us in fields["tokens"])
    groups = tuple(fields["groups"])
    return Account(uid, fields["name"], fields["gid"], groups, fields["root"], fields["admin"], tokens)


def make_token(runtime: Runtime, uid: int) -> tuple[str, str]:
    """(token, hash of its secret)."""
    secret = urlsafe_b64encode(runtime.random.randbytes(_SECRET_BYTES)).decode()
    return f"{_PREFIX}.{uid}.{secret}", _hash(secret)


def split_token(token: str) -> tuple[int, str]:
    """(uid, hash of the secret); Unauthenticated for what is no token at all."""
    parts = token.split(".")
    if len(parts) != 3 or parts[0] != _PREFIX or not parts[1].isdigit():
        raise Unauthenticated("this is no token of 3fs" if token else "a token is needed; see `3fs user token`")
    return int(parts[1]), _hash(parts[2])


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Accounts:
    """Accounts of the store, with a short cache for the check of tokens."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._cache: dict[int, tuple[float, Account | None]] = {}

    async def authenticate(self, claimed: Credentials) -> Credentials:
        """Who asks: as claimed if authentication is off, else by token. Unauthenticated says what is wrong with it."""
        if not self._env.config.authenticate:
            return claimed
        if not claimed.token and claimed.uid == 0 and not await self.list():
            return claimed  # a new cluster: root makes the first account, and its token
        account = await self.of_token(claimed.token)
        if account.root:
            return claimed
        return Credentials(account.uid, account.gid, account.groups)

    async def of_token(self, token: str) -> Account:
        """The account that a live token belongs to."""
        uid, secret = split_token(token)
        account = await self._cached(uid)
        known = account.tokens if account is not None else ()
        match = next((t for t in known if hmac.compare_digest(t.secret_sha256, secret)), None)
        if account is None or match is None:
            raise Unauthenticated(f"the token of uid {uid} is wrong or was revoked; ask for a new one")
        if not match.is_live(self._env.runtime.wall_us()):
            raise Unauthenticated(f"the token of uid {uid} has expired; ask for a new one")
        return account

    async def check_admin(self, claimed: Credentials) -> None:
        """EPERM unless the caller may change accounts: uid 0 where nobody is authenticated, else an admin's token."""
        if self._env.config.authenticate and (claimed.token or await self.list()):
            account = await self.of_token(claimed.token)
            allowed = account.root or account.admin
        else:
            allowed = claimed.uid == 0
        if not allowed:
            raise FileError(errno.EPERM, "accounts are changed by administrators only")

    async def get(self, uid: int) -> Account:
        """NotFound if there is none."""
        account = await self._env.read(lambda view: _find(view, uid))
        if account is None:
            raise NotFound(f"there is no account with uid {uid}; see `3fs user list`")
        return account

    async def list(self) -> list[Account]:
        begin, end = store.prefix_range(store.USER)
        pairs = await self._env.read(lambda view: view.txn.get_range(begin, end, snapshot=True))
        return [unpack_account(int.from_bytes(key[4:], "big"), raw) for key, raw in pairs]

    async def put(
        self,
        account: Account,
        *,
        token: Token | None = None,
        revoke: bool = False,
        grace_us: int = 0,
        create_only: bool = False,
    ) -> Account:
        """Stores an account; its tokens are those it had, shortened or revoked as asked, and `token`."""
        now_us = self._env.runtime.wall_us()

        async def body(view: View) -> Account:
            key = store.user_key(account.uid)
            raw = await view.txn.get(key)
            old = unpack_account(account.uid, raw).tokens if raw is not None else ()
            if raw is not None and create_only and (token is None or token not in old):
                raise Conflict(f"uid {account.uid} has an account already")
            kept = [] if revoke else [t for t in old if t.is_live(now_us) and t != token]
            if token is not None and grace_us:
                kept = [_shortened(t, now_us + grace_us) for t in kept]
            tokens = (*kept, token)[-TOKENS_MAX:] if token is not None else tuple(kept)
            stored = replace(account, tokens=tokens)
            view.txn.set(key, pack_account(stored))
            return stored

        self._cache.pop(account.uid, None)
        return await self._env.transact(body)

    async def remove(self, uid: int) -> None:
        """Idempotent: an account that is not there is removed."""

        async def body(view: View) -> None:
            view.txn.clear(store.user_key(uid))

        await self._env.transact(body)
        self._cache.pop(uid, None)

    async def _cached(self, uid: int) -> Account | None:
        now = self._env.runtime.now()
        known = self._cache.get(uid)
        if known is not None and known[0] > now:
            return known[1]
        account = await self._env.read(lambda view: _find(view, uid))
        if account is not None:  # unknown uids are not kept: anybody can name any number of them
            self._cache[uid] = (now + self._env.config.tuning.user_cache_s, account)
        return account


async def _find(view: View, uid: int) -> Account | None:
    raw = await view.txn.get(store.user_key(uid), snapshot=True)
    return None if raw is None else unpack_account(uid, raw)


def _shortened(token: Token, ends_us: int) -> Token:
    return replace(token, ends_us=min(token.ends_us or ends_us, ends_us))
