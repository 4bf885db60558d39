"""Writes the configuration file of each daemon of a development cluster."""

from __future__ import annotations

from pathlib import Path

from threefs.cli.dev.layout import ClusterSpec, DaemonSpec
from threefs.common.kv.etcd_local import TRANSACTION_OPS_MAX

Value = str | int | float | bool | list[str] | list[dict[str, str]]


def to_toml(values: dict[str, Value], sections: dict[str, dict[str, Value]]) -> str:
    lines = [f"{key} = {_text(value)}" for key, value in values.items()]
    for name, content in sections.items():
        lines += ["", f"[{name}]", *(f"{key} = {_text(value)}" for key, value in content.items())]
    return "\n".join(lines) + "\n"


def _text(value: Value | dict[str, str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_text(item)}" for key, item in value.items()) + " }"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def write_config(folder: Path, spec: ClusterSpec, daemon: DaemonSpec) -> Path:
    """Writes DIR/<name>/config.toml and returns its path."""
    home = folder / daemon.name
    home.mkdir(parents=True, exist_ok=True)
    path = home / "config.toml"
    path.write_text(_BUILDERS[daemon.role](home, spec, daemon))
    return path


def _process(daemon: DaemonSpec) -> dict[str, Value]:
    process: dict[str, Value] = {"metrics_listen": f"127.0.0.1:{daemon.metrics_port}"}
    if daemon.role in ("mgmtd", "meta"):
        process["grpc_listen"] = f"127.0.0.1:{daemon.grpc_port}"
    return process


def _kv(home: Path, spec: ClusterSpec, role: str) -> dict[str, Value]:
    if spec.kv == "embedded":
        return {"engine": "embedded", "path": str(home / "store")}
    endpoints: list[str] = [f"127.0.0.1:{member.port}" for member in spec.of_role("etcd")]
    return {"engine": "etcd", "endpoints": endpoints, "prefix": f"{role}/", "transaction_ops_max": TRANSACTION_OPS_MAX}


def _node(spec: ClusterSpec, daemon: DaemonSpec) -> dict[str, Value]:
    return {"node_id": daemon.node_id, "listen": f"127.0.0.1:{daemon.port}", "cluster_id": spec.cluster_id}


def _mgmtd(home: Path, spec: ClusterSpec, daemon: DaemonSpec) -> str:
    return to_toml(_node(spec, daemon), {"kv": _kv(home, spec, "mgmtd"), "process": _process(daemon)})


def _meta(home: Path, spec: ClusterSpec, daemon: DaemonSpec) -> str:
    root: dict[str, Value] = {"chunk_bytes": spec.chunk_bytes, "stripe": min(16, spec.chains)}
    values = _node(spec, daemon) | {"mgmtd": spec.mgmtd_addresses()}
    return to_toml(values, {"kv": _kv(home, spec, "meta"), "root": root, "process": _process(daemon)})


def _storage(home: Path, spec: ClusterSpec, daemon: DaemonSpec) -> str:
    disks: list[dict[str, str]] = [{"path": str(home / "disk")}]
    values: dict[str, Value] = _node(spec, daemon) | {"mgmtd": spec.mgmtd_addresses(), "disks": disks}
    (home / "disk").mkdir(exist_ok=True)
    return to_toml(values, {"process": _process(daemon)})


def _mount(home: Path, spec: ClusterSpec, daemon: DaemonSpec) -> str:
    values: dict[str, Value] = {
        "cluster_id": spec.cluster_id,
        "mountpoint": spec.mount,
        "mgmtd": spec.mgmtd_addresses(),
    }
    return to_toml(values, {"process": _process(daemon)})


_BUILDERS = {"mgmtd": _mgmtd, "meta": _meta, "storage": _storage, "mount": _mount}
