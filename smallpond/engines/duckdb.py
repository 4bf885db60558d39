"""DuckDB inside a task: one database a thread, its settings changed only where a task differs from the one before.

Every query of smallpond passes `session` (a task's) or `scratch` (planning: parsing and typing without data). One rule:
whatever a task registers (views, functions) is gone when it ends, and an engine's error leaves as a QueryError that
shows the query. DuckDB itself is imported by the first of them: a session that has not run anything needs none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from threefs.smallpond.common import MB
from threefs.smallpond.errors import QueryError
from threefs.smallpond.io import filesystem

if TYPE_CHECKING:
    import duckdb

    Connection: TypeAlias = duckdb.DuckDBPyConnection
    SessionManager: TypeAlias = AbstractContextManager[Connection]

_threads = threading.local()
_active: dict[int, Connection] = {}  # thread id -> connection in a query, for interrupts from other threads
MEMORY_FLOOR = 64 * MB  # DuckDB cannot even start a hash table with less


@dataclass(frozen=True)
class EngineSettings:
    threads: int = 1
    memory_bytes: int = 0  # 0: DuckDB's default
    temp_directory: str = ""  # where it spills; "": it fails instead
    preserve_order: bool = True

    def statements(self) -> dict[str, str]:
        limit = f"{max(self.memory_bytes, MEMORY_FLOOR)}B" if self.memory_bytes else "80%"
        return {
            "threads": f"SET threads = {self.threads}",
            "memory_limit": f"SET memory_limit = '{limit}'",
            "temp_directory": f"SET temp_directory = {quote(self.temp_directory)}",
            "preserve_insertion_order": f"SET preserve_insertion_order = {str(self.preserve_order).lower()}",
        }


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def session(settings: EngineSettings, seed: float | None = None) -> Iterator[Connection]:
    """This thread's database under `settings`, without anything of the tasks before."""
    connection, applied = _thread_connection(settings.temp_directory)
    for name, statement in settings.statements().items():
        if applied.get(name) != statement:
            do(connection, statement)
            applied[name] = statement
    if seed is not None:
        do(connection, f"SELECT setseed({seed})")
    outer = _active.get(threading.get_ident())
    _active[threading.get_ident()] = connection
    try:
        yield connection
    except BaseException:
        forget_connection(settings.temp_directory)  # a failed query may leave a transaction, views or functions
        raise
    finally:
        if outer is None:
            _active.pop(threading.get_ident(), None)
        else:
            _active[threading.get_ident()] = outer


def _thread_connection(temp_directory: str) -> tuple[Connection, dict[str, str]]:
    """A database a spill directory: DuckDB lets nobody change a directory that it has used."""
    import duckdb

    held: dict[str, tuple[Connection, dict[str, str]]] = _threads.__dict__.setdefault("held", {})
    found = held.get(temp_directory)
    if found is None:
        for stale in [name for name in held if name and temp_directory]:  # of a job before this one
            held.pop(stale)[0].close()
        connection = duckdb.connect(":memory:", config={"threads": 1})
        do(connection, "SET enable_progress_bar = false; SET autoinstall_known_extensions = false")
        found = held[temp_directory] = (connection, {})
    return found


def forget_connection(temp_directory: str = "") -> None:
    """Close this thread's database; the next task gets a fresh one."""
    import duckdb

    found = _threads.__dict__.get("held", {}).pop(temp_directory, None)
    if found is not None:
        with suppress(duckdb.Error):
            found[0].close()


def interrupt(thread_id: int) -> None:
    """Stop the query that another thread runs, if it runs one."""
    connection = _active.get(thread_id)
    if connection is not None:
        connection.interrupt()


@contextmanager
def scratch() -> Iterator[Connection]:
    """A database for planning: nothing but parsing, typing and explaining."""
    with session(EngineSettings()) as connection:
        yield connection


def register_filesystem_of(connection: Connection, path: str) -> None:
    """Let DuckDB open a URL through its fsspec file system."""
    if filesystem.protocol_of(path):
        fs = filesystem.fsspec_for(path)
        protocols = fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,)
        if not any(connection.filesystem_is_registered(name) for name in protocols):
            connection.register_filesystem(fs)


def do(connection: Connection, statement: str) -> None:
    """Run a statement for its effect, to its end: a result left open would keep the connection busy."""
    connection.execute(statement)
    connection.complete()


def first_row(connection: Connection, query: str) -> tuple[Any, ...]:
    """The first row of a query that has one."""
    with errors_of(query):
        found: Any = connection.sql(query)
        row: tuple[Any, ...] = found.fetchall()[0]
    return row


@contextmanager
def errors_of(query: str, what: str = "") -> Iterator[None]:
    """Turn an engine's errors into a QueryError that shows the query."""
    import duckdb

    try:
        yield
    except duckdb.Error as exc:
        raise QueryError(f"{what or 'query'} failed: {exc}\n  in: {shorten(query)}") from exc


def shorten(query: str, limit: int = 2000) -> str:
    text = "\n      ".join(query.strip().splitlines())
    return text if len(text) <= limit else text[:limit] + " …"


def bind_functions(connection: Connection, functions: list[Any]) -> Callable[[], None]:
    """Make UDFs known to a connection; the result takes them away again."""
    for function in functions:
        function.bind(connection)

    def unbind() -> None:
        for function in functions:
            function.unbind(connection)

    return unbind
