"""Starts and stops an etcd cluster on this machine: for `3fs dev up --kv etcd` and for tests.

Rule: members are plain `etcd` processes with their data under one folder; stopping and starting again goes on with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

from threefs.common.kv.errors import KvUnavailable
from threefs.common.kv.factory import KvConfig, open_engine
from threefs.common.runtime.interface import Runtime

STOP_S_MAX: Final = 2.0  # a leader whose followers end too tries for 7 s to hand over; its log is synced, so kill it
TRANSACTION_OPS_MAX: Final = 4096
QUOTA_BYTES: Final = 8 << 30
ELECTION_MS: Final = 1000  # without a word from the leader; etcd's own default


class EtcdLocal:
    """`count` members; member i (from 0) listens on ports[2 * i] for clients and on ports[2 * i + 1] for its peers."""

    def __init__(
        self,
        folder: Path,
        ports: list[int],
        *,
        count: int = 3,
        transaction_ops_max: int = TRANSACTION_OPS_MAX,
        election_ms: int = ELECTION_MS,
    ) -> None:
        assert len(ports) == 2 * count, f"{count} members need {2 * count} ports, got {len(ports)}"
        program = shutil.which("etcd")
        if program is None:
            raise KvUnavailable("etcd is not installed: apt-get install etcd-server")
        self.folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._program = program
        self._ports = ports
        self._count = count
        self._ops_max = transaction_ops_max
        self._election_ms = election_ms

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{self._ports[2 * member]}" for member in range(self._count))

    def config(self, prefix: str) -> KvConfig:
        """The `[kv]` section of a daemon that uses this cluster."""
        return KvConfig(engine="etcd", endpoints=list(self.endpoints), prefix=prefix, transaction_ops_max=self._ops_max)

    def command(self, member: int) -> list[str]:
        """The command line that runs one member in the foreground, for whoever supervises it."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports[2 * member : 2 * member + 2])
        peers = ",".join(f"etcd-{i}=http://127.0.0.1:{self._ports[2 * i + 1]}" for i in range(self._count))
        options = {
            "name": f"etcd-{member}",
            "data-dir": str(self.folder / f"etcd-{member}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": peers,
            "initial-cluster-token": str(self.folder),
            "max-txn-ops": str(self._ops_max),
            "quota-backend-bytes": str(QUOTA_BYTES),
            "heartbeat-interval": str(self._election_ms // 10),
            "election-timeout": str(self._election_ms),
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "1m",  # a snapshot is read for seconds
            "logger": "zap",
            "log-level": "warn",
            "log-outputs": "stderr",
        }
        return [self._program, *(f"--{name}={value}" for name, value in options.items())]

    def start(self, member: int | None = None) -> None:
        """Starts one member, or all; what it says goes to `etcd-<member>.log` in the folder."""
        for each in range(self._count) if member is None else [member]:
            assert each not in self.processes, f"member {each} runs"
            self.folder.mkdir(parents=True, exist_ok=True)
            clean = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
            with (self.folder / f"etcd-{each}.log").open("ab") as log:
                self.processes[each] = subprocess.Popen(
                    self.command(each), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean
                )

    def stop(self, member: int | None = None, signal_number: int = signal.SIGTERM) -> None:
        """Ends one member, or all, and waits for them; `signal.SIGKILL` is a crash."""
        chosen = list(self.processes) if member is None else [member]
        ending = [self.processes.pop(each) for each in chosen]
        for process in ending:
            process.send_signal(signal_number)
        for process in ending:
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def wait_ready(self, runtime: Runtime, timeout_s: float = 60.0) -> None:
        """Returns once a majority serves; KvUnavailable names a member that has ended, and its log."""
        deadline = runtime.now() + timeout_s
        while True:
            for member, process in self.processes.items():
                if process.poll() is not None:
                    log = self.folder / f"etcd-{member}.log"
                    raise KvUnavailable(f"etcd member {member} ended with status {process.returncode}; see {log}")
            try:
                engine = await open_engine(self.config("ready/"), runtime)
                await engine.close()
                return
            except KvUnavailable:
                if runtime.now() > deadline:
                    raise
            await runtime.sleep(0.1)
