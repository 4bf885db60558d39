"""A cluster on this machine: every daemon a process of its own, all under one folder."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threefs.cli.dev import layout
from threefs.cli.dev.bootstrap import bring_up
from threefs.cli.dev.configs import write_config
from threefs.cli.dev.layout import ClusterSpec, DaemonSpec
from threefs.cli.dev.processes import Process, daemon_command, require_alive
from threefs.cli.entry import run_async
from threefs.common.errors import UserError
from threefs.common.kv.etcd_local import EtcdLocal
from threefs.common.net.ports import free_ports
from threefs.fuse import mountpoint

START_S = 180.0  # all daemons, on as few cores as there are; one that ends at its start is told of at once
_START_ORDER = ("etcd", "mgmtd", "storage", "meta", "mount")


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    name: str
    role: str
    node_id: int
    pid: int | None
    address: str


class DevCluster:
    """The cluster of one folder."""

    def __init__(self, folder: Path, spec: ClusterSpec) -> None:
        self.folder = folder
        self.spec = spec

    @classmethod
    def open(cls, folder: Path) -> DevCluster:
        """UserError if the folder holds no cluster."""
        folder = folder.resolve()
        return cls(folder, layout.load(folder))

    def process(self, daemon: DaemonSpec) -> Process:
        return Process(self.folder / daemon.name)

    def status(self) -> list[DaemonStatus]:
        return [
            DaemonStatus(d.name, d.role, d.node_id, self.process(d).pid(), self._address(d)) for d in self.spec.daemons
        ]

    def _address(self, daemon: DaemonSpec) -> str:
        return self.spec.mount if daemon.role == "mount" else f"127.0.0.1:{daemon.port}"

    # --- starting -----------------------------------------------------------------------------------------------

    def up(self, *, timeout_s: float = START_S) -> None:
        """Starts what does not run and waits until everything serves. On failure nothing new is left running."""
        started: list[DaemonSpec] = []
        with self._locked():
            try:
                self._check_mountpoint()
                for role in _START_ORDER[:-1]:
                    started += [daemon for daemon in self.spec.of_role(role) if self._start(daemon)]
                run_async(bring_up(self.spec, self._check_running, timeout_s=timeout_s))
                for daemon in self.spec.of_role("mount"):
                    if self._start(daemon):
                        started.append(daemon)
                    self._wait_mounted(daemon, timeout_s)
            except BaseException:
                for daemon in reversed(started):
                    self.process(daemon).stop()
                raise

    def restart(self, name: str) -> int:
        """Stops a daemon if it runs, starts it again; returns its pid."""
        daemon = self.spec.daemon(name)
        with self._locked():
            self.process(daemon).stop()
            self._start(daemon)
            if daemon.role == "mount":
                self._wait_mounted(daemon, START_S)
            pid = self.process(daemon).pid()
            require_alive(self.process(daemon), name)
            assert pid is not None
            return pid

    def _start(self, daemon: DaemonSpec) -> bool:
        process = self.process(daemon)
        if process.pid() is not None:
            return False
        (self.folder / daemon.name).mkdir(exist_ok=True)
        if daemon.role == "etcd":
            members = self.spec.of_role("etcd")
            ports = [port for member in members for port in (member.port, member.grpc_port)]
            # the data folder comes with the command line, and so tells the process from others
            process.start(EtcdLocal(self.folder, ports).command(members.index(daemon)))
        else:
            process.start(daemon_command(daemon.role, write_config(self.folder, self.spec, daemon)))
        return True

    def _check_running(self) -> None:
        for daemon in self.spec.daemons:
            if daemon.role != "mount":
                require_alive(self.process(daemon), daemon.name)

    def _check_mountpoint(self) -> None:
        """Before anything is started: a mount point that cannot be used."""
        for daemon in self.spec.of_role("mount"):
            if self.process(daemon).pid() is None:
                mountpoint.clear(Path(self.spec.mount))
                Path(self.spec.mount).mkdir(parents=True, exist_ok=True)
                mountpoint.prepare(Path(self.spec.mount))

    def _wait_mounted(self, daemon: DaemonSpec, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not mountpoint.is_served(Path(self.spec.mount)):  # a dead daemon's mount is there, too
            require_alive(self.process(daemon), daemon.name)
            if time.monotonic() > deadline:
                log = self.process(daemon).log
                raise UserError(f"{self.spec.mount} was not mounted within {timeout_s:g} s", f"see {log}")
            time.sleep(0.02)

    # --- stopping -----------------------------------------------------------------------------------------------

    def down(self) -> None:
        """Stops every daemon, clients first, so that all data is written; removes no data, and leaves no mount."""
        with self._locked():
            for role in reversed(_START_ORDER):
                processes = [self.process(daemon) for daemon in self.spec.of_role(role)]
                for process in processes:
                    process.signal(signal.SIGTERM)
                for process in processes:
                    process.stop()
            if self.spec.mount:
                mountpoint.clear(Path(self.spec.mount))  # of a daemon that was killed

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up`, `down` or `restart` at a time."""
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise UserError(
                    f"another 3fs dev command works on {self.folder}", "wait until it has finished"
                ) from exc
            yield


def open_or_create(folder: Path, **wanted: Any) -> DevCluster:
    """The cluster of `folder`, made by the first call. What an existing one consists of stays, but for its mount."""
    folder = folder.resolve()
    if not (folder / "cluster.json").exists():
        layout.create(folder, layout.plan(**wanted))
    cluster = DevCluster.open(folder)
    mount = str(wanted["mount"])
    if mount and mount != cluster.spec.mount:
        cluster = DevCluster(folder, _with_mount(cluster, mount))
        layout.save(folder, cluster.spec)
    return cluster


def _with_mount(cluster: DevCluster, mount: str) -> ClusterSpec:
    running = [status.name for status in cluster.status() if status.role == "mount" and status.pid]
    if running:
        raise UserError(
            f"the cluster is mounted at {cluster.spec.mount}", f"3fs dev down --dir {cluster.folder} before it moves"
        )
    daemons = cluster.spec.daemons
    if not cluster.spec.of_role("mount"):
        daemons = (*daemons, DaemonSpec("mount-1", "mount", 20001, *free_ports(3)))
    return replace(cluster.spec, mount=mount, daemons=daemons)
