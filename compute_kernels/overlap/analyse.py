"""One trace, one device: who was busy when, what hid behind what, and what it cost.

`analyse` is what the command, the reports and users call. The rule: every total is of merged time, so nothing that
ran twice at once counts twice; and the parts of a total add up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from threefs.compute_kernels.overlap.attribution import layers_of, window_of
from threefs.compute_kernels.overlap.errors import TraceError
from threefs.compute_kernels.overlap.gaps import Gaps, find_gaps
from threefs.compute_kernels.overlap.intervals import (
    Set,
    clip,
    complement,
    intersect,
    shares,
    subtract,
    union,
)
from threefs.compute_kernels.overlap.rules import KINDS, Kind, Rule, classify, function_name
from threefs.compute_kernels.overlap.trace import UNKNOWN, Ints, Kernels, Trace

US = 1000.0  # reports speak microseconds


@dataclass(frozen=True)
class KernelRow:
    """All runs of one kernel name. Times in microseconds; `share` is of the sum over all kernels."""

    name: str
    kind: Kind
    label: str
    count: int
    total: float
    mean: float
    p50: float
    p99: float
    share: float


@dataclass(frozen=True)
class ClassRow:
    """Merged busy time of one kind, or of one label in it."""

    kind: Kind
    label: str
    count: int
    busy: float
    exposed: float  # of communication: no computation ran meanwhile
    sms: float | None  # time-weighted mean of the multiprocessors that its grids can fill


@dataclass(frozen=True)
class ExposedRow:
    """Communication that nothing hid, by kernel and layer. The rows' `exposed` add up to the device's."""

    name: str
    label: str
    layer: str
    count: int
    total: float
    exposed: float


@dataclass(frozen=True)
class StreamRow:
    stream: int
    count: int
    busy: float
    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Device:
    """Everything about one device in one window. Times in microseconds."""

    path: str
    rank: int | None
    device: int
    start: float  # of the window, on the trace's clock
    span: float
    busy: float  # anything at all
    compute: float
    communication: float
    memory: float
    overlap: float  # computation and communication at once
    exposed: float  # communication without computation
    num_sms: int | None
    streams: tuple[StreamRow, ...]
    classes: tuple[ClassRow, ...]
    kernels: tuple[KernelRow, ...]
    exposed_by: tuple[ExposedRow, ...]
    gaps: Gaps
    is_truncated: bool

    @property
    def hidden_share(self) -> float | None:
        """Share of communication time that computation hid; None without communication."""
        return self.overlap / self.communication if self.communication else None


@dataclass(frozen=True)
class Work:
    """The kernels of one device in the window, with what they are. Kept for what-if, timelines and bubbles."""

    trace: Trace
    kernels: Kernels
    kind: Ints  # index into KINDS
    rule_of_name: dict[int, Rule]
    label_of: tuple[Rule, ...]  # per kernel
    window: tuple[int, int]
    device: int

    def set_of(self, *kinds: Kind) -> Set:
        chosen = np.isin(self.kind, [KINDS.index(kind) for kind in kinds])
        merged = union(self.kernels.start[chosen], self.kernels.end[chosen])
        return clip(merged, *self.window)


def select(trace: Trace, *, device: int | None = None, window: str | None = None, rules: Sequence[Rule] = ()) -> Work:
    """One device's kernels inside the window of an annotation (or all of them), classified."""
    devices = np.unique(trace.kernels.device)
    if device is None:
        device = int(devices[0])
    if device not in devices:
        raise TraceError(f"{trace.path}: nothing ran on device {device}; it has {devices.tolist()}")
    kernels = trace.kernels.take(trace.kernels.device == device)
    bounds = window_of(trace, kernels, window)
    kernels = kernels.take((kernels.end > bounds[0]) & (kernels.start < bounds[1]))
    if not len(kernels):
        raise TraceError(f"{trace.path}: nothing ran on device {device} inside the window")
    rule_of_name = {int(n): classify(trace.names.texts[n], rules) for n in np.unique(kernels.name)}
    labels = [rule_of_name[int(number)] for number in kernels.name]
    _apply_annotations(trace, kernels, rules, labels)
    kind = np.array([KINDS.index(rule.kind) for rule in labels], dtype=np.int64)
    return Work(trace, kernels, kind, rule_of_name, tuple(labels), bounds, device)


def _apply_annotations(trace: Trace, kernels: Kernels, rules: Sequence[Rule], labels: list[Rule]) -> None:
    wanted = [rule for rule in rules if rule.on == "annotation"]
    if not wanted:
        return
    for rule in reversed(wanted):
        for index, text in enumerate(layers_of(trace, kernels, rule.pattern, strict=True)):
            if text:
                labels[index] = rule


def analyse(
    trace: Trace,
    *,
    device: int | None = None,
    window: str | None = None,
    rules: Sequence[Rule] = (),
    layer_pattern: str = r"(layer|block|stage)[._ ]?\d+",
) -> Device:
    """The whole report of one device. `window` is a pattern of an annotation whose spans bound the analysis."""
    return describe(select(trace, device=device, window=window, rules=rules), layer_pattern)


