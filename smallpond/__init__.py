"""smallpond: data processing with SQL per partition, on one machine or many, with files as the only state.

    import threefs.smallpond as smallpond

    sp = smallpond.init()
    df = sp.read_parquet("prices/*.parquet").repartition(3, hash_by="ticker")
    df = sp.partial_sql("SELECT ticker, min(price), max(price) FROM {0} GROUP BY ticker", df)
    df.write_parquet("output/")

Importing this module imports no engine; the first session does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threefs.smallpond.dataframe import DataFrame
    from threefs.smallpond.logical.udf import (
        UDFAnyParameters,
        UDFListType,
        UDFMapType,
        UDFStructType,
        UDFType,
        UserDefinedFunction,
        udf,
    )
    from threefs.smallpond.session import Session

ENGINES = ("duckdb", "cloudpickle")  # what every session needs; the rest is asked for when it is used
__version__ = "0.15.0+3fs"
_LAZY = {
    "DataFrame": "threefs.smallpond.dataframe",
    "Session": "threefs.smallpond.session",
    **dict.fromkeys(
        ("UDFAnyParameters", "UDFListType", "UDFMapType", "UDFStructType", "UDFType", "UserDefinedFunction", "udf"),
        "threefs.smallpond.logical.udf",
    ),
}
__all__ = [
    "DataFrame",
    "Session",
    "UDFAnyParameters",
    "UDFListType",
    "UDFMapType",
    "UDFStructType",
    "UDFType",
    "UserDefinedFunction",
    "init",
    "udf",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def init(
    job_id: str | None = None,
    job_time: Any = None,
    job_name: str | None = None,
    data_root: str | None = None,
    num_executors: int | None = None,
    ray_address: str | None = None,
    bind_numa_node: bool | None = None,
    memory_allocator: str | None = None,
    platform: str | None = None,
    _remove_output_root: bool = True,
    *,
    executor: str | None = None,
    optimize: bool | None = None,
    progress: bool | None = None,
    report: str | None = None,
    retries: int | None = None,
    keep_bytes: int | None = None,
    executor_options: dict[str, Any] | None = None,
    **platform_options: Any,
) -> Session:
    """Start a session. Every SP_… environment variable wins over its argument.

    `job_id` and `job_time` name the job's folder. Results are kept by content under `data_root`, whatever the job, so
    that a run that was interrupted goes on where it stopped; `keep_bytes` of them stay when the session ends.
    `executor`: "local" (default), "ray", "mpi" or "filequeue". `optimize=False` runs the plan as it is written.
    `progress`: live progress on stderr (default: on a terminal); `report`: an HTML report of the runs at this path.
    `platform`: "mpi", or a module of yours with a `Platform` subclass: it starts `num_executors` workers, is told
    `job_name` and all further keywords, and has defaults of its own. With SP_SPAWN=1 in the environment it starts
    this very script as a job instead, and the process here ends.
    """
    arguments = dict(locals())
    _check_engines()
    from threefs.smallpond.session import Session

    return Session(**arguments)


def _check_engines() -> None:
    """The base install has none of them."""
    import importlib.util

    missing = [name for name in ENGINES if importlib.util.find_spec(name) is None]
    if missing:
        from threefs.smallpond.errors import PlanError

        raise PlanError(f"smallpond needs {', '.join(missing)}: install the extra, pip install 'threefs[smallpond]'")
