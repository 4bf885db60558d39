"""One simulated run: faults first (safety), then a healed cluster (liveness), then the checkers.

    python -m tests.simulation.run --seed 17 [--trace] [--ablate chain-version] [--scenario "returning head"]

replays exactly what the test with this seed did, and exits 1 if a checker objects.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.simulation import acknowledged, linearisable, replicas, scenarios, stored_map
from tests.simulation.ablations import ABLATIONS, ablated
from tests.simulation.history import Register
from tests.simulation.nemesis import Nemesis
from tests.simulation.scenarios import SCENARIOS
from tests.simulation.workload import BLOCKS, CHUNK_INODE, Mixed
from tests.simulation.world import ClientProcess, Shape, World

from threefs.common.errors import Timeout

HEAL_S = 120.0  # a healed cluster is whole again, and answers everything, within this time


@dataclass
class Report:
    """What a run came to."""

    seed: int
    scenario: str = ""
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    healed_s: float = 0.0
    cpu_s: float = 0.0
    events: int = 0
    digest: str = ""
    trace: list[str] = field(default_factory=list)

    @property
    def replay(self) -> str:
        scenario = f" --scenario '{self.scenario}'" if self.scenario else ""
        return f"python -m tests.simulation.run --seed {self.seed}{scenario}"


ACKNOWLEDGED_A_SECOND = 3.5  # operations of all clients: a storm that lets fewer through proves little


def run_seed(
    seed: int,
    *,
    seconds: float = 300.0,
    think_s: float = 1.0,
    kinds: Sequence[str] = (),
    trace: bool = False,
    ablate: str = "",
) -> Report:
    """Runs one seed of the whole cluster; never raises for a violation: it is in `problems`."""
    world = World(seed, _shape(seed))
    work = Mixed(world, think_s=think_s)
    nemesis = Nemesis(world, kinds=kinds)
    report = Report(seed, faults=nemesis.counts)
    return _run(world, work, report, lambda: _storm(world, work, nemesis, seconds), trace=trace, ablate=ablate)


def run_scenario(name: str, seed: int, *, trace: bool = False, ablate: str = "") -> Report:
    """Runs one seed of a focused scenario, likewise."""
    scenario = SCENARIOS[name]
    world = World(f"{name}/{seed}", scenarios.shape(seed))
    work = Mixed(world, think_s=scenario.think_s, chunks=scenario.chunks, files=False, readers=2)
    report = Report(seed, scenario=name)
    return _run(world, work, report, lambda: scenarios.rage(world, scenario), trace=trace, ablate=ablate)


def _run(
    world: World, work: Mixed, report: Report, rage: Callable[[], Awaitable[None]], *, trace: bool, ablate: str
) -> Report:
    began = time.process_time()
    world.workload = work
    world.simulation.keep_trace = trace
    with ablated(ablate), _rare_collection():
        try:
            world.simulation.run(_main(world, work, report, rage))
        except AssertionError as exc:
            cause = traceback.format_exception(exc.__cause__) if exc.__cause__ is not None else []
            report.problems.insert(0, "\n".join([str(exc), *cause]))
    report.virtual_s = world.simulation.loop.time()
    report.events, report.digest = world.simulation.events, world.simulation.digest()
    report.trace = world.simulation.trace
    report.messages = world.network.counts
    report.counts.update(world.counts)
    report.counts.update(work.counts)
    report.cpu_s = time.process_time() - began
    return report


@contextmanager
def _rare_collection() -> Iterator[None]:
    """Looking for garbage every few hundred objects takes a tenth of the time of a run."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _shape(seed: int) -> Shape:
    """Swarm testing: what a cluster consists of varies with the seed."""
    return Shape(mgmtds=1 + seed % 2, metas=1 + seed // 2 % 2, attempt_timeout_s=(5.0, 1.0, 2.0)[seed % 3])


async def _main(world: World, work: Mixed, report: Report, rage: Callable[[], Awaitable[None]]) -> None:
    await world.bring_up()
    await rage()
    if world.simulation.failures:
        return  # a violation is known: what the rest would show does not count
    world.heal()
    healed_at = world.runtime.now()
    assert world.watcher is not None
    try:
        await world.watcher.wait_for(world.whole, HEAL_S)
    except Timeout as exc:
        report.problems.append(f"the healed cluster is not whole: {exc}; {_chains(world)}")
    report.healed_s = world.runtime.now() - healed_at
    await work.stop()
    if not report.problems and not world.whole(world.watcher.routing):
        report.problems.append(f"the healed cluster is not whole any more: {_chains(world)}")
    if not report.problems:
        await _judge(world, work, report)


async def _storm(world: World, work: Mixed, nemesis: Nemesis, seconds: float) -> None:
    await nemesis.rage(seconds)
    while not world.simulation.failures and _too_quiet(world, work, seconds):
        await nemesis.rage(seconds / 10)  # faults left little time for work


def _too_quiet(world: World, work: Mixed, seconds: float) -> bool:
    return work.counts["acknowledged"] < ACKNOWLEDGED_A_SECOND * seconds and world.runtime.now() < 2 * seconds


async def _judge(world: World, work: Mixed, report: Report) -> None:
    final: dict[Register, int] = {}
    reader = world.processes["client1"]
    assert isinstance(reader, ClientProcess)
    for chunk in range(work.chunks):
        values = await work.read(reader, chunk, 0, BLOCKS)
        if not values:
            report.problems.append(f"chunk {chunk} cannot be read after healing")
            return
        final.update({(CHUNK_INODE, chunk, block): value for block, value in enumerate(values)})
    for client in world.of_kind("client"):
        assert isinstance(client, ClientProcess)
        for name in sorted(work.files.get(client.name, {})):
            await work.get(client, work.files[client.name], name)
    await _settle_replicas(world, report)
    report.problems += await stored_map.violations(world)
    report.problems += linearisable.violations(work.history)
    report.problems += acknowledged.violations(work.history, final)


async def _settle_replicas(world: World, report: Report) -> None:
    """Replicas are equal once the last commits have travelled; garbage collection may still be at work."""
    found: list[str] = []
    for _ in range(30):
        found = replicas.violations(world)
        if not found:
            return
        await world.runtime.sleep(2.0)
    report.problems += found[:5]


def _chains(world: World) -> str:
    assert world.watcher is not None
    routing = world.watcher.routing
    return "; ".join(
        f"chain {chain.id} " + " ".join(f"{t}:{s.name}" for t, s in zip(chain.targets, chain.states, strict=True))
        for chain in routing.chains.values()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Replays one simulated run of a whole cluster.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scenario", choices=["", *SCENARIOS], default="", help="a focused one, not everything")
    parser.add_argument("--seconds", type=float, default=300.0, help="virtual seconds of faults")
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between a client's operations")
    parser.add_argument("--fault", action="append", default=[], help="only this kind of fault (repeatable)")
    parser.add_argument("--ablate", choices=["", *ABLATIONS], default="", help="switch a safeguard off")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--log", action="store_true", help="print what the daemons log")
    arguments = parser.parse_args()
    logging.disable(logging.NOTSET if arguments.log else logging.CRITICAL)
    if arguments.scenario:
        report = run_scenario(arguments.scenario, arguments.seed, trace=arguments.trace, ablate=arguments.ablate)
    else:
        report = run_seed(
            arguments.seed,
            seconds=arguments.seconds,
            think_s=arguments.think,
            kinds=arguments.fault,
            trace=arguments.trace,
            ablate=arguments.ablate,
        )
    for line in report.trace:
        print(line)
    print(f"seed {report.seed}: {report.virtual_s:.0f} virtual s, {report.cpu_s:.1f} CPU s, {report.events} events")
    print(f"  operations {dict(report.counts)}")
    print(f"  faults {dict(report.faults)}")
    print(f"  messages {dict(report.messages)}; healed after {report.healed_s:.1f} s")
    print(f"  digest {report.digest}")
    for problem in report.problems:
        print(f"VIOLATION {problem}", file=sys.stderr)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
