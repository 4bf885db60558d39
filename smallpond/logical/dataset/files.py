"""Plain files without rows: what scripts write."""

from __future__ import annotations

from threefs.common.errors import Unsupported
from threefs.smallpond.engines import duckdb as engine
from threefs.smallpond.logical.dataset.base import FilesDataSet


class FileSet(FilesDataSet):
    """Files of any kind; nodes that run scripts take and return them."""

    kind = "files"

    @property
    def num_rows(self) -> int:
        raise Unsupported("a set of files has no rows")

    @property
    def empty(self) -> bool:
        return not self.resolved_paths

    def sql_query_fragment(self, filesystem: object = None, conn: engine.Connection | None = None) -> str:
        raise Unsupported(f"a set of files cannot be queried: read {', '.join(self.paths[:3])} with a reader first")
