"""The planner: nodes in, stages out. It decides producers and consumers, never how an operator works.

Every node becomes an Output; most also a Stage. Nodes whose content address was seen before share the stage, so that a
sub-plan that two readers reach runs once, however its nodes were made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from threefs.smallpond.common import MB, TOPLEVEL_DIMENSION, split_evenly
from threefs.smallpond.errors import PlanError
from threefs.smallpond.execution.fingerprint import fingerprint, node_state
from threefs.smallpond.execution.runtime_ctx import RuntimeContext
from threefs.smallpond.execution.stage import (
    Binding,
    ExchangeOutput,
    GroupedOutput,
    LiteralOutput,
    NestedOutput,
    Output,
    PhysicalPlan,
    Stage,
    StageKind,
    StageOutput,
)
from threefs.smallpond.executors.interface import Host, Resources
from threefs.smallpond.logical.dataset import ParquetDataSet
from threefs.smallpond.logical.node import (
    ConsolidateNode,
    DataSinkNode,
    DataSourceNode,
    EvenlyDistributedPartitionNode,
    HashPartitionNode,
    LimitNode,
    LogicalPlan,
    Node,
    PartitionNode,
    ProjectionNode,
    RangePartitionNode,
    RepeatPartitionNode,
    RootNode,
    SqlEngineNode,
    UnionNode,
    UserDefinedPartitionNode,
    UserPartitionedDataSourceNode,
)
from threefs.smallpond.logical.node.plan import walk
from threefs.smallpond.logical.partition import TOPLEVEL, Partition, PartitionInfo, dimensions, extend, project

PRODUCER_BYTES_MIN = 64 * MB  # a producer with less costs more to start than it saves
HEADROOM = 8  # of a task's share of the memory stays free: hosts of one kind that join later never have quite as much
DEFAULT_HOST = Host("unknown", Resources(1, 0.0, 1 << 30))
_VOLATILE_SQL = re.compile(
    r"\b(random|uuid|gen_random_uuid|uuidv4|uuidv7|now|current_timestamp|current_date|current_time|today|localtimestamp|nextval)\b",
    re.IGNORECASE,
)


class Planner:
    """Plans for the hosts that are known now. `nonces` makes chosen nodes (by id) new to the store of results."""

    def __init__(
        self, runtime_ctx: RuntimeContext, hosts: Sequence[Host] = (), nonces: dict[int, str] | None = None
    ) -> None:
        self.runtime_ctx = runtime_ctx
        self._hosts = list(hosts) or [DEFAULT_HOST]
        self._nonces = nonces or {}
        self._outputs: dict[int, Output] = {}
        self._stages: list[Stage] = []
        self._by_key: dict[str, Stage] = {}
        self._stage_of_node: dict[int, int] = {}

    def create_plans(self, roots: Sequence[Node]) -> PhysicalPlan:
        """One physical plan for several results."""
        named: dict[str, Output] = {}
        for root in roots:
            for node in walk(root):
                if id(node) in self._outputs:
                    continue
                output = self._outputs[id(node)] = self._plan(node)
                if node.output_name is not None:
                    named[node.output_name] = output
        outputs = [self._outputs[id(root)] for root in roots]
        return PhysicalPlan(self._stages, outputs, named, self._stage_of_node)

    def create_exec_plan(self, plan: LogicalPlan) -> PhysicalPlan:
        return self.create_plans([plan.root_node])

    # ---- nodes without a stage ----

    def _plan(self, node: Node) -> Output:
        for family, method in _METHODS:
            if isinstance(node, family):
                inputs = [self._outputs[id(dep)] for dep in node.input_deps]
                found: Output = method(self, node, inputs)
                return found
        raise PlanError(f"{node} is of no family that can be planned: derive it from a node that runs something")

    def _source(self, node: DataSourceNode, inputs: list[Output]) -> Output:
        if node.dataset is None:
            return LiteralOutput(fingerprint("nothing"), [], [])
        return LiteralOutput(fingerprint(node.dataset), [TOPLEVEL], [node.dataset])

    def _user_partitions(self, node: UserPartitionedDataSourceNode, inputs: list[Output]) -> Output:
        count, dimension = node.npartitions, node.dimension
        partitions = [extend(TOPLEVEL, PartitionInfo(index, count, dimension)) for index in range(count)]
        return LiteralOutput(fingerprint(node.partitioned_datasets, dimension), partitions, node.partitioned_datasets)

    def _union(self, node: Node, inputs: list[Output]) -> Output:
        inputs = [output for output in inputs if output.partitions]
        if not inputs:
            return LiteralOutput(fingerprint("nothing"), [], [])
        first = inputs[0].partitions
        for other in inputs[1:]:
            if list(other.partitions) != list(first):
                raise PlanError(
                    f"{node} (made at {node.location}): inputs have different partitions: "
                    f"{_describe(first)} and {_describe(other.partitions)}"
                )
        groups = [[(output, index) for output in inputs] for index in range(len(first))]
        return GroupedOutput(fingerprint("union", [output.key for output in inputs]), first, groups)

    def _root(self, node: Node, inputs: list[Output]) -> Output:
        groups = [[(output, index)] for output in inputs for index in range(len(output.partitions))]
        partitions = [partition for output in inputs for partition in output.partitions]
        return GroupedOutput(fingerprint("root", [output.key for output in inputs]), partitions, groups)

    def _consolidate(self, node: ConsolidateNode, inputs: list[Output]) -> Output:
        (source,) = inputs
        grouped: dict[Partition, list[tuple[Output, int]]] = {}
        for index, partition in enumerate(source.partitions):
            unknown = set(node.dimensions) - set(dimensions(partition))
            if unknown:
                raise PlanError(
                    f"{node} (made at {node.location}) keeps {', '.join(unknown)}, but has {_describe([partition])}"
                )
            grouped.setdefault(project(partition, node.dimensions), []).append((source, index))
        key = fingerprint("consolidate", node.dimensions, source.key)
        return GroupedOutput(key, list(grouped), list(grouped.values()))

    def _repeat(self, node: RepeatPartitionNode, inputs: list[Output]) -> Output:
        source = self._union(node, inputs)
        partitions, groups = [], []
        for index, partition in enumerate(source.partitions):
            for repeat in range(node.npartitions):
                partitions.append(self._nested(node, partition, repeat))
                groups.append([(source, index)])
        return GroupedOutput(fingerprint("repeat", node.npartitions, node.dimension, source.key), partitions, groups)

    # ---- nodes with one task a partition ----

    def _map(self, node: Node, inputs: list[Output]) -> Output:
        partitions, bindings = self._align(node, inputs)
        return StageOutput(self._stage(node, "map", partitions, bindings))

    def _projection(self, node: ProjectionNode, inputs: list[Output]) -> Output:
        partitions, bindings = self._align(node, inputs)
        return StageOutput(self._stage(node, "driver", partitions, bindings))

    def _limit(self, node: LimitNode, inputs: list[Output]) -> Output:
        partitions, bindings = self._align(node, inputs)
        stage = self._stage(node, "map", partitions, bindings, role="per partition" if len(partitions) > 1 else "")
        if len(partitions) == 1:
            return StageOutput(stage)
        merged = Binding(StageOutput(stage), [range(len(partitions))])
        return StageOutput(self._stage(node, "map", [TOPLEVEL], [merged], role="over all"))

    def _sink(self, node: DataSinkNode, inputs: list[Output]) -> Output:
        sources = [output for output in inputs if output.partitions]
        partitions = [partition for output in sources for partition in output.partitions]
        base, bindings = 0, []
        for output in sources:
            count = len(output.partitions)
            indices: list[list[int]] = [[] for _ in partitions]
            for index in range(count):
                indices[base + index] = [index]
            bindings.append(Binding(output, indices))
            base += count
        staged = self._stage(node, "sink", partitions, bindings, role="stage")
        merged = Binding(StageOutput(staged), [range(len(partitions))])
        return StageOutput(self._stage(node, "sink", [TOPLEVEL], [merged], role="commit"))

    def _align(self, node: Node, inputs: list[Output]) -> tuple[Sequence[Partition], list[Binding]]:
        """The partitions of the input with most dimensions; the others matched on the dimensions that they have."""
        if not inputs:
            return [TOPLEVEL], []
        lead = max(inputs, key=lambda output: len(output.partitions[0]) if output.partitions else 0)
        bindings = [self._match(node, lead.partitions, output, output is lead) for output in inputs]
        return lead.partitions, bindings

    def _match(self, node: Node, partitions: Sequence[Partition], output: Output, same: bool) -> Binding:
        if same:
            return Binding(output, [(index,) for index in range(len(partitions))])
        names = dimensions(output.partitions[0]) if output.partitions else ()
        positions = {partition: index for index, partition in enumerate(output.partitions)}
        try:
            found = [(positions[project(partition, names)],) for partition in partitions]
        except KeyError:
            raise PlanError(
                f"{node} (made at {node.location}): the inputs are partitioned differently: "
                f"{_describe(partitions)} and {_describe(output.partitions)}; "
                "repartition them alike, or give one of them a single partition"
            ) from None
        if len(positions) > 1 and len(set(found)) != len(positions):
            raise PlanError(
                f"{node} (made at {node.location}): {_describe(output.partitions)} has partitions that no partition of "
                f"{_describe(partitions)} reads"
            )
        return Binding(output, found)

    # ---- partition nodes ----

    def _evenly(self, node: EvenlyDistributedPartitionNode, inputs: list[Output]) -> Output:
        return self._exchange(node, inputs, 1, "driver")

    def _user_defined(self, node: PartitionNode, inputs: list[Output]) -> Output:
        return self._exchange(node, inputs, 1, "exchange")

    def _hash(self, node: HashPartitionNode, inputs: list[Output]) -> Output:
        inputs, producers = self._producers(node, inputs)
        return self._exchange(node, inputs, producers, "exchange")

    def _range(self, node: RangePartitionNode, inputs: list[Output]) -> Output:
        inputs, producers = self._producers(node, inputs)
        if node.split_points is not None:
            return self._exchange(node, inputs, producers, "exchange")
        if node.nested:
            raise PlanError(f"{node} (made at {node.location}): a nested range partition needs given split points")
        bindings = self._grouped(inputs, producers)
        places = [extend(TOPLEVEL, PartitionInfo(i, producers, "__producer__")) for i in range(producers)]
        samples = self._stage(node, "map", places, bindings, role="sample")
        everything = Binding(StageOutput(samples), [range(producers)] * producers)
        stage = self._stage(node, "exchange", places, [*bindings, everything], role="deal out")
        return ExchangeOutput(stage, self._flat(node))

    def _exchange(self, node: PartitionNode, inputs: list[Output], producers: int, kind: StageKind) -> Output:
        if node.nested:
            source = self._union(node, inputs)
            bindings = [Binding(source, [(index,) for index in range(len(source.partitions))])]
            stage = self._stage(node, kind, source.partitions, bindings, role="deal out")
            partitions = [self._nested(node, outer, i) for outer in source.partitions for i in range(node.npartitions)]
            return NestedOutput(stage, partitions, node.npartitions)
        places = [extend(TOPLEVEL, PartitionInfo(i, producers, "__producer__")) for i in range(producers)]
        stage = self._stage(node, kind, places, self._grouped(inputs, producers), role="deal out")
        return ExchangeOutput(stage, self._flat(node))

    def _flat(self, node: PartitionNode) -> list[Partition]:
        count, dimension = node.npartitions, node.dimension
        return [extend(TOPLEVEL, PartitionInfo(index, count, dimension)) for index in range(count)]

    def _nested(self, node: PartitionNode, outer: Partition, index: int) -> Partition:
        if node.dimension in dimensions(outer):
            raise PlanError(
                f"{node} (made at {node.location}): dimension {node.dimension} exists already; "
                "nested partitions need a new name"
            )
        return extend(outer, PartitionInfo(index, node.npartitions, node.dimension))

    def _grouped(self, inputs: list[Output], producers: int) -> list[Binding]:
        """All partitions of all inputs as one input, dealt to `producers` tasks in contiguous runs."""
        pairs = [(output, index) for output in inputs for index in range(len(output.partitions))]
        if not pairs:
            return []
        key = fingerprint("all", [output.key for output in inputs])
        everything = GroupedOutput(key, [TOPLEVEL] * len(pairs), [[pair] for pair in pairs])
        return [Binding(everything, [range(a, b) for a, b in split_evenly(len(pairs), producers)])]

    def _producers(self, node: PartitionNode, inputs: list[Output]) -> tuple[list[Output], int]:
        """How many tasks deal out, and inputs that have at least as many partitions."""
        if node.nested:
            return inputs, 1
        total = sum(len(output.partitions) for output in inputs)
        slots = sum(max(1, host.total.cpus // node.cpu_limit) for host in self._hosts)
        wanted = max(1, min(slots, node.max_num_producer_tasks))
        size = self._literal_bytes(inputs)
        if size is not None:
            wanted = max(1, min(wanted, size // PRODUCER_BYTES_MIN))
        if total >= wanted or total == 0:
            return inputs, max(1, min(wanted, total))
        if not all(self._splittable(output) for output in inputs):
            return inputs, total
        splitter = EvenlyDistributedPartitionNode(node.ctx, node.input_deps, wanted, partition_by_rows=True)
        splitter.location = node.location
        return [self._exchange(splitter, inputs, 1, "driver")], wanted

    def _literal_bytes(self, inputs: list[Output]) -> int | None:
        """The size of inputs that are files already; None when something is still to be computed."""
        if not all(isinstance(output, LiteralOutput) for output in inputs):
            return None
        found = [dataset for output in inputs if isinstance(output, LiteralOutput) for dataset in output.datasets]
        return sum(dataset.estimated_bytes for dataset in found)

    def _splittable(self, output: Output) -> bool:
        """Parquet files, whether there already or still to come; text has no rows to cut at."""
        if isinstance(output, LiteralOutput):
            return all(isinstance(dataset, ParquetDataSet) for dataset in output.datasets)
        return not isinstance(output, StageOutput) or len(output.partitions) > 0

    # ---- stages ----

    def _stage(
        self, node: Node, kind: StageKind, partitions: Sequence[Partition], bindings: Sequence[Binding], role: str = ""
    ) -> Stage:
        key = self._key(node, kind, partitions, bindings, role)
        known = self._by_key.get(key)
        if known is not None and kind != "sink":
            self._stage_of_node[id(node)] = known.id
            return known
        isolated = node.runs_user_code or (isinstance(node, SqlEngineNode) and node.runs_udfs)
        stage = Stage(len(self._stages), key, node, kind, partitions, bindings, self._request(node), isolated, role)
        self._stages.append(stage)
        self._by_key[key] = stage
        self._stage_of_node[id(node)] = stage.id
        return stage

    def _key(
        self, node: Node, kind: StageKind, partitions: Sequence[Partition], bindings: Sequence[Binding], role: str
    ) -> str:
        inputs = [(binding.output.key, _compact(binding.indices)) for binding in bindings]
        salt: list[object] = [self._nonces[node.id]] if node.id in self._nonces else []
        if _is_volatile(node):
            salt.append((self.runtime_ctx.job_id, self.runtime_ctx.random_seed))
        return fingerprint(kind, role, _identity(node), _compact(partitions), inputs, salt)

    def _request(self, node: Node) -> Resources:
        cpus, gpus, memory = node.task_limits()
        fitting = [host.total for host in self._hosts if host.total.cpus >= cpus] or [
            host.total for host in self._hosts
        ]
        # a task's share of the poorest host that has the CPUs: by its memory, each of them can run it
        share = min(total.memory_bytes * min(cpus, total.cpus) // max(1, total.cpus) for total in fitting)
        return Resources(cpus, gpus, memory if memory is not None else share - share // HEADROOM)


def _identity(node: Node) -> object:
    if isinstance(node, DataSinkNode):
        return (type(node).__name__, node.output_path)
    return (node, node_state(node))


def _is_volatile(node: Node) -> bool:
    """Its rows differ from run to run: results count within the job only."""
    if isinstance(node, SqlEngineNode):
        return any(_VOLATILE_SQL.search(query) for query in node.sql_queries)
    return bool(getattr(node, "random_shuffle", False))


def _compact(items: Sequence[object]) -> str:
    return fingerprint([tuple(item) if isinstance(item, range) else item for item in items])


def _describe(partitions: Sequence[Partition]) -> str:
    if not partitions:
        return "no partition"
    names = [f"{i.dimension} ({i.npartitions})" for i in partitions[0] if i.dimension != TOPLEVEL_DIMENSION]
    return " x ".join(names) or "a single partition"


_Method = Callable[[Planner, Any, list[Output]], Output]
_METHODS: list[tuple[type[Node] | tuple[type[Node], ...], _Method]] = [
    (DataSourceNode, Planner._source),
    (DataSinkNode, Planner._sink),
    (UnionNode, Planner._union),
    (RootNode, Planner._root),
    (ConsolidateNode, Planner._consolidate),
    (UserPartitionedDataSourceNode, Planner._user_partitions),
    (RepeatPartitionNode, Planner._repeat),
    (EvenlyDistributedPartitionNode, Planner._evenly),
    (UserDefinedPartitionNode, Planner._user_defined),
    (HashPartitionNode, Planner._hash),
    (RangePartitionNode, Planner._range),
    (PartitionNode, Planner._user_defined),  # LoadPartitionedDataSetNode
    (ProjectionNode, Planner._projection),
    (LimitNode, Planner._limit),
    (Node, Planner._map),
]
