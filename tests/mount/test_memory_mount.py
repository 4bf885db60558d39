"""The mount's operations and its life, on clients in memory: every call here goes through the kernel."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.mount.memory import DEADLINE_S, MemoryMount, memory_mount, mount_process, wait_until

from threefs.common.net import frame
from threefs.fuse.mountpoint import mounted_at
from threefs.proto import lookup as proto_lookup

pytestmark = pytest.mark.mount

MIB = 1 << 20


def test_write_and_read_back_across_chunks(mounted: MemoryMount) -> None:
    content = os.urandom(3 * MIB + 12345)
    path = mounted.path / "file"
    path.write_bytes(content)
    assert path.read_bytes() == content
    with path.open("r+b") as file:
        file.seek(MIB - 10)
        file.write(b"x" * 20)
    expected = content[: MIB - 10] + b"x" * 20 + content[MIB + 10 :]
    assert path.read_bytes() == expected
    assert path.stat().st_size == len(expected)


def test_two_descriptors_see_each_others_writes_at_once(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    one = os.open(path, os.O_CREAT | os.O_RDWR)
    two = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        os.pwrite(one, b"a" * 5000, 100)
        memory = mmap.mmap(-1, 8192)
        assert os.preadv(two, [memory], 0) == 5100
        assert memory[:5100] == bytes(100) + b"a" * 5000
        assert os.fstat(two).st_size == 5100
    finally:
        os.close(one)
        os.close(two)


def test_truncate_cuts_and_grows_with_zeros(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"z" * (2 * MIB))
    os.truncate(path, 10)
    os.truncate(path, 2 * MIB)
    assert path.read_bytes() == b"z" * 10 + bytes(2 * MIB - 10)
    with path.open("r+b") as file:
        file.write(b"y" * 100)
        file.flush()
        file.truncate(50)
        assert os.fstat(file.fileno()).st_size == 50
    assert path.read_bytes() == b"y" * 50


def test_times_that_were_set_outlive_the_close(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    with path.open("wb") as file:
        file.write(b"data")
        file.flush()
        os.utime(file.fileno(), ns=(10**9, 2 * 10**9 + 5000))
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns, found.st_size) == (10**9, 2 * 10**9 + 5000, 4)


def test_unlinked_file_stays_readable_and_writable(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"before")
    reader = os.open(path, os.O_RDONLY)
    writer = os.open(path, os.O_RDWR)
    os.unlink(path)
    os.pwrite(writer, b"after!", 0)
    os.close(writer)
    assert os.pread(reader, 100, 0) == b"after!"
    assert os.fstat(reader).st_nlink == 0
    os.close(reader)
    assert os.listdir(mounted.path) == []


def test_replaced_file_stays_readable(mounted: MemoryMount) -> None:
    (mounted.path / "old").write_bytes(b"old")
    (mounted.path / "new").write_bytes(b"new")
    with (mounted.path / "old").open("rb", buffering=0) as file:
        os.rename(mounted.path / "new", mounted.path / "old")
        assert file.read() == b"old"
    assert (mounted.path / "old").read_bytes() == b"new"


def test_append_of_two_writers(mounted: MemoryMount) -> None:
    path = mounted.path / "log"
    files = [os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    for number in range(100):
        os.write(files[number % 2], b"%03d\n" % number)
    for file in files:
        os.close(file)
    assert path.read_text().split() == [f"{number:03d}" for number in range(100)]


def test_shared_mapping_reaches_the_file(mounted: MemoryMount) -> None:
    path = mounted.path / "mapped"
    path.write_bytes(bytes(10000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 10000) as mapping:
        mapping[5000:5005] = b"hello"
        mapping.flush()
    other = os.open(path, os.O_RDONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, 12288)
    assert os.preadv(other, [memory], 0) == 10000
    os.close(other)
    assert memory[4998:5007] == b"\0\0hello\0\0"


def test_holes_are_found_and_made(mounted: MemoryMount) -> None:
    path = mounted.path / "sparse"
    with path.open("wb+", buffering=0) as file:
        number = file.fileno()
        os.pwrite(number, b"d" * 100, 2 * MIB)
        os.ftruncate(number, 5 * MIB)
        assert os.lseek(number, 0, os.SEEK_DATA) == 2 * MIB
        assert os.lseek(number, 2 * MIB, os.SEEK_HOLE) == 3 * MIB
        with pytest.raises(OSError) as caught:
            os.lseek(number, 3 * MIB, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
        os.posix_fallocate(number, 0, 6 * MIB)
        assert os.fstat(number).st_size == 6 * MIB
        assert os.lseek(number, 0, os.SEEK_HOLE) == 6 * MIB
        os.pwrite(number, b"e" * 6 * MIB, 0)
        subprocess.run(["fallocate", "-p", "-o", str(MIB - 5), "-l", str(2 * MIB + 10), path], check=True)
        assert os.lseek(number, MIB, os.SEEK_HOLE) == MIB
        assert os.lseek(number, MIB, os.SEEK_DATA) == 3 * MIB
    content = path.read_bytes()
    assert content == b"e" * (MIB - 5) + bytes(2 * MIB + 10) + b"e" * (3 * MIB - 5)


def test_zero_range_keeps_or_grows_the_size(mounted: MemoryMount) -> None:
    path = mounted.path / "zeroed"
    path.write_bytes(b"q" * 1000)
    subprocess.run(["fallocate", "-z", "-n", "-o", "500", "-l", "1000", path], check=True)
    assert path.read_bytes() == b"q" * 500 + bytes(500)
    subprocess.run(["fallocate", "-z", "-o", "500", "-l", "1000", path], check=True)
    assert path.read_bytes() == b"q" * 500 + bytes(1000)


def test_copy_file_range(mounted: MemoryMount) -> None:
    content = os.urandom(5 * MIB + 7)
    (mounted.path / "a").write_bytes(content)
    with (mounted.path / "a").open("rb") as source, (mounted.path / "b").open("wb") as target:
        copied = 0
        while copied < len(content):
            copied += os.copy_file_range(source.fileno(), target.fileno(), len(content))
    assert (mounted.path / "b").read_bytes() == content


def test_directory_of_many_pages(mounted: MemoryMount) -> None:
    folder = mounted.path / "many"
    folder.mkdir()
    names = {f"file-{number:05d}" for number in range(3000)}
    for name in names:
        (folder / name).touch()
    assert set(os.listdir(folder)) == names
    with os.scandir(folder) as entries:
        assert all(entry.is_file(follow_symlinks=False) for entry in entries)
    for name in sorted(names)[::2]:
        (folder / name).unlink()
    assert len(os.listdir(folder)) == 1500
    subprocess.run(["rm", "-r", folder], check=True)
    assert not folder.exists()


def test_names_links_and_special_files(mounted: MemoryMount) -> None:
    path = mounted.path
    (path / "file").touch()
    os.link(path / "file", path / "second")
    assert (path / "file").stat().st_nlink == 2
    os.symlink("over/there", path / "link")
    assert os.readlink(path / "link") == "over/there"
    os.mkfifo(path / "fifo", 0o640)
    assert stat.S_ISFIFO((path / "fifo").stat().st_mode)
    os.mknod(path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (path / "null").stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(OSError) as caught:
        os.rmdir(path / "missing")
    assert caught.value.errno == errno.ENOENT


def test_name_of_256_bytes_is_refused(mounted: MemoryMount) -> None:
    (mounted.path / ("n" * 255)).touch()
    with pytest.raises(OSError) as caught:
        (mounted.path / ("n" * 256)).touch()
    assert caught.value.errno == errno.ENAMETOOLONG


def test_extended_attributes(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    path.touch()
    os.setxattr(path, "user.color", b"blue" * 1000)
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.color") == b"blue" * 1000
    assert os.getxattr(path, "user.empty") == b""
    assert sorted(os.listxattr(path)) == ["user.color", "user.empty"]
    os.removexattr(path, "user.color")
    for name, expected in (("user.color", errno.ENODATA), ("system.posix_acl_access", errno.EOPNOTSUPP)):
        with pytest.raises(OSError) as caught:
            os.getxattr(path, name)
        assert caught.value.errno == expected


def test_locks_hold_within_the_machine(mounted: MemoryMount) -> None:
    path = mounted.path / "locked"
    with path.open("wb") as one, path.open("wb") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_write_by_another_user_takes_set_user_id_away(mounted: MemoryMount) -> None:
    path = mounted.path / "program"
    path.touch()
    path.chmod(0o6777)
    code = "import os,sys; os.setgroups([]); os.setgid(1000); os.setuid(1000); open(sys.argv[1], 'ab').write(b'x')"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    wait_until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o777, "clearing of the bits")


def test_full_disk_is_reported_by_fsync_and_close(folder: Path) -> None:
    with memory_mount(folder, "--full") as mount:
        file = os.open(mount.path / "file", os.O_CREAT | os.O_WRONLY)
        os.write(file, b"x" * 100)
        with pytest.raises(OSError) as caught:
            os.fsync(file)
        assert caught.value.errno == errno.ENOSPC
        os.write(file, b"x" * 100)
        with pytest.raises(OSError) as caught:
            os.close(file)
        assert caught.value.errno == errno.ENOSPC


def test_a_signal_ends_a_read_that_hangs(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x" * 5000)
    drop_pages(path)
    assert mounted.toggle_storage() == "hangs"
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    wait_until(lambda: "folio_wait" in sleeps_in(reader), "reading")
    reader.send_signal(signal.SIGINT)
    assert reader.communicate(timeout=DEADLINE_S)[0] == b""
    assert reader.returncode == -signal.SIGINT
    (mounted.path / "other").touch()  # the mount lives on
    assert mounted.toggle_storage() == "answers"
    assert path.read_bytes() == b"x" * 5000


def test_a_program_that_waits_for_storage_can_be_killed(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    path.write_bytes(b"x" * 5000)
    assert mounted.toggle_storage() == "hangs"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        program = subprocess.Popen(["truncate", "-s", "100", path])
        wait_until(lambda program=program: "request_wait" in sleeps_in(program), "truncating")
        program.send_signal(number)
        assert program.wait(60) == -number
    assert mounted.toggle_storage() == "answers"
    subprocess.run(["truncate", "-s", "100", path], check=True)
    drop_pages(path)
    assert path.read_bytes() == b"x" * 100


def test_a_signal_that_comes_together_with_its_request(mounted: MemoryMount) -> None:
    path = mounted.path / "file"
    path.touch()
    for _ in range(2):
        assert mounted.nap() == "naps"
        program = subprocess.Popen(["truncate", "-s", "100", path])
        wait_until(lambda program=program: "request_wait" in sleeps_in(program), "truncating")
        program.send_signal(signal.SIGINT)
        wait_until(lambda program=program: state_of(program) == "D", "the kernel's note of the signal")
        mounted.wake()
        assert program.wait(60) == -signal.SIGINT
    path.write_bytes(b"the mount lives on")


def test_a_signal_that_is_handled_ends_no_sync(mounted: MemoryMount) -> None:
    """Programs that get signals all the time do not expect that."""
    path, handled = mounted.path / "file", "import signal; signal.signal(signal.SIGUSR1, lambda *_: None); "
    code = handled + "import os, sys; f = os.open(sys.argv[1], 65); os.write(f, b'kept'); os.fsync(f); print('synced')"
    assert mounted.toggle_storage() == "hangs"
    program = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: "request_wait" in sleeps_in(program), "syncing")
    program.send_signal(signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(0.5)
    assert mounted.toggle_storage() == "answers"
    assert program.communicate(timeout=DEADLINE_S)[0] == "synced\n"
    assert path.read_bytes() == b"kept"


def sleeps_in(process: subprocess.Popen[Any]) -> str:
    """The kernel function in which it waits."""
    return Path(f"/proc/{process.pid}/wchan").read_text()


def state_of(process: subprocess.Popen[Any]) -> str:
    """How it sleeps: S until a signal comes, D whatever comes."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def drop_pages(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def refused(path: Path) -> str:
    """What a mount says that does not come to be."""
    process = mount_process(path, errors=subprocess.PIPE)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, errors
    return errors