def describe(work: Work, layer_pattern: str) -> Device:
    begin, end = work.window
    compute, communication = work.set_of("compute"), work.set_of("communication")
    anything = work.set_of(*KINDS)
    exposed = subtract(communication, compute)
    num_sms = work.trace.sms(work.device)
    return Device(
        path=work.trace.path,
        rank=work.trace.rank,
        device=work.device,
        start=begin / US,
        span=(end - begin) / US,
        busy=anything.total / US,
        compute=compute.total / US,
        communication=communication.total / US,
        memory=work.set_of("memory").total / US,
        overlap=intersect(compute, communication).total / US,
        exposed=exposed.total / US,
        num_sms=num_sms,
        streams=_streams(work),
        classes=_classes(work, compute, num_sms),
        kernels=_kernel_table(work),
        exposed_by=_exposed_by(work, exposed, layer_pattern),
        gaps=find_gaps(work.trace, work.kernels, complement(anything, begin, end)),
        is_truncated=work.trace.is_truncated,
    )


def _streams(work: Work) -> tuple[StreamRow, ...]:
    rows = []
    for stream in np.unique(work.kernels.stream):
        mine = work.kernels.stream == stream
        busy = clip(union(work.kernels.start[mine], work.kernels.end[mine]), *work.window).total
        kinds = tuple(KINDS[number] for number in np.unique(work.kind[mine]))
        rows.append(StreamRow(int(stream), int(mine.sum()), busy / US, kinds))
    return tuple(sorted(rows, key=lambda row: -row.busy))


def _classes(work: Work, compute: Set, num_sms: int | None) -> tuple[ClassRow, ...]:
    kernels = work.kernels
    label = np.array([f"{rule.kind}\0{rule.label}" for rule in work.label_of])
    rows = []
    for name in np.unique(label):
        mine = label == name
        kind, text = str(name).split("\0")
        merged = clip(union(kernels.start[mine], kernels.end[mine]), *work.window)
        rows.append(
            ClassRow(
                kind=KINDS[KINDS.index(kind)],
                label=text,
                count=int(mine.sum()),
                busy=merged.total / US,
                exposed=subtract(merged, compute).total / US if kind == "communication" else 0.0,
                sms=_mean_sms(kernels.take(mine), num_sms),
            )
        )
    return tuple(sorted(rows, key=lambda row: (KINDS.index(row.kind), -row.busy)))


def _mean_sms(kernels: Kernels, num_sms: int | None) -> float | None:
    """A grid holds at most one multiprocessor a block, and no more than there are."""
    duration = kernels.end - kernels.start
    known = (kernels.blocks > 0) & (duration > 0)
    if num_sms is None or not known.any():
        return None
    held = np.minimum(kernels.blocks[known], num_sms)
    return float((held * duration[known]).sum() / duration[known].sum())


def _kernel_table(work: Work) -> tuple[KernelRow, ...]:
    duration = (work.kernels.end - work.kernels.start) / US
    whole = float(duration.sum()) or 1.0
    order = np.argsort(work.kernels.name, kind="stable")
    numbers, first = np.unique(work.kernels.name[order], return_index=True)
    rows = []
    for number, index in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
        mine = duration[index]
        rule = work.label_of[int(index[0])]
        rows.append(
            KernelRow(
                name=work.trace.names.texts[number],
                kind=rule.kind,
                label=rule.label,
                count=int(mine.size),
                total=float(mine.sum()),
                mean=float(mine.mean()),
                p50=float(np.percentile(mine, 50)),
                p99=float(np.percentile(mine, 99)),
                share=float(mine.sum()) / whole,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.total))


def _exposed_by(work: Work, exposed: Set, layer_pattern: str) -> tuple[ExposedRow, ...]:
    chosen = np.flatnonzero(work.kind == KINDS.index("communication"))
    kernels = work.kernels.take(chosen)
    begin, end = work.window
    bare = shares(np.clip(kernels.start, begin, end), np.clip(kernels.end, begin, end), exposed) / US
    layers = layers_of(work.trace, kernels, layer_pattern)
    sums: dict[tuple[str, str, str], list[float]] = {}
    texts = work.trace.names.texts
    for row, layer in enumerate(layers):
        name = function_name(texts[int(kernels.name[row])])
        if kernels.collective[row] != UNKNOWN:
            name = f"{name} ({texts[int(kernels.collective[row])]})"
        key = (name, work.label_of[int(chosen[row])].label, layer or "no annotation")
        total = sums.setdefault(key, [0, 0.0, 0.0])
        total[0] += 1
        total[1] += float(kernels.end[row] - kernels.start[row]) / US
        total[2] += float(bare[row])
    rows = [ExposedRow(*key, int(count), total, bare_time) for key, (count, total, bare_time) in sums.items()]
    return tuple(sorted(rows, key=lambda row: -row.exposed))
