"""The workload whose writes are recorded, and what a store must hold after any part of it.

Run as a script (under the recorder) it writes a store. The check imports it for the model.
Steps are numbered; an even step is one transaction, an odd one three that commit together.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from functools import cache
from pathlib import Path

from threefs.common.kv.embedded import EmbeddedEngine
from threefs.common.kv.interface import Transaction
from threefs.common.runtime.real import RealRuntime

STEPS = 40
MAP_BYTES = 1 << 26


@cache
def plan(step: int) -> list[list[tuple[bytes, bytes | None]]]:
    """The writes of each transaction of a step (None: clear), the same in every process."""
    dice = random.Random(step)
    if step % 2:
        return [[(b"g/%03d/%d/%s" % (step, i, half), b"%d" % step) for half in (b"a", b"b")] for i in range(3)]
    writes: list[tuple[bytes, bytes | None]] = [(b"step", b"%d" % step)]
    for _ in range(dice.randrange(1, 12)):
        value = None if dice.random() < 0.3 else dice.randbytes(dice.choice([10, 300, 3000, 9000]))
        writes.append((b"s/%02d" % dice.randrange(40), value))
    return [writes]


async def run(folder: Path) -> None:
    engine = await EmbeddedEngine.open(RealRuntime(), folder, MAP_BYTES)
    marks = os.open(folder / "marks", os.O_WRONLY | os.O_CREAT)
    os.write(marks, b"0")
    for step in range(1, STEPS + 1):

        async def one(writes: list[tuple[bytes, bytes | None]]) -> None:
            async def body(txn: Transaction) -> None:
                for key, value in writes:
                    txn.clear(key) if value is None else txn.set(key, value)

            await engine.transact(body)

        await asyncio.gather(*(one(writes) for writes in plan(step)))
        os.write(marks, b"%d" % step)  # acknowledged
    await engine.close()


def violation(found: dict[bytes, bytes], acknowledged: int) -> str:
    """What is wrong with a recovered store that had acknowledged that many steps; empty if nothing is."""
    expected: dict[bytes, bytes] = {}
    reached = int(found.get(b"step", b"0"))
    if reached < acknowledged - acknowledged % 2:
        return f"step {acknowledged} was acknowledged, the store is at {reached}"
    for step in range(2, reached + 1, 2):
        for key, value in plan(step)[0]:
            expected.pop(key, None) if value is None else expected.update({key: value})
    groups = {key: value for key, value in found.items() if key.startswith(b"g/")}
    for step in range(1, STEPS + 1, 2):
        for writes in plan(step):
            present = [groups.pop(key, None) == value for key, value in writes]
            must = step <= max(acknowledged, reached)
            may = step <= reached + 1
            if len(set(present)) > 1 or (must and not present[0]) or (present[0] and not may):
                return f"step {step} of {reached} (acknowledged {acknowledged}): {writes[0][0]!r} is {present}"
    serial = {key: value for key, value in found.items() if not key.startswith(b"g/")}
    if serial != expected or groups:
        wrong = sorted(key for key in serial.keys() | expected.keys() if serial.get(key) != expected.get(key))
        return f"at step {reached}, acknowledged {acknowledged}: wrong are {wrong or list(groups)}"
    return ""


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
