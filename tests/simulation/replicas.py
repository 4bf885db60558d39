"""Are all replicas of every chain equal after healing? Looks at the disks themselves, not through the protocol."""

from __future__ import annotations

from tests.simulation.world import StorageProcess, World

from threefs.client.storage.channels import NOBODY, Ticket
from threefs.common.ids import TargetId
from threefs.storage.simulated_engine import Chunk

Summary = tuple[int | None, int, int, Ticket]


def violations(world: World) -> list[str]:
    """One sentence for each chunk that differs between two targets of a chain, or is left pending."""
    found = []
    for planned in world.plan:
        contents = {place.target: _content(world, place.target) for place in planned.places}
        (first, reference), *others = contents.items()
        found += [f"target {first} has chunk {chunk} pending" for chunk, state in reference.items() if state[0] is None]
        for target, content in others:
            for chunk in sorted(reference.keys() | content.keys()):
                mine, theirs = reference.get(chunk), content.get(chunk)
                if mine != theirs:
                    found.append(f"chunk {chunk} is {mine} on target {first}, {theirs} on target {target}")
    return found


def _content(world: World, target: TargetId) -> dict[str, Summary]:
    """(committed version, length, CRC32C, ticket) of every chunk; the version is None while an update is pending."""
    process = next(p for p in world.of_kind("storage") if target in world.targets_of(p.node))  # type: ignore[attr-defined]
    assert isinstance(process, StorageProcess)
    assert process.disk.engine is not None
    chunks: dict[object, Chunk] = process.disk.engine.chunks[target]
    return {str(chunk): _summary(state) for chunk, state in chunks.items()}


def _summary(chunk: Chunk) -> Summary:
    done = chunk.committed
    length, crc, ticket = (len(done.data), done.crc32c, done.ticket) if done else (0, 0, NOBODY)
    return (None if chunk.pending is not None else chunk.version, length, crc, ticket)