def test_mount_point_must_be_an_empty_directory(folder: Path) -> None:
    assert "does not exist" in refused(folder / "missing")
    (folder / "file").touch()
    assert "is no directory" in refused(folder / "file")
    assert "is not empty (1 entries, among them 'file')" in refused(folder)
    assert (folder / "file").exists()


def test_second_mount_at_the_same_place_is_refused(mounted: MemoryMount) -> None:
    assert "already a mount point (fuse.3fs from memory)" in refused(mounted.path)
    (mounted.path / "still").write_bytes(b"alive")


def test_dead_mount_is_taken_away_by_the_next(folder: Path) -> None:
    with memory_mount(folder) as mount:
        mount.process.kill()
        mount.process.wait()
        with pytest.raises(OSError) as caught:
            os.stat(mount.path)
        assert caught.value.errno == errno.ENOTCONN
        with memory_mount(folder) as again:
            (again.path / "file").write_bytes(b"back")
            assert "daemon is gone" in again.log.read_text()
    assert mounted_at(str(folder / "mnt")) is None


def test_sigterm_with_an_open_file_unmounts(mounted: MemoryMount) -> None:
    file = os.open(mounted.path / "file", os.O_CREAT | os.O_RDWR)
    os.write(file, b"x" * 100)
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(DEADLINE_S) == 0
    assert mounted_at(str(mounted.path)) is None
    with pytest.raises(OSError) as caught:
        os.fsync(file)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    os.closerange(file, file + 1)


