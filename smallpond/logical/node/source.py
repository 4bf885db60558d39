"""Where rows come from."""

from __future__ import annotations

from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node.base import Context, Node


class DataSourceNode(Node):
    """One partition with the rows of a data set; None stands for no rows at all."""

    def __init__(self, ctx: Context, dataset: DataSet | None) -> None:
        super().__init__(ctx, ())
        self.dataset = dataset

    @property
    def num_partitions(self) -> int:
        return 1

    def details(self) -> str:
        return str(self.dataset)
