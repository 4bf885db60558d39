"""A trace in memory: what ran on the GPUs, who launched it, and the annotations around it, as columns.

Made by `load_trace`, read by all analyses. The rule: times are whole nanoseconds since `base_ns`, and only what an
analysis reads is kept: of a 500 MB trace some tens of megabytes.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from threefs.compute_kernels.overlap.errors import TraceError
from threefs.compute_kernels.overlap.reader import EventReader

Ints = npt.NDArray[np.int64]

GPU_CATEGORIES = frozenset({"kernel", "gpu_memcpy", "gpu_memset", "memcpy", "memset"})
LAUNCH_CATEGORIES = frozenset({"cuda_runtime", "cuda_driver", "runtime", "driver"})
UNKNOWN = -1


class Event(msgspec.Struct, gc=False):
    """The fields of a Chrome trace event that are read; `args` stays undecoded unless it is needed."""

    ph: str = ""
    cat: str = ""
    name: str = ""
    pid: Any = None
    tid: Any = None
    ts: float = 0.0
    dur: float = 0.0
    args: msgspec.Raw = msgspec.Raw(b"")


class KernelArgs(msgspec.Struct, gc=False):
    """What the profiler writes about one kernel or copy."""

    device: int = 0
    stream: int = UNKNOWN
    correlation: int = UNKNOWN
    grid: list[int] = []
    collective: str = msgspec.field(name="Collective name", default="")


@dataclass
class Names:
    """Strings by number."""

    texts: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found


@dataclass(frozen=True)
class Kernels:
    """One row each for what ran on a GPU, in order of start."""

    start: Ints
    end: Ints
    device: Ints
    stream: Ints
    name: Ints  # number in `names`
    correlation: Ints  # UNKNOWN if not recorded
    blocks: Ints  # of the grid; 0 for copies
    collective: Ints  # number in `names` of NCCL's collective; UNKNOWN if none

    def __len__(self) -> int:
        return int(self.start.size)

    def take(self, rows: npt.NDArray[Any]) -> Kernels:
        return Kernels(*(getattr(self, column)[rows] for column in self.__dataclass_fields__))


@dataclass(frozen=True)
class Spans:
    """Annotations or launches: named spans of time on tracks (threads, or GPU streams)."""

    start: Ints
    end: Ints
    track: Ints
    name: Ints  # or, for launches, their correlation

    def __len__(self) -> int:
        return int(self.start.size)


@dataclass(frozen=True)
class Trace:
    path: str
    names: Names
    kernels: Kernels
    launches: Spans  # `name` is the correlation
    annotations: Spans  # on the CPU; tracks are threads
    gpu_annotations: Spans  # tracks are device * 2**32 + stream
    base_ns: int  # of the trace's clock: its zero on the host's clock if the file says, else 0
    metadata: dict[str, Any]
    num_events: int
    is_truncated: bool

    @property
    def rank(self) -> int | None:
        info = self.metadata.get("distributedInfo")
        rank = info.get("rank") if isinstance(info, dict) else None
        return rank if isinstance(rank, int) else None

    def sms(self, device: int) -> int | None:
        """Streaming multiprocessors of a device, if the file says."""
        for properties in self.metadata.get("deviceProperties") or []:
            if properties.get("id") == device and properties.get("numSms"):
                return int(properties["numSms"])
        return None


class _Columns:
    """Rows of whole numbers while reading, arrays in the end."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._cells = array("q")

    def append(self, *row: int) -> None:
        self._cells.extend(row)

    def columns(self) -> list[Ints]:
        """In order of the first column."""
        table = np.frombuffer(self._cells, dtype=np.int64).reshape(-1, self.width)
        order = np.argsort(table[:, 0], kind="stable")
        return [np.ascontiguousarray(table[order, column]) for column in range(self.width)]


class _Builder:
    def __init__(self) -> None:
        self.names = Names()
        self.threads: dict[tuple[Any, Any], int] = {}
        self.kernels = _Columns(8)
        self.launches = _Columns(4)
        self.annotations = _Columns(4)
        self.gpu_annotations = _Columns(4)
        self.num_events = 0
        self._args = msgspec.json.Decoder(KernelArgs, strict=False)

    def add(self, events: list[Event]) -> None:
        self.num_events += len(events)
        for event in events:
            if event.ph != "X":
                continue
            category = event.cat.lower()
            if category in GPU_CATEGORIES:
                self._add_kernel(event)
            elif category in LAUNCH_CATEGORIES:
                args = self._args_of(event)
                if args.correlation != UNKNOWN:
                    self.launches.append(*_span(event), self._thread(event), args.correlation)
            elif category == "user_annotation":
                self.annotations.append(*_span(event), self._thread(event), self.names.number(event.name))
            elif category == "gpu_user_annotation":
                args = self._args_of(event)
                device, stream = _whole(event.pid, args.device), _whole(event.tid, args.stream)
                self.gpu_annotations.append(*_span(event), device << 32 | stream, self.names.number(event.name))

    def _add_kernel(self, event: Event) -> None:
        args = self._args_of(event)
        blocks = 0
        if len(args.grid) == 3:
            blocks = args.grid[0] * args.grid[1] * args.grid[2]
        stream = args.stream if args.stream != UNKNOWN else _whole(event.tid, 0)
        collective = self.names.number(args.collective) if args.collective else UNKNOWN
        number = self.names.number(event.name)
        self.kernels.append(*_span(event), args.device, stream, number, args.correlation, blocks, collective)

    def _args_of(self, event: Event) -> KernelArgs:
        raw = bytes(event.args)
        if not raw:
            return KernelArgs()
        try:
            return self._args.decode(raw)
        except msgspec.ValidationError:
            return KernelArgs()  # written by another tool; times and names still count

    def _thread(self, event: Event) -> int:
        return self.threads.setdefault((event.pid, event.tid), len(self.threads))


def _span(event: Event) -> tuple[int, int]:
    start = round(event.ts * 1000)
    return start, start + round(event.dur * 1000)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def load_trace(path: Path | str) -> Trace:
    """Read a Chrome trace, plain or gzipped, of any size. Raises `TraceError`."""
    reader = EventReader(Path(path))
    decoder = msgspec.json.Decoder(list[Event], strict=False)
    builder = _Builder()
    for batch in reader:
        try:
            builder.add(decoder.decode(batch))
        except msgspec.MsgspecError as exc:
            raise TraceError(f"{path}: after {builder.num_events} events: {exc}") from exc
    try:
        metadata = msgspec.json.decode(reader.metadata_json)
    except msgspec.MsgspecError:
        metadata = {}
    metadata = metadata if isinstance(metadata, dict) else {}
    kernels = Kernels(*builder.kernels.columns())
    if not len(kernels):
        raise TraceError(
            f"{path}: {builder.num_events} events but none ran on a GPU; record with ProfilerActivity.CUDA"
        )
    return Trace(
        path=str(path),
        names=builder.names,
        kernels=kernels,
        launches=Spans(*builder.launches.columns()),
        annotations=Spans(*builder.annotations.columns()),
        gpu_annotations=Spans(*builder.gpu_annotations.columns()),
        base_ns=_whole(metadata.get("baseTimeNanoseconds"), 0),
        metadata=metadata,
        num_events=builder.num_events,
        is_truncated=reader.is_truncated,
    )
