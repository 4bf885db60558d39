"""The schema: every record comes back as it was, keys sort as they must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threefs.common.errors import Corrupt
from threefs.common.files import FileType, Inode, Layout
from threefs.common.ids import ChainId, ChainTableId, ClientId, InodeId, RequestId
from threefs.meta import store
from threefs.meta.store import Entry, Garbage, Outcome, Session

pytestmark = pytest.mark.unit
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
time = st.integers(-(2**62), 2**62)
layouts = st.builds(Layout, u32.map(ChainTableId), u32, u32, u32, st.lists(u32.map(ChainId), max_size=30).map(tuple))
targets = st.binary(min_size=1, max_size=200).filter(lambda b: b"\x00" not in b)


@st.composite
def inodes(draw: st.DrawFn) -> Inode:
    type = draw(st.sampled_from(FileType))
    symlink = draw(targets).decode("utf-8", "surrogateescape") if type is FileType.SYMLINK else ""
    layout = draw(st.none() | layouts) if type in (FileType.FILE, FileType.DIRECTORY) else None
    return Inode(
        InodeId(draw(u64)),
        type,
        draw(st.integers(0, 0o7777)),
        *(draw(u32) for _ in range(3)),
        draw(u64),
        *(draw(time) for _ in range(3)),
        layout,
        InodeId(draw(u64)),
        symlink,
        *(draw(u64) for _ in range(2)),
        draw(u32),
    )


@given(inodes())
def test_inodes(inode: Inode) -> None:
    assert store.unpack_inode(inode.id, store.pack_inode(inode)) == inode


@given(inodes(), time, time)
def test_times_of_directories_override(inode: Inode, mtime_us: int, ctime_us: int) -> None:
    found = store.unpack_inode(inode.id, store.pack_inode(inode), store.pack_times(mtime_us, ctime_us))
    assert found.mtime_us == mtime_us
    assert found.ctime_us == max(inode.ctime_us, ctime_us)


@given(u64, st.sampled_from(FileType), u32, st.booleans(), st.booleans(), st.binary(min_size=16, max_size=16), time)
def test_small_records(
    inode: int, type: FileType, nlink: int, created: bool, session: bool, client: bytes, at_us: int
) -> None:
    entry = Entry(InodeId(inode), type)
    assert store.unpack_entry(store.pack_entry(entry)) == entry
    outcome = Outcome(InodeId(inode), nlink, created, session)
    assert store.unpack_outcome(store.pack_outcome(outcome)) == outcome
    record = Session(ClientId(client), at_us)
    assert store.unpack_session(store.pack_session(record)) == record


@given(u64, st.integers(0, 2**60), st.integers(0, 15), st.sampled_from(FileType))
def test_garbage(inode: int, due_us: int, shard: int, type: FileType) -> None:
    garbage = Garbage(shard, due_us, InodeId(inode), type)
    key, raw = store.garbage_key(garbage), store.pack_entry(Entry(garbage.inode, type))
    assert store.garbage_of(key, raw) == garbage
    begin, end = store.garbage_range(shard, due_us)
    assert begin <= key < end
    begin, end = store.garbage_range(shard, due_us - 1)
    assert not begin <= key < end


@given(u64, st.lists(st.binary(min_size=1, max_size=255), min_size=2, max_size=2), st.binary(min_size=1, max_size=255))
def test_entries_of_a_directory_are_one_range(directory: int, names: list[bytes], after: bytes) -> None:
    begin, end = store.entries_range(directory)
    assert all(begin <= store.entry_key(directory, name) < end for name in names)
    assert not begin <= store.entry_key((directory + 1) % 2**64, names[0]) < end
    assert (names[0] < names[1]) == (store.entry_key(directory, names[0]) < store.entry_key(directory, names[1]))
    begin, _ = store.entries_range(directory, after)
    assert (names[0] > after) == (store.entry_key(directory, names[0]) >= begin)


def test_times_lie_right_behind_their_inode() -> None:
    key = store.inode_key(InodeId(0xFF00FF))
    assert store.times_key(InodeId(0xFF00FF)) == key + b"t"
    assert store.inode_of_key(store.times_key(InodeId(0xFF00FF))) == 0xFF00FF


def test_old_requests_come_first() -> None:
    early = store.request_key(RequestId((1000).to_bytes(6, "big") + b"\xff" * 10))
    late = store.request_key(RequestId((1001).to_bytes(6, "big") + bytes(10)))
    begin, end = store.requests_before(1_001_000)
    assert begin <= early < end <= late
    assert store.request_time_us(RequestId(late[4:])) == 1_001_000


def test_records_of_another_version_are_refused() -> None:
    inode = store.pack_inode(Inode(InodeId(9), FileType.FIFO, 0, 0, 0, 1, 0, 0, 0, 0))
    with pytest.raises(Corrupt, match="version 2"):
        store.unpack_inode(InodeId(9), b"\x02" + inode[1:])
    with pytest.raises(Corrupt, match="version 7"):
        store.unpack_entry(b"\x07" + store.pack_entry(Entry(InodeId(1), FileType.FILE))[1:])
    with pytest.raises(Corrupt):
        store.unpack_session(b"\x07" + bytes(24))
    with pytest.raises(Corrupt):
        store.unpack_outcome(b"\x07" + bytes(13))
