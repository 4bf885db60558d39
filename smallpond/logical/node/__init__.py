"""Nodes: the steps of a logical plan, by family."""

from threefs.smallpond.logical.node.base import Context, Node, NodeId
from threefs.smallpond.logical.node.compute import (
    ArrowComputeNode,
    BatchFormat,
    PandasComputeNode,
    PolarsComputeNode,
    PythonScriptNode,
)
from threefs.smallpond.logical.node.partition import (
    DataSetPartitionNode,
    EvenlyDistributedPartitionNode,
    HashPartitionNode,
    LoadPartitionedDataSetNode,
    PartitionNode,
    RangePartitionNode,
    RepeatPartitionNode,
    ShuffleNode,
    UserDefinedPartitionNode,
    UserPartitionedDataSourceNode,
)
from threefs.smallpond.logical.node.plan import LogicalPlan, LogicalPlanVisitor
from threefs.smallpond.logical.node.sink import DataSinkNode
from threefs.smallpond.logical.node.source import DataSourceNode
from threefs.smallpond.logical.node.sql import LimitNode, SqlEngineNode
from threefs.smallpond.logical.node.stream import (
    ArrowBatchNode,
    ArrowStreamNode,
    PandasBatchNode,
    PolarsBatchNode,
    StreamOutput,
)
from threefs.smallpond.logical.node.structure import ConsolidateNode, ProjectionNode, RootNode, UnionNode

__all__ = [
    "ArrowBatchNode",
    "ArrowComputeNode",
    "ArrowStreamNode",
    "BatchFormat",
    "ConsolidateNode",
    "Context",
    "DataSetPartitionNode",
    "DataSinkNode",
    "DataSourceNode",
    "EvenlyDistributedPartitionNode",
    "HashPartitionNode",
    "LimitNode",
    "LoadPartitionedDataSetNode",
    "LogicalPlan",
    "LogicalPlanVisitor",
    "Node",
    "NodeId",
    "PandasBatchNode",
    "PandasComputeNode",
    "PartitionNode",
    "PolarsBatchNode",
    "PolarsComputeNode",
    "ProjectionNode",
    "PythonScriptNode",
    "RangePartitionNode",
    "RepeatPartitionNode",
    "RootNode",
    "ShuffleNode",
    "SqlEngineNode",
    "StreamOutput",
    "UnionNode",
    "UserDefinedPartitionNode",
    "UserPartitionedDataSourceNode",
]
