"""Small clusters struck where one safeguard stands: the faults are placed on purpose, their timing comes from the seed.

A whole cluster under every fault (`nemesis`) meets these moments now and then; here each run meets them many times, on
one chain and a few chunks that all clients use. With every safeguard in place a scenario is one more search for bugs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import permutations
from random import Random

from tests.simulation.world import ClientProcess, Process, Shape, StorageProcess, World


@dataclass(frozen=True)
class Scenario:
    strike: Callable[[World, Random], Awaitable[None]]
    think_s: float  # mean time between two operations of one loop of a client
    rounds: int
    chunks: int  # few: everybody meets; more: some have nothing pending


async def slow_way_back(world: World, random: Random) -> None:
    """The tail has committed, readers have seen it there, and those before it do not know yet: their answers to
    readers would be a step back. Sometimes one of them is powered off in the middle."""
    links = list(permutations([process.name for process in world.of_kind("storage")], 2))
    for source, target in links:
        world.network.slow_down(source, target, random.uniform(0.05, 0.5))
    await asyncio.sleep(random.uniform(1.0, 3.0))
    if random.random() < 0.3:
        victim = random.choice(world.of_kind("storage"))
        victim.crash()
        await asyncio.sleep(random.uniform(0.1, 1.0))
        victim.start()
    for source, target in links:
        world.network.slow_down(source, target, 0)


async def forgotten_daemon(world: World, random: Random) -> None:
    """A daemon that nobody but one client reaches, while that client hears as little of the new chain as it does."""
    victim, client = random.choice(world.of_kind("storage")), random.choice(world.of_kind("client"))
    away_s = random.uniform(2.5, 8.0)  # declared dead after 3 s
    await asyncio.gather(
        _cut_off(world, victim, client, away_s), _hide_map(world, client, away_s + random.uniform(-0.5, 1.0))
    )


async def returning_head(world: World, random: Random) -> None:
    """A head is cut off with an update under way, the chain goes on without it, and it comes back at the chain's end
    while the update's sender still goes by the old map: it must not answer for what the chain has never seen."""
    victim, client = _head(world), random.choice(world.of_kind("client"))
    away_s = random.uniform(2.5, 4.5)
    await asyncio.gather(
        _cut_off(world, victim, client, away_s), _hide_map(world, client, away_s + random.uniform(0.5, 3.0))
    )


async def late_frames(world: World, random: Random) -> None:
    """What an old head sent on arrives after the chain has changed, and heartbeats arrive when others have overtaken
    them; targets come and go meanwhile."""
    victim = random.choice(world.of_kind("storage"))
    others = [process.name for process in [*world.of_kind("storage"), *world.of_kind("mgmtd")] if process is not victim]
    for other in others:
        world.network.slow_down(victim.name, other, random.uniform(0.5, 5.0))
    await asyncio.sleep(random.uniform(0.5, 3.0))
    if random.random() < 0.5:
        victim.crash()
        await asyncio.sleep(random.uniform(0.05, 2.5))
        victim.start()
    await asyncio.sleep(random.uniform(0.5, 4.0))
    for other in others:
        world.network.slow_down(victim.name, other, 0)


SCENARIOS = {
    "slow way back": Scenario(slow_way_back, think_s=0.05, rounds=3, chunks=1),
    "forgotten daemon": Scenario(forgotten_daemon, think_s=0.05, rounds=3, chunks=4),
    "returning head": Scenario(returning_head, think_s=0.1, rounds=4, chunks=2),
    "late frames": Scenario(late_frames, think_s=0.1, rounds=3, chunks=2),
}


def shape(seed: int) -> Shape:
    """One chain, no files."""
    return Shape(mgmtds=1, metas=0, chains=1, attempt_timeout_s=(5.0, 1.0, 2.0)[seed % 3])


async def rage(world: World, scenario: Scenario) -> None:
    """All rounds; between two the cluster has time to become whole, not always enough."""
    random = world.simulation.random
    for _ in range(scenario.rounds):
        await asyncio.sleep(random.uniform(0.5, 2.0))
        await scenario.strike(world, random)
        await asyncio.sleep(random.uniform(0.5, 3.0))


def _head(world: World) -> Process:
    assert world.watcher is not None
    chain = world.watcher.routing.chains[world.chains[0]]
    return next(
        process
        for process in world.of_kind("storage")
        if isinstance(process, StorageProcess) and chain.targets[0] in world.targets_of(process.node)
    )


async def _cut_off(world: World, victim: Process, client: Process, seconds: float) -> None:
    """Nobody but the client reaches the victim."""
    others = [name for name in world.processes if name not in (victim.name, client.name)]
    for other in others:
        world.network.cut(victim.name, other)
    await asyncio.sleep(seconds)
    for other in others:
        world.network.mend(victim.name, other)


async def _hide_map(world: World, client: Process, seconds: float) -> None:
    """The client keeps the map that it has."""
    assert isinstance(client, ClientProcess)
    for mgmtd in world.of_kind("mgmtd"):
        world.network.cut(client.name, mgmtd.name)
    await asyncio.sleep(seconds)
    for mgmtd in world.of_kind("mgmtd"):
        world.network.mend(client.name, mgmtd.name)
