"""Where rows go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from threefs.smallpond.errors import PlanError
from threefs.smallpond.logical.node.base import Context, Node

DataSinkType = Literal["link", "copy", "link_or_copy", "manifest"]
WriteMode = Literal["add", "append", "overwrite", "error"]
WriteFormat = Literal["parquet", "csv", "json"]
SINK_TYPES = ("link", "copy", "link_or_copy", "manifest")
MODES = ("add", "append", "overwrite", "error")


class DataSinkNode(Node):
    """Collect the files of the inputs under `output_path`, all at once: readers see the folder before or after.

    link / link_or_copy / copy: the files themselves; manifest: only a list of where they are. `mode` decides what
    happens to files that are there already: "add" and "append" keep them, "overwrite" replaces them, "error" refuses.
    """

    def __init__(
        self,
        ctx: Context,
        input_deps: Sequence[Node],
        output_path: str,
        type: DataSinkType = "link",
        manifest_only: bool = False,
        is_final_node: bool = False,
        *,
        mode: WriteMode = "add",
        format: WriteFormat = "parquet",
        partition_by: Sequence[str] = (),
        options: dict[str, object] | None = None,
    ) -> None:
        if type not in SINK_TYPES:
            raise PlanError(f"sink type {type!r} is none of {', '.join(SINK_TYPES)}")
        if mode not in MODES:
            raise PlanError(f"mode {mode!r} is none of append, overwrite, error")
        super().__init__(ctx, input_deps, None, output_path)
        self.type: DataSinkType = "manifest" if manifest_only else type
        self.is_final_node = is_final_node
        self.mode = mode
        self.format = format
        self.partition_by = tuple(partition_by)
        self.options = dict(options or {})

    @property
    def sink_path(self) -> str:
        assert self.output_path is not None
        return self.output_path

    def details(self) -> str:
        keys = f" by {', '.join(self.partition_by)}" if self.partition_by else ""
        return f"{self.format} to {self.output_path}{keys} ({self.type}, {self.mode})"
