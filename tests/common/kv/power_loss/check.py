"""Replays a recording up to every event, loses what was not synced, and opens what is left.

`check.py LOG SCRATCH [INDEX]`: INDEX leaves out that sync, which must be found. Prints what it did; exit status 1 and
a sentence for a violation. It runs as a process of its own, because LMDB may well crash on a store that lost a sync.
"""

from __future__ import annotations

import asyncio
import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workload import MAP_BYTES, STEPS, violation

from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.runtime.real import RealRuntime

SECTOR_BYTES = 512
_HEADER = struct.Struct("<cQI")


@dataclass(frozen=True)
class Event:
    kind: str
    offset: int
    data: bytes


def read_log(path: Path) -> list[Event]:
    raw, at, events = path.read_bytes(), 0, []
    while at < len(raw):
        kind, offset, size = _HEADER.unpack_from(raw, at)
        at += _HEADER.size + size
        events.append(Event(kind.decode(), offset, raw[at - size : at]))
    return events


def write(image: bytearray, offset: int, data: bytes) -> None:
    image.extend(bytes(max(offset + len(data) - len(image), 0)))
    image[offset : offset + len(data)] = data


def crashes(events: list[Event], left_out: int) -> Iterator[tuple[int, int, str, bytearray]]:
    """After each event: its index, the steps acknowledged by then, and each image that the disk may hold."""
    durable, pending, acknowledged = bytearray(), list[Event](), -1
    for index, event in enumerate(events):
        assert event.kind in "wdsm", f"the store did what this check does not model: {event.kind}"
        if event.kind == "w":
            pending.append(event)
        elif event.kind == "d":
            write(durable, event.offset, event.data)
        elif event.kind == "m":
            acknowledged = int(event.data)
        elif index != left_out:
            for each in pending:
                write(durable, each.offset, each.data)
            pending.clear()
        # Before the first mark the new store is not in its place yet; before `left_out` all is as if nothing were.
        if acknowledged >= 0 and index >= left_out:
            yield index, acknowledged, "lost", durable
            if pending and event.kind != "m":
                yield index, acknowledged, "kept", apply(durable, pending, random.Random(index), 1.0)
                yield index, acknowledged, "torn", apply(durable, pending, random.Random(index), 0.5)


def apply(durable: bytearray, pending: list[Event], dice: random.Random, share: float) -> bytearray:
    """The image with each sector of the writes that were not synced kept with probability `share`."""
    image = bytearray(durable)
    for event in pending:
        for at in range(0, len(event.data), SECTOR_BYTES):
            if dice.random() < share:
                write(image, event.offset + at, event.data[at : at + SECTOR_BYTES])
    return image


async def recover(image: bytearray, folder: Path, acknowledged: int, *, go_on: bool) -> str:
    """Opens the image as a store, compares it with the model, and (`go_on`) commits once more."""
    (folder / "data.mdb").write_bytes(image)
    engine = await EmbeddedEngine.open(RealRuntime(), folder, MAP_BYTES)
    try:
        reader = engine.begin()
        wrong = violation(dict(await reader.get_range(b"\x00", b"\xff")), acknowledged)
        if not wrong and go_on:
            writer = engine.begin()
            writer.set(b"after", b"1")
            await writer.commit()
        return wrong
    finally:
        await engine.close()


async def main(log: Path, scratch: Path, left_out: int) -> int:
    events = read_log(log)
    images = 0
    for index, acknowledged, what, image in crashes(events, left_out):
        images += 1
        wrong = await recover(image, scratch, acknowledged, go_on=images % 16 == 0)
        if wrong:
            print(f"power lost after event {index} of {len(events)}, unsynced writes {what}: {wrong}")
            return 1
    assert acknowledged == STEPS
    print(f"{len(events)} events, {images} images")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or [-1])[0]))))
