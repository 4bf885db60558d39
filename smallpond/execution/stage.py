"""The physical plan: stages of tasks, and outputs that say which tasks' results make up each partition.

A stage runs one node once a task. Its inputs are `Binding`s: for every task, which partitions of an output it reads.
Nothing here grows with the product of producers and consumers: slots are worked out when a task is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from threefs.smallpond.executors.interface import Resources
from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import Node
from threefs.smallpond.logical.partition import Partition


class Ref(NamedTuple):
    """The result of a task, or one member of it when the task dealt rows out."""

    stage: int
    task: int
    member: int | None = None


Slot = Ref | DataSet
TaskId = tuple[int, int]  # (stage, task)


class Output(ABC):
    """What a node gives: partitions, each the rows of some slots. `key` is its content address."""

    key: str
    partitions: Sequence[Partition]
    barriers: frozenset[int] = frozenset()  # stages of which every task must be done before any partition is whole

    @abstractmethod
    def slots(self, index: int) -> list[Slot]: ...

    def needs(self, index: int) -> list[TaskId]:
        """Tasks that partition `index` waits for, beside the barriers."""
        return [(slot.stage, slot.task) for slot in self.slots(index) if isinstance(slot, Ref)]


class LiteralOutput(Output):
    """Data sets that are there already."""

    def __init__(self, key: str, partitions: Sequence[Partition], datasets: Sequence[DataSet]) -> None:
        self.key = key
        self.partitions = partitions
        self.datasets = datasets

    def slots(self, index: int) -> list[Slot]:
        return [self.datasets[index]]


class StageOutput(Output):
    """One partition a task."""

    def __init__(self, stage: Stage) -> None:
        self.key = stage.key
        self.partitions = stage.partitions
        self._stage = stage.id

    def slots(self, index: int) -> list[Slot]:
        return [Ref(self._stage, index)]


class ExchangeOutput(Output):
    """Partition i is member i of every producer's result."""

    def __init__(self, stage: Stage, partitions: Sequence[Partition]) -> None:
        self.key = stage.key
        self.partitions = partitions
        self.barriers = frozenset({stage.id})
        self._stage = stage

    def slots(self, index: int) -> list[Slot]:
        return [Ref(self._stage.id, task, index) for task in range(len(self._stage.partitions))]

    def needs(self, index: int) -> list[TaskId]:
        return []


class NestedOutput(Output):
    """Each task's result has `members` partitions of its own."""

    def __init__(self, stage: Stage, partitions: Sequence[Partition], members: int) -> None:
        self.key = stage.key
        self.partitions = partitions
        self._stage = stage.id
        self._members = members

    def slots(self, index: int) -> list[Slot]:
        task, member = divmod(index, self._members)
        return [Ref(self._stage, task, member)]


class GroupedOutput(Output):
    """Partitions of other outputs under new names: unions, consolidations, repetitions."""

    def __init__(
        self, key: str, partitions: Sequence[Partition], groups: Sequence[Sequence[tuple[Output, int]]]
    ) -> None:
        self.key = key
        self.partitions = partitions
        self.barriers = frozenset(stage for group in groups for output, _ in group for stage in output.barriers)
        self._groups = groups

    def slots(self, index: int) -> list[Slot]:
        return [slot for output, inner in self._groups[index] for slot in output.slots(inner)]

    def needs(self, index: int) -> list[TaskId]:
        return [task for output, inner in self._groups[index] for task in output.needs(inner)]


@dataclass(frozen=True)
class Binding:
    """One input of a stage: task i reads the partitions `indices[i]` of `output`, as one data set."""

    output: Output
    indices: Sequence[Sequence[int]]


StageKind = Literal["map", "exchange", "sink", "driver"]


@dataclass
class Stage:
    """Tasks of one node. `kind`: map gives a data set a task; exchange deals rows out; sink writes for the user and is
    never reused; driver is bookkeeping over descriptors that is done in the driver."""

    id: int
    key: str
    node: Node
    kind: StageKind
    partitions: Sequence[Partition]
    bindings: Sequence[Binding]
    request: Resources
    isolated: bool
    role: str = ""  # which of a node's stages, for nodes that have several

    @property
    def title(self) -> str:
        return f"{self.node}" + (f" [{self.role}]" if self.role else "")

    @property
    def size(self) -> int:
        return len(self.partitions)

    def needs(self, task: int) -> list[TaskId]:
        return [
            needed
            for binding in self.bindings
            for index in binding.indices[task]
            for needed in binding.output.needs(index)
        ]

    def barriers(self) -> frozenset[int]:
        return frozenset(stage for binding in self.bindings for stage in binding.output.barriers)

    def slots(self, task: int) -> list[list[Slot]]:
        """For every input, what the task reads."""
        return [
            [slot for index in binding.indices[task] for slot in binding.output.slots(index)]
            for binding in self.bindings
        ]


@dataclass
class PhysicalPlan:
    """Stages in an order in which every stage comes after those that it reads; and what is asked for."""

    stages: list[Stage]
    roots: list[Output]
    named: dict[str, Output] = field(default_factory=dict)
    stage_of_node: dict[int, int] = field(default_factory=dict)  # id(node) -> its (last) stage
