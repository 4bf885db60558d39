"""Functions in SQL: Python functions, DuckDB extensions, and modules that register functions of their own.

A `UDFContext` travels to the worker with its node and binds itself to the connection there. One rule: what `bind` made,
`unbind` takes away, because connections live longer than tasks.
"""

from __future__ import annotations

import enum
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from threefs.common.errors import NotFound
from threefs.smallpond.errors import PlanError


class UDFType(enum.Enum):
    """DuckDB's scalar types by name."""

    SQLNULL = 1
    BOOLEAN = 2
    TINYINT = 3
    UTINYINT = 4
    SMALLINT = 5
    USMALLINT = 6
    INTEGER = 7
    UINTEGER = 8
    BIGINT = 9
    UBIGINT = 10
    HUGEINT = 11
    UUID = 12
    FLOAT = 13
    DOUBLE = 14
    DATE = 15
    TIMESTAMP = 16
    TIMESTAMP_MS = 17
    TIMESTAMP_NS = 18
    TIMESTAMP_S = 19
    TIME = 20
    TIME_TZ = 21
    TIMESTAMP_TZ = 22
    VARCHAR = 23
    BLOB = 24
    BIT = 25
    INTERVAL = 26

    def sql(self) -> str:
        special = {
            "SQLNULL": '"NULL"',
            "TIME_TZ": "TIME WITH TIME ZONE",
            "TIMESTAMP_TZ": "TIMESTAMP WITH TIME ZONE",
        }
        return special.get(self.name, self.name)

    def to_duckdb_type(self) -> Any:
        return _duckdb_type(self.sql())


@dataclass(frozen=True)
class UDFStructType:
    """Fields by name, as text (`{"a": "integer"}`) or as UDF types; a list gives names `f0, f1 …` of those types."""

    fields: Any

    def sql(self) -> str:
        fields = self.fields
        pairs = fields.items() if isinstance(fields, Mapping) else ((f"f{i}", kind) for i, kind in enumerate(fields))
        return "STRUCT(" + ", ".join(f'"{name}" {type_sql(kind)}' for name, kind in pairs) + ")"

    def to_duckdb_type(self) -> Any:
        return _duckdb_type(self.sql())


@dataclass(frozen=True)
class UDFListType:
    child: Any

    def sql(self) -> str:
        return f"{type_sql(self.child)}[]"

    def to_duckdb_type(self) -> Any:
        return _duckdb_type(self.sql())


@dataclass(frozen=True)
class UDFMapType:
    key: Any
    value: Any

    def sql(self) -> str:
        return f"MAP({type_sql(self.key)}, {type_sql(self.value)})"

    def to_duckdb_type(self) -> Any:
        return _duckdb_type(self.sql())


@dataclass(frozen=True)
class UDFAnyParameters:
    """Any number of parameters of any type."""

    def to_duckdb_type(self) -> Any:
        return None


def type_sql(kind: Any) -> str:
    """The DuckDB spelling of a UDF type, or of a type given as text."""
    return kind if isinstance(kind, str) else str(kind.sql())


def _duckdb_type(text: str) -> Any:
    import duckdb

    return duckdb.sqltype(text)


class UDFContext(ABC):
    """Something that adds functions to a connection."""

    name: str

    @abstractmethod
    def bind(self, conn: Any) -> None: ...

    def unbind(self, conn: Any) -> None:
        """What a module or an extension adds stays: it is the same for every task that names it."""
        return


class PythonUDFContext(UDFContext):
    def __init__(
        self,
        name: str,
        func: Callable[..., Any],
        params: Sequence[Any] | UDFAnyParameters | None,
        return_type: Any,
        use_arrow_type: bool = False,
    ) -> None:
        self.name = name
        self.func = func
        self.params = params
        self.return_type = return_type
        self.use_arrow_type = use_arrow_type

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.params if isinstance(self.params, Sequence) else ['…']))})"

    def bind(self, conn: Any) -> None:
        params = self.params
        given = [kind.to_duckdb_type() for kind in params] if isinstance(params, Sequence) else None
        result = self.return_type.to_duckdb_type() if self.return_type is not None else None
        options = {"type": "arrow"} if self.use_arrow_type else {}
        self.unbind(conn)
        conn.create_function(self.name, self.func, given, result, **options)

    def unbind(self, conn: Any) -> None:
        import duckdb

        with suppress(duckdb.Error):
            conn.remove_function(self.name)


class ExternalModuleContext(UDFContext):
    """A Python or compiled module by path; its `create_duckdb_functions(conn)` registers functions."""

    def __init__(self, name: str, module_path: str) -> None:
        self.name = name
        self.module_path = module_path

    def bind(self, conn: Any) -> None:
        spec = importlib.util.spec_from_file_location(self.name, self.module_path)
        if spec is None or spec.loader is None:
            raise NotFound(f"no Python module at {self.module_path}")
        module = sys.modules.get(self.name)
        if module is None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[self.name] = module
            spec.loader.exec_module(module)
        module.create_duckdb_functions(conn)


class DuckDbExtensionContext(UDFContext):
    def __init__(self, name: str, extension_path: str) -> None:
        self.name = name
        self.extension_path = extension_path

    def bind(self, conn: Any) -> None:
        conn.load_extension(self.extension_path)


@dataclass(frozen=True)
class UserDefinedFunction:
    """A Python function with its SQL signature; calling it calls the function."""

    name: str
    func: Callable[..., Any]
    params: Sequence[Any] | UDFAnyParameters | None
    return_type: Any
    use_arrow_type: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    def context(self) -> PythonUDFContext:
        return PythonUDFContext(self.name, self.func, self.params, self.return_type, self.use_arrow_type)


def udf(
    params: Sequence[Any] | UDFAnyParameters | None,
    return_type: Any,
    use_arrow_type: bool = False,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], UserDefinedFunction]:
    """Decorator: give a Python function a signature, so that SQL may call it by its name."""

    def wrap(func: Callable[..., Any]) -> UserDefinedFunction:
        return UserDefinedFunction(name or func.__name__, func, params, return_type, use_arrow_type)

    return wrap


def as_udf_context(value: Any, known: Mapping[str, UDFContext]) -> UDFContext:
    """What `udfs=[…]` may hold: a decorated function, a context, or the name of one that a Context knows."""
    if isinstance(value, UserDefinedFunction):
        return value.context()
    if isinstance(value, UDFContext):
        return value
    if isinstance(value, str) and value in known:
        return known[value]
    raise PlanError(f"{value!r} is no function: decorate it with @udf, or create it with Context.create_function first")