def test_umount_ends_the_daemon(mounted: MemoryMount) -> None:
    subprocess.run(["umount", mounted.path], check=True)
    assert mounted.process.wait(DEADLINE_S) == 0


def test_big_writes_need_little_memory(mounted: MemoryMount) -> None:
    before = mounted.resident_bytes()
    with (mounted.path / "big").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(MIB))
        os.fsync(file.fileno())
    stored = 200 * MIB
    assert mounted.resident_bytes() - before - stored < 100 * MIB


def _answers(kind: str, listener: socket.socket, asked: list[int]) -> None:
    """A daemon that answers lookups wrongly, until its listener is closed; notes who asked."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            request = connection.recv(4096)
            header = frame.unpack(request)
            asked.append(header.method)
            error = frame.pack_error(1, "no")
            body = proto_lookup.pack_answer(proto_lookup.NO_SUCH_NAME)
            good = frame.pack(frame.Kind.REPLY, header.method, header.request_id, body, 0)
            replies = {
                "ends": b"",
                "is cut short": good[:70],
                "is garbage": os.urandom(120),
                "is of another request": frame.pack(frame.Kind.REPLY, header.method, header.request_id + 1, body, 0),
                "is damaged": good[:-1] + bytes([good[-1] ^ 1]),
                "is an error": frame.pack(frame.Kind.ERROR, header.method, header.request_id, error, 0),
                "is too long": frame.pack(frame.Kind.REPLY, header.method, header.request_id, body + bytes(8), 0),
            }
            with suppress(ConnectionError):  # a mount waits for a second
                connection.sendall(replies[kind])


@pytest.mark.parametrize(
    "kind",
    ["ends", "is cut short", "is garbage", "is of another request", "is damaged", "is an error", "is too long"],
)
def test_lookups_go_the_long_way_when_an_answer(kind: str, folder: Path) -> None:
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answers, args=(kind, listener, asked), daemon=True)
        thread.start()
        with memory_mount(folder, f"--lookups=127.0.0.1:{listener.getsockname()[1]}") as mount:
            (mount.path / "file").write_bytes(b"here")
            assert (mount.path / "file").read_bytes() == b"here"
            assert sorted(os.listdir(mount.path)) == ["file"]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert asked == [proto_lookup.METHOD]
