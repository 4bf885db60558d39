"""What only the fdb engine does: FoundationDB's error codes, and what it says when parts of it are missing.

The codes are those of a stand-in for the client library (`fdb_standin/`), which is not FoundationDB.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from threefs.common.errors import ThreefsError, Throttled
from threefs.common.kv.errors import KvConflict, KvLimitError, KvMaybeCommitted, KvTooOld, KvUnavailable
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.kv.interface import KvEngine, Transaction
from threefs.common.runtime.real import RealRuntime

pytestmark = pytest.mark.unit

ON_READ, ON_COMMIT, AFTER_COMMIT = 0, 1, 2
HERE = Path(__file__).parent


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def engine(fdb_standin: tuple[ctypes.CDLL, Path], loop: asyncio.Runner) -> KvEngine:
    config = KvConfig(engine="fdb", cluster_file=str(fdb_standin[1]), prefix=f"test-{os.urandom(8).hex()}/")
    return loop.run(open_engine(config, RealRuntime()))


CODES: list[tuple[int, int, type[ThreefsError]]] = [
    (1007, ON_READ, KvTooOld),
    (1007, ON_COMMIT, KvTooOld),
    (1009, ON_READ, Throttled),
    (1020, ON_COMMIT, KvConflict),
    (1021, ON_COMMIT, KvMaybeCommitted),
    (1021, AFTER_COMMIT, KvMaybeCommitted),
    (1031, ON_READ, KvUnavailable),
    (1031, ON_COMMIT, KvMaybeCommitted),
    (1031, AFTER_COMMIT, KvMaybeCommitted),
    (1037, ON_READ, Throttled),
    (1039, AFTER_COMMIT, KvMaybeCommitted),
    (1213, ON_READ, Throttled),
    (2101, ON_COMMIT, KvLimitError),
]


@pytest.mark.parametrize(("code", "where", "error"), CODES)
def test_codes_are_the_errors_that_they_mean(
    engine: KvEngine,
    fdb_standin: tuple[ctypes.CDLL, Path],
    loop: asyncio.Runner,
    code: int,
    where: int,
    error: type[ThreefsError],
) -> None:
    async def once(ranges: bool) -> None:
        txn = engine.begin()
        fdb_standin[0].standin_fail(code, where, 1)
        try:
            await (txn.get_range(b"a", b"z") if ranges else txn.get(b"a"))
            txn.set(b"a", b"1")
            await txn.commit()
        finally:
            fdb_standin[0].standin_fail(0, 0, 0)
            txn.cancel()

    for ranges in (False, True):
        with pytest.raises(error, match=str(code)) as raised:
            loop.run(once(ranges))
        assert type(raised.value) is error
        assert raised.value.__cause__ is not None


@pytest.mark.parametrize(("code", "where"), [(code, where) for code, where, error in CODES if code != 2101])
def test_transact_rides_out_what_passes(
    engine: KvEngine, fdb_standin: tuple[ctypes.CDLL, Path], loop: asyncio.Runner, code: int, where: int
) -> None:
    attempts = []

    async def body(txn: Transaction) -> None:
        attempts.append(await txn.get(b"a"))
        txn.set(b"a", b"1")

    fdb_standin[0].standin_fail(code, where, 2)
    loop.run(engine.transact(body))
    assert len(attempts) == (1 if where == ON_READ else 3)  # a failed read ends the body before it counts
    applied = where == AFTER_COMMIT
    assert attempts[-1] == (b"1" if applied else None)


def test_transact_gives_up_in_time(
    engine: KvEngine, fdb_standin: tuple[ctypes.CDLL, Path], loop: asyncio.Runner
) -> None:
    fdb_standin[0].standin_fail(1037, ON_READ, 1_000_000)
    with pytest.raises(Throttled):
        loop.run(engine.transact(lambda txn: txn.get(b"a"), timeout_s=0.05))
    fdb_standin[0].standin_fail(0, 0, 0)


def test_a_missing_cluster_file_is_named(tmp_path: Path, loop: asyncio.Runner) -> None:
    config = KvConfig(engine="fdb", cluster_file=str(tmp_path / "fdb.cluster"))
    with pytest.raises(KvUnavailable, match=r"fdb\.cluster: start a cluster"):
        loop.run(open_engine(config, RealRuntime()))


MISSING = """
import asyncio, sys
sys.modules.update({blocked})
from threefs.common.kv.errors import KvUnavailable
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.runtime.real import RealRuntime
try:
    asyncio.run(open_engine(KvConfig(engine="fdb", cluster_file=sys.argv[1]), RealRuntime()))
except KvUnavailable as exc:
    print(exc)
"""


@pytest.mark.parametrize(
    ("blocked", "advice"),
    [("{'fdb': None}", 'pip install "threefs[fdb]"'), ("{}", "install the package foundationdb-clients")],
)
def test_a_missing_package_or_library_is_named(tmp_path: Path, blocked: str, advice: str) -> None:
    (tmp_path / "fdb.cluster").touch()
    if blocked == "{}" and ctypes.util.find_library("fdb_c"):
        pytest.skip("FoundationDB's client library is installed")
    script = MISSING.replace("{blocked}", blocked)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "fdb.cluster")], capture_output=True, text=True, check=True
    )
    assert advice in done.stdout


def test_the_suite_passes_on_a_real_cluster() -> None:
    if not Path(os.environ.get("FDB_CLUSTER_FILE", "/etc/foundationdb/fdb.cluster")).is_file():
        pytest.skip("no FoundationDB cluster file: set FDB_CLUSTER_FILE to run the suite on a real cluster")
    suite = [str(HERE / "test_conformance.py"), str(HERE / "test_serial_model.py")]
    environment = os.environ | {"THREEFS_TEST_FDB": "1"}
    done = subprocess.run([sys.executable, "-m", "pytest", *suite], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
