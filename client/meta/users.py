"""Accounts and tokens: the administration calls behind `3fs user`."""

from __future__ import annotations

from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import User
from threefs.common.files import Credentials
from threefs.proto import meta_pb2 as pb
from threefs.proto.meta_rpc import Meta


def _from_proto(message: pb.User) -> User:
    return User(
        message.uid,
        message.name,
        message.gid,
        tuple(message.groups),
        message.root,
        message.admin,
        tuple(message.token_ends_us),
    )


async def put_user(
    client: MetaClient,
    account: User,
    *,
    new_token: bool = False,
    token_lifetime_us: int = 0,
    grace_us: int = 0,
    revoke_tokens: bool = False,
    create_only: bool = False,
    user: Credentials | None = None,
) -> tuple[User, str]:
    """Creates or changes an account; returns it and the new token ("" if none was asked for).

    A token is shown this once. The tokens there were stay, end after `grace_us` if that is given with a new token,
    or end now with `revoke_tokens`. Lifetimes of 0 have no end.
    """
    message = pb.User(
        uid=account.uid,
        name=account.name,
        gid=account.gid,
        groups=account.groups,
        root=account.root,
        admin=account.admin,
    )
    request = pb.PutUserRequest(
        header=client.caller.header(user or client.user, mutation=True),
        user=message,
        new_token=new_token,
        token_lifetime_us=token_lifetime_us,
        revoke_tokens=revoke_tokens,
        grace_us=grace_us,
        create_only=create_only,
    )
    reply = await client.caller.call(Meta.PUT_USER, request)
    return _from_proto(reply.user), reply.token


async def get_user(client: MetaClient, uid: int, *, user: Credentials | None = None) -> User:
    header = client.caller.header(user or client.user, mutation=False)
    reply = await client.caller.call(Meta.GET_USER, pb.GetUserRequest(header=header, uid=uid))
    return _from_proto(reply.user)


async def list_users(client: MetaClient, *, user: Credentials | None = None) -> list[User]:
    header = client.caller.header(user or client.user, mutation=False)
    reply = await client.caller.call(Meta.LIST_USERS, pb.ListUsersRequest(header=header))
    return [_from_proto(message) for message in reply.users]


async def remove_user(client: MetaClient, uid: int, *, user: Credentials | None = None) -> None:
    header = client.caller.header(user or client.user, mutation=True)
    await client.caller.call(Meta.REMOVE_USER, pb.RemoveUserRequest(header=header, uid=uid))


async def who_am_i(client: MetaClient, *, user: Credentials | None = None) -> User:
    """The account that the daemon takes the caller for; raises Unauthenticated for a wrong or expired token."""
    header = client.caller.header(user or client.user, mutation=False)
    return _from_proto((await client.caller.call(Meta.WHO_AM_I, pb.WhoAmIRequest(header=header))).user)
