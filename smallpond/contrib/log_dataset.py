"""A node that writes the first rows of its inputs to the log, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import Context, Node, PythonScriptNode


class LogDataSet(PythonScriptNode):
    def __init__(self, ctx: Context, input_deps: Sequence[Node], num_rows: int = 200, **kwargs: Any) -> None:
        super().__init__(ctx, input_deps, **kwargs)
        self.num_rows = num_rows

    def process(self, runtime_ctx: Any, input_datasets: list[DataSet], output_path: str) -> bool:
        for dataset in input_datasets:
            dataset.log(self.num_rows)
        return True
