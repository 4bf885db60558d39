"""How a session is set up: the environment wins over arguments, arguments over defaults."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.executors.selection import default_executor

DEFAULT_DATA_ROOT = "~/.smallpond/data"


@dataclass
class SessionConfig:
    """Everything that `init` takes, resolved."""

    job_id: str
    job_time: datetime
    data_root: str
    job_name: str | None = None
    num_executors: int = 0
    ray_address: str | None = None
    executor: str = "local"
    bind_numa_node: bool = False
    memory_allocator: str | None = None
    platform: str | None = None
    platform_options: dict[str, Any] = field(default_factory=dict)
    optimize: bool = True
    progress: bool | None = None
    report_path: str | None = None
    remove_output_root: bool = True
    keep_bytes: int = 10 << 30
    retries: int = 3
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def resolve(cls, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> SessionConfig:
        """Arguments of `init` and SP_… variables into one configuration."""
        env = os.environ if environment is None else environment

        def pick(name: str, variable: str, default: Any = None) -> Any:
            return env.get(variable) or (arguments[name] if arguments.get(name) is not None else default)

        platform = pick("platform", "SP_PLATFORM")
        place = _defaults_of(platform)
        ray_address = pick("ray_address", "SP_RAY_ADDRESS")
        workers = _count(pick("num_executors", "SP_NUM_EXECUTORS", 0))
        data_root = pick("data_root", "SP_DATA_ROOT") or place.get("data_root")
        if data_root is None:
            data_root = DEFAULT_DATA_ROOT
            if workers or ray_address:
                warnings.warn(f"results go to {data_root}: other hosts need a data_root that they share", stacklevel=4)
        job_name = pick("job_name", "SP_JOB_NAME")
        return cls(
            job_id=str(pick("job_id", "SP_JOBID") or place.get("job_id") or uuid.uuid4().hex),
            job_time=_job_time(pick("job_time", "SP_JOB_TIME") or place.get("job_time")),
            data_root=os.path.abspath(os.path.expanduser(data_root)),
            job_name=job_name,
            num_executors=workers,
            ray_address=ray_address,
            executor=str(pick("executor", "SP_EXECUTOR", default_executor(platform, ray_address, env, workers))),
            bind_numa_node=str(pick("bind_numa_node", "SP_BIND_NUMA_NODE", "")).lower() in ("1", "true"),
            memory_allocator=pick("memory_allocator", "SP_MEMORY_ALLOCATOR") or place.get("memory_allocator"),
            platform=platform,
            platform_options=_platform_options(arguments, platform, job_name),
            optimize=str(pick("optimize", "SP_OPTIMIZE", "1")).lower() not in ("0", "false"),
            progress=arguments.get("progress"),
            report_path=pick("report", "SP_REPORT"),
            remove_output_root=bool(arguments.get("_remove_output_root", True)),
            keep_bytes=int(pick("keep_bytes", "SP_KEEP_BYTES", 10 << 30)),
            retries=int(arguments.get("retries") or 3),
            options=dict(arguments.get("executor_options") or {}),
        )


def _defaults_of(platform: str | None) -> dict[str, Any]:
    """What a platform that was asked for says where nobody else does."""
    if platform is None:
        return {}
    from threefs.smallpond.platform import get_platform

    found = get_platform(platform)
    return {
        "job_id": found.default_job_id(),
        "job_time": found.default_job_time(),
        "data_root": found.default_data_root(),
        "memory_allocator": found.default_memory_allocator(),
    }


def _platform_options(arguments: Mapping[str, Any], platform: str | None, job_name: str | None) -> dict[str, Any]:
    """Keywords of `init` that only the platform understands; without a platform there is none such."""
    found = dict(arguments.get("platform_options") or {})
    if found and platform is None:
        raise PlanError(f"init() has no argument {', '.join(found)}: only with platform=… are others passed on to it")
    return found | ({"job_name": job_name} if job_name else {})


def _count(value: Any) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError) as exc:
        raise PlanError(f"num_executors {value!r} is no number") from exc
    if found < 0:
        raise PlanError(f"num_executors {found} is below 0")
    return found


def _job_time(value: Any) -> datetime:
    if value is None:
        return datetime.now()
    if isinstance(value, datetime):
        return value
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value)
    try:
        if str(value).replace(".", "", 1).isdigit():
            return datetime.fromtimestamp(float(value))
        return datetime.fromisoformat(str(value))
    except ValueError as exc:
        raise PlanError(f"job_time {value!r} is no ISO time such as 2026-01-31T12:00:00") from exc
