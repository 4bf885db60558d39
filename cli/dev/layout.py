"""A development cluster's folder: what is in it, and the configuration of each daemon.

DIR/cluster.json       what the cluster consists of: written once, by the first `3fs dev up`
DIR/<name>/            one folder a daemon (mgmtd-1, meta-1, storage-1 …, mount-1, etcd-1 …)
    config.toml        its configuration, rewritten by each `up`
    log                what it said
    pid                its process while it runs
    store/, disk/      its data
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from threefs.common.errors import UserError
from threefs.common.net.ports import free_ports

FORMAT = 1


@dataclass(frozen=True, slots=True)
class DaemonSpec:
    """One daemon: `name` is what `3fs dev restart` takes."""

    name: str
    role: str  # mgmtd, meta, storage, mount, etcd
    node_id: int
    port: int = 0  # frames
    grpc_port: int = 0
    metrics_port: int = 0


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What `cluster.json` holds."""

    cluster_id: str
    kv: str  # embedded, etcd
    replicas: int
    chains: int
    daemons: tuple[DaemonSpec, ...]
    mount: str = ""
    format: int = FORMAT
    chunk_bytes: int = 1 << 20
    extra: dict[str, str] = field(default_factory=dict)

    def of_role(self, role: str) -> list[DaemonSpec]:
        return [daemon for daemon in self.daemons if daemon.role == role]

    def mgmtd_addresses(self) -> list[str]:
        return [f"127.0.0.1:{daemon.port}" for daemon in self.of_role("mgmtd")]

    def daemon(self, name: str) -> DaemonSpec:
        for daemon in self.daemons:
            if daemon.name == name:
                return daemon
        known = ", ".join(daemon.name for daemon in self.daemons)
        raise UserError(f"this cluster has no daemon {name!r}", f"it has: {known}")


def plan(
    *, kv: str, mgmtds: int, metas: int, storages: int, replicas: int, chains: int, mount: str, chunk_bytes: int
) -> ClusterSpec:
    """A new cluster; UserError for numbers that do not go together."""
    if kv == "embedded" and (mgmtds > 1 or metas > 1):
        raise UserError(
            "the embedded store has one owner, so there can be one mgmtd and one meta daemon",
            "add --kv etcd for several of them",
        )
    if replicas > storages:
        raise UserError(
            f"{replicas} replicas need {replicas} storage daemons, {storages} were asked for",
            f"pass --storages {replicas} or --replicas {storages}",
        )
    roles = [("mgmtd", 1, mgmtds), ("meta", 100, metas), ("storage", 10001, storages)]
    roles += [("etcd", 9001, 3)] if kv == "etcd" else []
    roles += [("mount", 20001, 1)] if mount else []
    names = [(f"{role}-{n + (role != 'etcd')}", role, first + n) for role, first, count in roles for n in range(count)]
    ports = iter(free_ports(3 * len(names)))
    daemons = tuple(DaemonSpec(name, role, node, next(ports), next(ports), next(ports)) for name, role, node in names)
    return ClusterSpec(
        f"dev-{os.urandom(6).hex()}", kv, replicas, chains, daemons, mount=mount, chunk_bytes=chunk_bytes
    )


def load(folder: Path) -> ClusterSpec:
    """The cluster of a folder; UserError if there is none or it does not parse."""
    path = folder / "cluster.json"
    try:
        raw = json.loads(path.read_text())
        daemons = tuple(DaemonSpec(**daemon) for daemon in raw.pop("daemons"))
        spec = ClusterSpec(daemons=daemons, **raw)
    except FileNotFoundError as exc:
        raise UserError(f"{folder} holds no cluster", f"create one with: 3fs dev up --dir {folder}") from exc
    except OSError as exc:
        raise UserError(f"cannot read {path}: {exc.strerror}", "check the folder and its permissions") from exc
    except (ValueError, TypeError, KeyError) as exc:
        raise UserError(f"{path} is damaged: {exc}", "restore it, or use another folder") from exc
    if spec.format != FORMAT:
        raise UserError(f"{path} has format {spec.format}, this release reads {FORMAT}", "use the release that made it")
    return spec


def create(folder: Path, spec: ClusterSpec) -> None:
    """Writes `cluster.json` into an empty or new folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupants = [entry.name for entry in folder.iterdir()]
    except OSError as exc:
        raise UserError(f"cannot use {folder}: {exc.strerror}", "choose a folder that you may write to") from exc
    if occupants:
        raise UserError(
            f"{folder} is not empty (it has {occupants[0]!r}) and holds no cluster", "choose a new or an empty folder"
        )
    save(folder, spec)


def save(folder: Path, spec: ClusterSpec) -> None:
    fresh = folder / "cluster.json.new"
    fresh.write_text(json.dumps(asdict(spec), indent=2) + "\n")
    fresh.replace(folder / "cluster.json")
