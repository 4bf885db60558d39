"""`3fs fsck`: the namespace, lengths, orphan chunks, and that all replicas are equal. Reads only, through RPCs.

Chunks are listed on every replica before inodes are read, so a file that is created meanwhile is not taken for an
orphan. A difference is looked at again before it is reported: writers may be at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from threefs.cli.entry import run_async
from threefs.cli.options import addresses
from threefs.cli.output import out, print_json, say
from threefs.client.connect import Connection, open_connection
from threefs.client.meta import fsck as namespace
from threefs.common.files import Credentials
from threefs.common.ids import ChunkId, InodeId, TargetId
from threefs.common.net.service import invoke
from threefs.common.routing import Chain
from threefs.proto import storage_pb2 as pb
from threefs.proto.storage_rpc import Storage

LOOKS = 6  # before a difference is believed: a disk or a processor that is busy may hold a commit back for seconds
LOOK_AGAIN_S = 0.5
_PAGE = 1000

Content = tuple[int, int, int]  # committed version, length, CRC32C of the whole chunk


@dataclass(slots=True)
class Result:
    files: int = 0
    directories: int = 0
    chunks: int = 0  # on all replicas
    garbage: int = 0
    problems: list[str] = field(default_factory=list)


def check_cluster(folder: Path | None, mgmtd: str, as_json: bool) -> int:
    """Prints the report; 0 if clean, 4 if not."""
    result = run_async(_check(addresses(folder, mgmtd)))
    if as_json:
        print_json(asdict(result) | {"clean": not result.problems})
    else:
        for problem in result.problems:
            out.print(f"[red]{problem}[/]")
        say(
            f"{result.files} files, {result.directories} directories, {result.chunks} chunks on all replicas, "
            f"{result.garbage} waiting to be freed: {'clean' if not result.problems else 'NOT CLEAN'}"
        )
    return 4 if result.problems else 0


async def _check(mgmtd: list[str]) -> Result:
    async with open_connection(mgmtd, user=Credentials(0, 0), description="3fs fsck") as connection:
        replicas = await _compare_replicas(connection)
        report = await namespace.check(connection.meta, connection.storage)
        result = Result(report.files, report.directories, replicas.count, report.garbage)
        result.problems = [problem.text for problem in report.problems] + replicas.problems
        result.problems += [f"chunk {chunk} belongs to no file" for chunk in await _orphans(connection, replicas)]
        return result


async def _orphans(connection: Connection, replicas: _Replicas) -> list[ChunkId]:
    """Chunks without a file. Each is looked for again: the collector removes chunks first and their file's record
    then, so a chunk that was listed a moment ago may be gone together with its file."""
    suspects: list[ChunkId] = []
    for look in range(LOOKS):
        chunks = {chunk: None for contents in replicas.contents.values() for chunk in contents}
        found = await namespace.read_namespace(connection.meta)
        waiting = {record.inode for record in found.garbage} | found.written
        orphans = [c for c in namespace.orphan_chunks(found.inodes, chunks) if c.inode not in waiting]
        suspects = [chunk for chunk in orphans if look == 0 or chunk in suspects]
        if not suspects:
            break
        await asyncio.sleep(LOOK_AGAIN_S)
        replicas = await _compare_replicas(connection)
    return suspects


@dataclass(slots=True)
class _Replicas:
    contents: dict[Chain, dict[ChunkId, Content]]  # of the first serving target of each chain
    count: int
    problems: list[str]


async def _compare_replicas(connection: Connection) -> _Replicas:
    """Every chunk of every chain, the same on all of its targets."""
    found = _Replicas({}, 0, [])
    for chain_id in sorted(connection.routing.routing.chains):
        for look in range(LOOKS):
            chain = connection.routing.routing.chains[chain_id]
            if not chain.serving():
                found.problems.append(f"chain {chain.id} has no serving target: start its storage daemons")
                break
            listed = await asyncio.gather(*(_contents(connection, target) for target in chain.serving()))
            problems = _differences(chain, listed)
            if not problems or look == LOOKS - 1:
                found.contents[chain] = listed[0]
                found.count += sum(map(len, listed))
                found.problems += problems
                break
            await asyncio.sleep(LOOK_AGAIN_S)
    return found


async def _contents(connection: Connection, target: TargetId) -> dict[ChunkId, Content]:
    return {
        ChunkId(InodeId(chunk.inode), chunk.number): (chunk.committed, chunk.length, chunk.crc32c)
        async for chunk in _list_chunks(connection, target)
        if chunk.committed and not chunk.pending_remove
    }


async def _list_chunks(connection: Connection, target: TargetId) -> AsyncIterator[pb.ChunkRecord]:
    request = pb.ListChunksRequest(target=target, limit=_PAGE)
    while True:
        address = connection.routing.routing.target_address(target)
        reply = await invoke(connection.transport, address, Storage.LIST_CHUNKS, request, timeout_s=30.0)
        for chunk in reply.chunks:
            yield chunk
        if not reply.more:
            return
        last = reply.chunks[-1]
        request.inode_begin, request.number_begin = last.inode, last.number + 1


def _differences(chain: Chain, listed: list[dict[ChunkId, Content]]) -> list[str]:
    problems = []
    targets = chain.serving()
    for target, contents in zip(targets[1:], listed[1:], strict=True):
        for chunk in sorted(listed[0].keys() | contents.keys()):
            head, other = listed[0].get(chunk), contents.get(chunk)
            if head != other:
                problems.append(
                    f"chain {chain.id}, chunk {chunk}: target {targets[0]} has {_describe(head)}, "
                    f"target {target} has {_describe(other)}"
                )
    return problems


def _describe(content: Content | None) -> str:
    if content is None:
        return "nothing"
    version, length, crc = content
    return f"version {version} of {length} bytes, CRC32C {crc:08x}"
