"""The RPCs of the metadata service: messages in, operation, message out. No decision is made here.

Every method runs through `_answer`, which counts and times it, and turns what the store could not do into an error that
clients retry.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import TypeVar

from threefs.common.errors import Busy, FileError, ThreefsError
from threefs.common.files import At, LengthHint, RenameFlags, XattrFlags
from threefs.common.files_proto import credentials_from_proto, file_type, inode_to_proto, layout_from_proto
from threefs.common.ids import ClientId, InodeId, RequestId, SessionId
from threefs.common.kv.errors import KvConflict, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.net.interface import Request
from threefs.meta import metrics
from threefs.meta.context import Context, Environment
from threefs.meta.lengths import report, settle
from threefs.meta.ops.create import create
from threefs.meta.ops.link import link
from threefs.meta.ops.listing import list_directory
from threefs.meta.ops.mkdir import mkdir, mkdirs
from threefs.meta.ops.mknod import mknod
from threefs.meta.ops.open import open_file
from threefs.meta.ops.real_path import real_path
from threefs.meta.ops.remove_recursive import remove_recursive
from threefs.meta.ops.rename import rename
from threefs.meta.ops.result import Opened
from threefs.meta.ops.rmdir import rmdir
from threefs.meta.ops.scan import scan
from threefs.meta.ops.set_layout import set_layout
from threefs.meta.ops.setattr import Wanted, setattr
from threefs.meta.ops.stat import batch_stat, stat
from threefs.meta.ops.symlink import symlink
from threefs.meta.ops.truncate import truncate
from threefs.meta.ops.unlink import unlink
from threefs.meta.ops.xattr import get_xattr, list_xattrs, remove_xattr, set_xattr
from threefs.meta.sessions import end, prune
from threefs.meta.space import Space
from threefs.meta.users import Account, Accounts, Token, make_token
from threefs.proto import meta_pb2 as pb

T = TypeVar("T")
_RETRYABLE = (KvConflict, KvTooOld, KvMaybeCommitted, KvUnavailable)
_REMOVE = {0: unlink, 1: rmdir, 2: remove_recursive}


def _at(message: pb.At) -> At:
    return At(InodeId(message.inode), message.path)


def _hint(message: pb.LengthHint) -> LengthHint:
    return LengthHint(message.length, message.truncate_version, message.mtime_us)


class MetaService:
    """Serves `Meta` of meta.proto for any carrier."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._accounts = Accounts(env)
        self._space = Space(env)

    async def _context(self, header: pb.Header) -> Context:
        user = await self._accounts.authenticate(credentials_from_proto(header.user))
        now_us = self._env.runtime.wall_us()
        return Context(self._env, user, ClientId(header.client_id), RequestId(header.request_id), now_us)

    async def _answer(self, name: str, header: pb.Header, work: Callable[[Context], Awaitable[T]]) -> T:
        """Runs the work of one request. It ends when its caller has given up: `common.net.service` cancels it."""
        now = self._env.runtime.now
        began = now()
        result = "ok"
        try:
            return await work(await self._context(header))
        except _RETRYABLE as exc:
            result = type(exc).__name__
            raise Busy(f"{name}: the metadata store did not commit in time: {exc}") from exc
        except ThreefsError as exc:
            result = type(exc).__name__
            raise
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        except BaseException:
            result = "bug"
            raise
        finally:
            count, duration = metrics.of_operation(name, result)
            count.inc()
            duration.observe(now() - began)

    # --- looking ------------------------------------------------------------------------------------------------

    async def stat(self, message: pb.StatRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            found = await stat(ctx, _at(message.at), follow=message.follow)
            return pb.InodeReply(inode=inode_to_proto(found, bare=message.bare))

        return await self._answer("stat", message.header, work)

    async def batch_stat(self, message: pb.BatchStatRequest, request: Request) -> pb.BatchStatReply:
        async def work(ctx: Context) -> pb.BatchStatReply:
            found = await batch_stat(ctx, [_at(item) for item in message.items], follow=message.follow)
            reply = pb.BatchStatReply()
            for one in found:
                if isinstance(one, FileError):
                    reply.results.add(errno=one.errno)
                else:
                    reply.results.add(inode=inode_to_proto(one))
            return reply

        return await self._answer("batch_stat", message.header, work)

    async def list(self, message: pb.ListRequest, request: Request) -> pb.ListReply:
        async def work(ctx: Context) -> pb.ListReply:
            page = await list_directory(
                ctx, _at(message.at), after=message.after, limit=message.limit, attributes=message.attributes
            )
            reply = pb.ListReply(more=page.more)
            for name, entry, inode in page.entries:
                attributes = None if inode is None else inode_to_proto(inode)
                reply.entries.add(name=name, inode=entry.inode, type=entry.type, attributes=attributes)
            return reply

        return await self._answer("list", message.header, work)

    async def real_path(self, message: pb.RealPathRequest, request: Request) -> pb.RealPathReply:
        async def work(ctx: Context) -> pb.RealPathReply:
            return pb.RealPathReply(path=await real_path(ctx, _at(message.at)))

        return await self._answer("real_path", message.header, work)

    async def stat_fs(self, message: pb.StatFsRequest, request: Request) -> pb.StatFsReply:
        async def work(ctx: Context) -> pb.StatFsReply:
            capacity, free = await self._space.get()
            return pb.StatFsReply(capacity_bytes=capacity, free_bytes=free)

        return await self._answer("stat_fs", message.header, work)

    # --- open files ---------------------------------------------------------------------------------------------

    async def create(self, message: pb.CreateRequest, request: Request) -> pb.OpenReply:
        layout = layout_from_proto(message.layout) if message.HasField("layout") else None

        async def work(ctx: Context) -> pb.OpenReply:
            opened = await create(
                ctx,
                _at(message.at),
                mode=message.mode,
                flags=message.flags,
                session=SessionId(message.session),
                pin=message.pin,
                layout=layout,
            )
            return _open_reply(opened)

        return await self._answer("create", message.header, work)

    async def open(self, message: pb.OpenRequest, request: Request) -> pb.OpenReply:
        async def work(ctx: Context) -> pb.OpenReply:
            session = SessionId(message.session)
            return _open_reply(
                await open_file(ctx, _at(message.at), flags=message.flags, session=session, pin=message.pin)
            )

        return await self._answer("open", message.header, work)

    async def close(self, message: pb.CloseRequest, request: Request) -> pb.InodeReply:
        hint = _hint(message.hint) if message.HasField("hint") else None
        session = SessionId(message.session) if message.session else None

        async def work(ctx: Context) -> pb.InodeReply:
            return pb.InodeReply(
                inode=inode_to_proto(await settle(self._env, InodeId(message.inode), hint, end=session))
            )

        return await self._answer("close", message.header, work)

    async def sync(self, message: pb.SyncRequest, request: Request) -> pb.InodeReply:
        hint = _hint(message.hint) if message.HasField("hint") else None

        async def work(ctx: Context) -> pb.InodeReply:
            inode = await settle(self._env, InodeId(message.inode), hint, precise=message.precise)
            return pb.InodeReply(inode=inode_to_proto(inode))

        return await self._answer("sync", message.header, work)

    async def report_lengths(self, message: pb.ReportLengthsRequest, request: Request) -> pb.ReportLengthsReply:
        async def work(ctx: Context) -> pb.ReportLengthsReply:
            await report(self._env, [(InodeId(item.inode), _hint(item.hint)) for item in message.items])
            return pb.ReportLengthsReply()

        return await self._answer("report_lengths", message.header, work)

    async def truncate(self, message: pb.TruncateRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            inode = await truncate(ctx, _at(message.at), message.length, opened=message.opened)
            return pb.InodeReply(inode=inode_to_proto(inode))

        return await self._answer("truncate", message.header, work)

    async def prune_sessions(self, message: pb.PruneSessionsRequest, request: Request) -> pb.PruneSessionsReply:
        async def work(ctx: Context) -> pb.PruneSessionsReply:
            refs = [(InodeId(ref.inode), SessionId(ref.session)) for ref in message.sessions]
            if message.settled:
                await end(self._env, refs)
                return pb.PruneSessionsReply(removed=len(refs))
            removed = 0
            for inode, session in refs:
                removed += await prune(self._env, inode, session)
            return pb.PruneSessionsReply(removed=removed)

        return await self._answer("prune_sessions", message.header, work)

    # --- the namespace ------------------------------------------------------------------------------------------

    async def make_directory(self, message: pb.MakeDirectoryRequest, request: Request) -> pb.InodeReply:
        layout = layout_from_proto(message.layout) if message.HasField("layout") else None
        make = mkdirs if message.parents else mkdir

        async def work(ctx: Context) -> pb.InodeReply:
            return pb.InodeReply(
                inode=inode_to_proto(await make(ctx, _at(message.at), mode=message.mode, layout=layout))
            )

        return await self._answer("mkdirs" if message.parents else "mkdir", message.header, work)

    async def make_symlink(self, message: pb.MakeSymlinkRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            return pb.InodeReply(inode=inode_to_proto(await symlink(ctx, _at(message.at), message.target)))

        return await self._answer("symlink", message.header, work)

    async def make_node(self, message: pb.MakeNodeRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            kind = file_type(message.type)
            made = await mknod(ctx, _at(message.at), type=kind, mode=message.mode, rdev=message.rdev)
            return pb.InodeReply(inode=inode_to_proto(made))

        return await self._answer("mknod", message.header, work)

    async def link(self, message: pb.LinkRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            linked = await link(ctx, _at(message.source), _at(message.target), follow=message.follow)
            return pb.InodeReply(inode=inode_to_proto(linked))

        return await self._answer("link", message.header, work)

    async def rename(self, message: pb.RenameRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            if message.flags > 7:
                raise FileError(errno.EINVAL, f"rename flags {message.flags:#x}")
            moved = await rename(ctx, _at(message.source), _at(message.target), flags=RenameFlags(message.flags))
            return pb.InodeReply(inode=inode_to_proto(moved))

        return await self._answer("rename", message.header, work)

    async def remove(self, message: pb.RemoveRequest, request: Request) -> pb.RemoveReply:
        async def work(ctx: Context) -> pb.RemoveReply:
            removed = await _REMOVE[message.kind](ctx, _at(message.at))
            return pb.RemoveReply(inode=removed.inode, nlink=removed.nlink)

        return await self._answer("remove", message.header, work)

    # --- attributes ---------------------------------------------------------------------------------------------

    async def set_attributes(self, message: pb.SetAttributesRequest, request: Request) -> pb.InodeReply:
        wanted = Wanted(
            mode=message.mode if message.HasField("mode") else None,
            uid=message.uid if message.HasField("uid") else None,
            gid=message.gid if message.HasField("gid") else None,
            atime_us=message.atime_us if message.HasField("atime_us") else None,
            mtime_us=message.mtime_us if message.HasField("mtime_us") else None,
            atime_now=message.atime_now,
            mtime_now=message.mtime_now,
        )

        async def work(ctx: Context) -> pb.InodeReply:
            return pb.InodeReply(
                inode=inode_to_proto(await setattr(ctx, _at(message.at), wanted, follow=message.follow))
            )

        return await self._answer("setattr", message.header, work)

    async def set_layout(self, message: pb.SetLayoutRequest, request: Request) -> pb.InodeReply:
        async def work(ctx: Context) -> pb.InodeReply:
            changed = await set_layout(ctx, _at(message.at), layout_from_proto(message.layout))
            return pb.InodeReply(inode=inode_to_proto(changed))

        return await self._answer("set_layout", message.header, work)

    async def get_xattr(self, message: pb.GetXattrRequest, request: Request) -> pb.GetXattrReply:
        async def work(ctx: Context) -> pb.GetXattrReply:
            return pb.GetXattrReply(value=await get_xattr(ctx, _at(message.at), message.name))

        return await self._answer("get_xattr", message.header, work)

    async def set_xattr(self, message: pb.SetXattrRequest, request: Request) -> pb.SetXattrReply:
        async def work(ctx: Context) -> pb.SetXattrReply:
            if message.flags > 3:
                raise FileError(errno.EINVAL, f"xattr flags {message.flags:#x}")
            await set_xattr(ctx, _at(message.at), message.name, message.value, XattrFlags(message.flags))
            return pb.SetXattrReply()

        return await self._answer("set_xattr", message.header, work)

    async def list_xattrs(self, message: pb.ListXattrsRequest, request: Request) -> pb.ListXattrsReply:
        async def work(ctx: Context) -> pb.ListXattrsReply:
            return pb.ListXattrsReply(names=await list_xattrs(ctx, _at(message.at)))

        return await self._answer("list_xattrs", message.header, work)

    async def remove_xattr(self, message: pb.RemoveXattrRequest, request: Request) -> pb.RemoveXattrReply:
        async def work(ctx: Context) -> pb.RemoveXattrReply:
            await remove_xattr(ctx, _at(message.at), message.name)
            return pb.RemoveXattrReply()

        return await self._answer("remove_xattr", message.header, work)

    # --- accounts and checkers ----------------------------------------------------------------------------------

    async def put_user(self, message: pb.PutUserRequest, request: Request) -> pb.PutUserReply:
        async def work(ctx: Context) -> pb.PutUserReply:
            await self._accounts.check_admin(credentials_from_proto(message.header.user))
            user = message.user
            account = Account(user.uid, user.name, user.gid, tuple(user.groups), user.root, user.admin)
            text, token = "", None
            if message.new_token:
                text, secret = make_token(self._env.runtime, user.uid)
                ends_us = ctx.now_us + message.token_lifetime_us if message.token_lifetime_us else 0
                token = Token(secret, ends_us)
            stored = await self._accounts.put(
                account,
                token=token,
                revoke=message.revoke_tokens,
                grace_us=message.grace_us,
                create_only=message.create_only,
            )
            return pb.PutUserReply(user=_user(stored), token=text)

        return await self._answer("put_user", message.header, work)

    async def get_user(self, message: pb.GetUserRequest, request: Request) -> pb.UserReply:
        async def work(ctx: Context) -> pb.UserReply:
            await self._accounts.check_admin(credentials_from_proto(message.header.user))
            return pb.UserReply(user=_user(await self._accounts.get(message.uid)))

        return await self._answer("get_user", message.header, work)

    async def list_users(self, message: pb.ListUsersRequest, request: Request) -> pb.ListUsersReply:
        async def work(ctx: Context) -> pb.ListUsersReply:
            await self._accounts.check_admin(credentials_from_proto(message.header.user))
            return pb.ListUsersReply(users=[_user(account) for account in await self._accounts.list()])

        return await self._answer("list_users", message.header, work)

    async def remove_user(self, message: pb.RemoveUserRequest, request: Request) -> pb.RemoveUserReply:
        async def work(ctx: Context) -> pb.RemoveUserReply:
            await self._accounts.check_admin(credentials_from_proto(message.header.user))
            await self._accounts.remove(message.uid)
            return pb.RemoveUserReply()

        return await self._answer("remove_user", message.header, work)

    async def who_am_i(self, message: pb.WhoAmIRequest, request: Request) -> pb.UserReply:
        async def work(ctx: Context) -> pb.UserReply:
            claimed = message.header.user
            if claimed.token:
                return pb.UserReply(user=_user(await self._accounts.of_token(claimed.token)))
            return pb.UserReply(user=pb.User(uid=claimed.uid, gid=claimed.gid, groups=claimed.groups))

        return await self._answer("who_am_i", message.header, work)

    async def scan(self, message: pb.ScanRequest, request: Request) -> pb.ScanReply:
        async def work(ctx: Context) -> pb.ScanReply:
            if ctx.user.uid != 0:
                raise FileError(errno.EPERM, "only root may read raw records")
            return await scan(self._env, message.kind, message.cursor, message.limit)

        return await self._answer("scan", message.header, work)


def _open_reply(opened: Opened) -> pb.OpenReply:
    return pb.OpenReply(inode=inode_to_proto(opened.inode), created=opened.created, session=opened.session)


def _user(account: Account) -> pb.User:
    return pb.User(
        uid=account.uid,
        name=account.name,
        gid=account.gid,
        groups=account.groups,
        root=account.root,
        admin=account.admin,
        token_ends_us=[token.ends_us for token in account.tokens],
    )
